//! A small convolutional network, its training data, and access to its parameters.

use burn::module::{Module, ModuleVisitor, Param};
use burn::nn::conv::{Conv2d, Conv2dConfig};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Int, Tensor, TensorData, activation::relu};
use burn::train::{ClassificationOutput, InferenceStep, TrainOutput, TrainStep};

#[derive(Module, Debug)]
pub(crate) struct Network {
    convolution: Conv2d,
    output: Linear,
}

/// Images and their labels.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    images: Tensor<4>,
    labels: Tensor<1, Int>,
}

pub(crate) fn device() -> Device {
    Device::flex().autodiff()
}

/// Returns values of both signs, different in each step.
pub(crate) fn values(step: usize, len: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 37 + step * 101 + 11) % 97) as f32 / 48.5 - 1.0).collect()
}

pub(crate) fn batch(step: usize) -> Batch {
    let images = TensorData::new(values(step, 2 * 64), [2, 1, 8, 8]);
    let labels = TensorData::new(vec![(step % 3) as i64, (step % 2) as i64], [2]);
    Batch { images: Tensor::from_data(images, &device()), labels: Tensor::from_data(labels, &device()) }
}

impl Network {
    pub(crate) fn new() -> Self {
        let convolution =
            Conv2dConfig::new([1, 4], [3, 3]).with_padding(PaddingConfig2d::Explicit(1, 1, 1, 1));
        Network {
            convolution: convolution.init(&device()),
            output: LinearConfig::new(4 * 64, 3).init(&device()),
        }
    }

    fn forward(&self, Batch { images, labels }: Batch) -> ClassificationOutput {
        let hidden = relu(self.convolution.forward(images));
        let output = self.output.forward(hidden.flatten::<2>(1, 3));
        let loss = CrossEntropyLossConfig::new().init(&device()).forward(output.clone(), labels.clone());
        ClassificationOutput { loss, output, targets: labels }
    }

    pub(crate) fn gradients(&self, step: usize) -> GradientsParams {
        GradientsParams::from_grads(self.forward(batch(step)).loss.backward(), self)
    }
}

impl TrainStep for Network {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> TrainOutput<ClassificationOutput> {
        let found = self.forward(batch);
        TrainOutput::new(self, found.loss.backward(), found)
    }
}

impl InferenceStep for Network {
    type Input = Batch;
    type Output = ClassificationOutput;

    fn step(&self, batch: Batch) -> ClassificationOutput {
        self.forward(batch)
    }
}

/// A parameter or its gradient.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Found {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) values: Vec<f32>,
}

/// Returns the module's parameters, or those of its gradients that are in `gradients`.
pub(crate) fn look<M: Module>(module: &M, gradients: Option<&GradientsParams>) -> Vec<Found> {
    let mut looking = Looking { gradients, place: 0, found: Vec::new() };
    module.visit(&mut looking);
    looking.found
}

struct Looking<'a> {
    gradients: Option<&'a GradientsParams>,
    place: usize,
    found: Vec<Found>,
}

impl ModuleVisitor for Looking<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = match self.gradients {
            Some(gradients) => gradients.get::<D>(param.id),
            None => Some(param.val()),
        };
        self.place += 1;
        let Some(tensor) = tensor else { return };
        self.found.push(Found {
            // Named in the module's order, which is the order in which a joint norm is summed.
            name: format!("{:02}", self.place),
            shape: tensor.dims().into(),
            values: tensor.try_into_vec_as().expect("values"),
        });
    }
}
