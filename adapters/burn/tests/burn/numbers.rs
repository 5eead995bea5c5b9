//! Tests that the bits equal a replay of burn's gradients, and burn's own Lion if both round alike.

use burn::module::Module;
use burn::optim::{LearningRate, Optimizer};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use half::{bf16, f16};
use lion::{Lion, TensorRef};
use lion_burn::LionConfig;
use lion_testing::recording::{Recorder, bits};

use crate::network::{Network, look, values};

const STEPS: usize = 100;
const RATE: LearningRate = 0.001;

/// The recording stores f32, whatever the dtype of the gradients, so the replay reads the same numbers.
#[test]
fn a_convolutional_network() {
    for clip in [None, Some(0.5)] {
        let mut recorder = Recorder::default();
        let mut model = Network::new();
        let mut optimizer = LionConfig::new().with_weight_decay(0.1).init();
        for found in look(&model, None) {
            recorder.parameter(&found.name, &found.shape, &found.values);
        }
        for step in 0..STEPS {
            let mut gradients = model.gradients(step);
            for found in look(&model, Some(&gradients)) {
                recorder.gradient(step, &found.name, &found.shape, &found.values);
            }
            if let Some(limit) = clip {
                gradients = lion_burn::clip_global_norm(&model, gradients, limit).expect("valid").gradients;
            }
            model = optimizer.step(RATE, model, gradients);
        }
        let builder = Lion::builder().learning_rate(RATE).weight_decay(f64::from(0.1_f32));
        let expected = recorder.replay(match clip {
            Some(limit) => builder.global_clipnorm(limit),
            None => builder,
        });
        let found = look(&model, None);
        assert_eq!(found.len(), 4);
        assert_eq!(model.num_params(), 4 * 9 + 4 + 4 * 64 * 3 + 3);
        for (found, (name, expected)) in found.iter().zip(&expected) {
            assert_eq!(&found.name, name);
            assert_eq!(bits((&found.values).into()), bits(expected.to_ref()), "{name}, clipped to {clip:?}");
        }
    }
}

/// Returns a tensor, and a copy of its elements for the recording.
fn narrow(values: &[f32], dtype: FloatDType) -> (Tensor<1>, lion::TensorBuf) {
    let tensor = Tensor::<1>::from_data(TensorData::new(values.to_vec(), [values.len()]), &Device::flex());
    let copy = match dtype {
        FloatDType::F16 => {
            let narrow: Vec<_> = values.iter().copied().map(f16::from_f32).collect();
            lion_testing::recording::owned(TensorRef::from(&narrow))
        }
        FloatDType::BF16 => {
            let narrow: Vec<_> = values.iter().copied().map(bf16::from_f32).collect();
            lion_testing::recording::owned(TensorRef::from(&narrow))
        }
        _ => lion_testing::recording::owned(TensorRef::from(values)),
    };
    (tensor.cast(dtype), copy)
}

#[test]
fn every_mixture_of_formats() {
    let formats = [FloatDType::F32, FloatDType::F16, FloatDType::BF16];
    for (of_parameter, of_gradient) in formats.iter().flat_map(|a| formats.iter().map(move |b| (*a, *b))) {
        let optimizer = LionConfig::new().with_weight_decay(0.5).build();
        let mut recorder = Recorder::default();
        let (mut tensor, copy) = narrow(&values(0, 50), of_parameter);
        recorder.parameter("p", &[50], copy.to_ref());
        let mut state = None;
        for step in 0..STEPS {
            let (gradient, copy) = narrow(&values(step + 1, 50), of_gradient);
            recorder.gradient(step, "p", &[50], copy.to_ref());
            (tensor, state) = optimizer.step(0.01, tensor, gradient, state);
        }
        let (_, expected) = &recorder.replay(Lion::builder().learning_rate(0.01).weight_decay(0.5))[0];
        assert_eq!(tensor.dtype(), of_parameter.into());
        let found: Vec<f32> = tensor.try_into_vec_as().expect("values");
        let (_, found) = narrow(&found, of_parameter);
        assert_eq!(bits(found.to_ref()), bits(expected.to_ref()), "{of_parameter:?}, {of_gradient:?}");
    }
}

/// Runs 100 steps of both optimizers on the same gradients from the same start. Asserts that the momenta have the same
/// bits.
fn beside_burns(weight_decay: f32) -> (Vec<f32>, Vec<f32>) {
    let ours = LionConfig::new().with_weight_decay(weight_decay).build();
    let theirs = burn::optim::LionConfig::new().with_weight_decay(weight_decay).build();
    let start = || narrow(&values(0, 1000), FloatDType::F32).0;
    let ((mut a, mut of_a), (mut b, mut of_b)) = ((start(), None), (start(), None));
    for step in 0..STEPS {
        let gradient = narrow(&values(step + 1, 1000), FloatDType::F32).0;
        (a, of_a) = ours.step(0.01, a, gradient.clone(), of_a);
        (b, of_b) = theirs.step(0.01, b, gradient, of_b);
    }
    let elements = |tensor: Tensor<1>| tensor.try_into_vec_as::<f32>().expect("values");
    let (of_a, of_b) = (of_a.expect("a state").momentum, of_b.expect("a state").momentum);
    assert_eq!(bits((&elements(of_a)).into()), bits((&elements(of_b)).into()));
    (elements(a), elements(b))
}

#[test]
fn the_bits_of_burns_own_without_decay() {
    let (ours, theirs) = beside_burns(0.0);
    assert_eq!(bits((&ours).into()), bits((&theirs).into()));
}

/// burn decays by `p * (1 - lr * wd)`, this crate by `p - p * wd * lr`. The momenta are the same, and so are the signs.
/// Only the parameters differ, by rounding. For the error of one step, let u = 2^-24, and let |p| be at most P before
/// and after the step. burn rounds the factor, which is below 1 (u / 2 of P), its product (u) and its difference (u).
/// This crate rounds the two products, which are less than lr * wd of P (2 u lr wd), and two differences (2 u). Each
/// takes lr in f32 or f64 (u lr wd). The total is less than 5 u P a step for lr wd < 1/8, and decay never increases it.
#[test]
fn burns_own_within_its_rounding_with_decay() {
    let (ours, theirs) = beside_burns(0.5);
    // The values start within 1, and a step moves each by at most the learning rate.
    let largest = 1.0 + STEPS as f64 * 0.01;
    let bound = 5.0 * f64::from(f32::EPSILON) / 2.0 * largest * STEPS as f64;
    let mut differ = 0;
    for (ours, theirs) in ours.iter().zip(&theirs) {
        let difference = f64::from(*ours) - f64::from(*theirs);
        assert!(
            difference.abs() <= bound,
            "{ours} and {theirs} differ by {difference:e}, more than {bound:e}"
        );
        differ += usize::from(difference != 0.0);
    }
    // If nothing differed, the bound would test nothing.
    assert!(differ > 0);
}
