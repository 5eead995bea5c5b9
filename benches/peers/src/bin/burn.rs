//! burn's Lion on its CPU backend, flex.

use burn_core::tensor::{Device, Tensor, TensorData};
use burn_optim::{Lion, LionConfig, LionState, Optimizer};
use lion_peers::{BETA_1, BETA_2, Failure, LEARNING_RATE, Peer, serve};

fn main() -> Result<(), Failure> {
    serve::<Burn>()
}

struct Burn {
    optimizer: Lion,
    gradient: Tensor<1>,
    /// Each step takes and returns the parameter by value, so burn can reuse the memory.
    parameter: Option<Tensor<1>>,
    state: Option<LionState<1>>,
}

fn tensor(values: Vec<f32>) -> Tensor<1> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), &Device::flex())
}

impl Peer for Burn {
    const EXPECTED: fn(f32, f32, f32) -> f32 = lion_peers::lion;

    fn new(parameter: Vec<f32>, gradient: Vec<f32>) -> Result<Self, Failure> {
        Ok(Burn {
            optimizer: LionConfig::new().with_beta_1(BETA_1 as f32).with_beta_2(BETA_2 as f32).build(),
            gradient: tensor(gradient),
            parameter: Some(tensor(parameter)),
            state: None,
        })
    }

    fn set_gradient(&mut self, gradient: Vec<f32>) -> Result<(), Failure> {
        self.gradient = tensor(gradient);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        let parameter = self.parameter.take().ok_or("the parameter was lost")?;
        let (parameter, state) =
            self.optimizer.step(LEARNING_RATE, parameter, self.gradient.clone(), self.state.take());
        self.parameter = Some(parameter);
        self.state = state;
        Ok(())
    }

    fn parameter(&self) -> Result<Vec<f32>, Failure> {
        let parameter = self.parameter.as_ref().ok_or("the parameter was lost")?;
        parameter.to_data().try_to_vec().map_err(|failure| format!("{failure:?}").into())
    }
}
