//! candle's AdamW on the CPU, because candle has no Lion.

use candle_core::backprop::GradStore;
use candle_core::{Device, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use lion_peers::{BETA_1, BETA_2, Failure, LEARNING_RATE, Peer, serve};

fn main() -> Result<(), Failure> {
    serve::<Candle>()
}

struct Candle {
    optimizer: AdamW,
    parameter: Var,
    gradients: GradStore,
}

fn tensor(values: Vec<f32>) -> Result<Tensor, Failure> {
    let len = values.len();
    Ok(Tensor::from_vec(values, len, &Device::Cpu)?)
}

impl Peer for Candle {
    const EXPECTED: fn(f32, f32, f32) -> f32 = lion_peers::adamw;

    fn new(parameter: Vec<f32>, gradient: Vec<f32>) -> Result<Self, Failure> {
        let parameter = Var::from_tensor(&tensor(parameter)?)?;
        let params =
            ParamsAdamW { lr: LEARNING_RATE, beta1: BETA_1, beta2: BETA_2, eps: 1e-8, weight_decay: 0.0 };
        let optimizer = AdamW::new(vec![parameter.clone()], params)?;
        // Only a backward pass creates a `GradStore`. Its gradient is replaced below.
        let gradients = parameter.sum_all()?.backward()?;
        let mut candle = Candle { optimizer, parameter, gradients };
        candle.set_gradient(gradient)?;
        Ok(candle)
    }

    fn set_gradient(&mut self, gradient: Vec<f32>) -> Result<(), Failure> {
        self.gradients.insert(&self.parameter, tensor(gradient)?);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        Ok(self.optimizer.step(&self.gradients)?)
    }

    fn parameter(&self) -> Result<Vec<f32>, Failure> {
        Ok(self.parameter.to_vec1()?)
    }
}
