//! The step against burn's own Lion and the slice API: `cargo bench -p lion-burn --bench step [-- SECONDS
//! [MOST-ELEMENTS]]`. The columns "idle" are burn's walk through the module with an optimizer that does nothing.

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, LearningRate, LionState, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use lion_burn::LionConfig;
use lion_testing::speed::{LEARNING_RATE, Size, Step, ordinary, table};

#[derive(Module, Debug)]
struct Parameters {
    tensors: Vec<Param<Tensor<1>>>,
}

/// Gives everything back as it is.
#[derive(Clone, Debug)]
struct Idle;

impl Optimizer for Idle {
    type State<const D: usize> = LionState<D>;

    fn step<const D: usize>(
        &self,
        _: LearningRate,
        tensor: Tensor<D>,
        grad: Tensor<D>,
        state: Option<LionState<D>>,
    ) -> (Tensor<D>, Option<LionState<D>>) {
        (tensor, Some(state.unwrap_or_else(|| LionState::new(grad))))
    }

    fn to_device<const D: usize>(state: LionState<D>, _: &Device) -> LionState<D> {
        state
    }
}

struct Models {
    /// Taken for the time of a step, so that nothing shares it.
    model: Option<Parameters>,
    gradients: Vec<Tensor<1>>,
    adapter: ModuleOptimizer,
    stock: ModuleOptimizer,
    idle: ModuleOptimizer,
}

impl Models {
    fn new(size: Size) -> Self {
        let tensor = |values, device| Tensor::from_data(TensorData::new(values, [size.elements]), device);
        let (device, (parameter, gradient)) = (Device::flex(), ordinary(size.elements));
        // burn's optimizer takes parameters that it could have the gradients of.
        let with_gradients = device.clone().autodiff();
        let parameter = |_| Param::from_tensor(tensor(parameter.clone(), &with_gradients));
        Models {
            model: Some(Parameters { tensors: (0..size.tensors).map(parameter).collect() }),
            gradients: (0..size.tensors).map(|_| tensor(gradient.clone(), &device)).collect(),
            adapter: LionConfig::new().init(),
            stock: burn::optim::LionConfig::new().init(),
            idle: ModuleOptimizer::from(Idle),
        }
    }

    /// What both optimizers are given: the gradients are registered in either's time.
    fn step(&mut self, optimizer: impl Fn(&mut Self) -> &mut ModuleOptimizer) {
        let Some(model) = self.model.take() else { return };
        let mut gradients = GradientsParams::new();
        for (param, gradient) in model.tensors.iter().zip(&self.gradients) {
            gradients.register(param.id, gradient.clone());
        }
        self.model = Some(optimizer(self).step(LEARNING_RATE, model, gradients));
    }
}

impl Step for Models {
    fn adapter(&mut self) {
        self.step(|models| &mut models.adapter);
    }

    fn stock(&mut self) -> bool {
        self.step(|models| &mut models.stock);
        true
    }

    fn idle(&mut self) -> bool {
        self.step(|models| &mut models.idle);
        true
    }
}

fn main() {
    table("burn's Lion", Models::new);
}
