//! Benchmark of the step against burn's own Lion and the slice API: `cargo bench -p lion-burn --bench step [-- SECONDS
//! [MOST-ELEMENTS]]`. The columns "idle" measure burn's traversal of the module with an optimizer that does nothing.

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, LearningRate, LionState, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, Tensor, TensorData};
use lion_burn::LionConfig;
use lion_testing::speed::{LEARNING_RATE, Size, Step, ordinary, table};

#[derive(Module, Debug)]
struct Parameters {
    tensors: Vec<Param<Tensor<1>>>,
}

/// An optimizer that returns everything unchanged.
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
    /// Taken during a step, so that nothing shares the model.
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
        // burn's optimizer expects parameters on an autodiff device.
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

    /// Runs one step of an optimizer. The time to register the gradients counts for both optimizers.
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
