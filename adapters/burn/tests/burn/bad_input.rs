//! Tests of invalid and unusual input that burn leaves to the optimizer.

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, Optimizer};
use burn::tensor::{Device, FloatDType, Int, Tensor};
use lion_burn::{LionConfig, LionState};

fn elements<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.clone().try_into_vec_as().expect("values")
}

fn ones<const D: usize>(shape: [usize; D]) -> Tensor<D> {
    Tensor::ones(shape, &Device::flex())
}

#[test]
fn a_gradient_of_another_shape_moves_nothing() {
    let optimizer = LionConfig::new().build();
    let (tensor, state) = optimizer.step(0.5, ones([2, 3]), ones([2, 3]), None);
    let momentum = elements(&state.as_ref().expect("a state").momentum);
    // Also with the same number of elements.
    for gradient in [ones([3, 2]), ones([1, 1])] {
        let (found, kept) = optimizer.step(0.5, tensor.clone(), gradient, state.clone());
        assert_eq!(elements(&found), elements(&tensor));
        assert_eq!(elements(&kept.expect("the state").momentum), momentum);
    }
}

#[test]
fn a_momentum_of_another_shape_begins_at_zero() {
    let optimizer = LionConfig::new().build();
    let foreign = Some(LionState::new(ones([4])));
    let (tensor, state) = optimizer.step(0.5, ones([2]), ones([2]), foreign);
    let (expected, new) = optimizer.step(0.5, ones([2]), ones([2]), None);
    assert_eq!(elements(&tensor), elements(&expected));
    assert_eq!(elements(&state.expect("a state").momentum), elements(&new.expect("a state").momentum));
}

/// Unsupported dtypes and hyperparameters outside Lion's range use burn's own operations, bit for bit.
#[test]
fn what_the_kernels_do_not_take_is_burns() {
    let doubles = || Tensor::<1>::from_floats([1.0, -2.0, 3.0], &Device::flex()).cast(FloatDType::F64);
    let floats = || Tensor::<1>::from_floats([1.0, -2.0, 3.0], &Device::flex());
    type Make = fn() -> Tensor<1>;
    let cases: [(Make, f32, f64); 3] = [(doubles, 0.9, 0.1), (floats, 1.5, 0.1), (floats, 0.9, -0.1)];
    for (make, beta_1, rate) in cases {
        let ours = LionConfig::new().with_beta_1(beta_1).with_weight_decay(0.5).build();
        let theirs = burn::optim::LionConfig::new().with_beta_1(beta_1).with_weight_decay(0.5).build();
        let ((mut a, mut of_a), (mut b, mut of_b)) = ((make(), None), (make(), None));
        for step in 0..3 {
            let gradient = make().mul_scalar(1.0 - step as f32);
            (a, of_a) = ours.step(rate, a, gradient.clone(), of_a);
            (b, of_b) = theirs.step(rate, b, gradient, of_b);
        }
        assert_eq!(a.dtype(), make().dtype());
        let exact = |tensor: Tensor<1>| tensor.try_into_vec_as::<f64>().expect("values");
        assert_eq!(exact(a), exact(b));
        let (of_a, of_b) = (of_a.expect("a state").momentum, of_b.expect("a state").momentum);
        assert_eq!(exact(of_a), exact(of_b));
    }
}

#[test]
fn tensors_that_share_memory() {
    let optimizer = LionConfig::new().build();
    let tensor = ones([4]);
    let (kept, gradient) = (tensor.clone(), ones([4]));
    // The parameter is also its own gradient.
    let (moved, state) = optimizer.step(0.5, tensor.clone(), tensor, None);
    assert_eq!((elements(&moved), elements(&kept)), (vec![0.5; 4], vec![1.0; 4]));
    // A state that the caller keeps does not change.
    let before = elements(&state.as_ref().expect("a state").momentum);
    let (_, next) = optimizer.step(0.5, moved, gradient, state.clone());
    assert_eq!(elements(&state.expect("a state").momentum), before);
    assert_ne!(elements(&next.expect("a state").momentum), before);
    // A part of a tensor, and a transposed tensor.
    let whole = Tensor::<2>::from_floats([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]], &Device::flex());
    let (part, _) = optimizer.step(0.5, whole.clone().slice([1..2, 0..3]), ones([1, 3]), None);
    assert_eq!(elements(&part), [3.5, 4.5, 5.5]);
    let (turned, _) = optimizer.step(0.5, whole.clone().transpose(), ones([3, 2]), None);
    assert_eq!(elements(&turned), [0.5, 3.5, 1.5, 4.5, 2.5, 5.5]);
    assert_eq!(elements(&whole), [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
}

#[derive(Module, Debug)]
struct Mixed {
    a: Param<Tensor<1>>,
    b: Param<Tensor<1>>,
    positions: Param<Tensor<1, Int>>,
}

#[test]
fn parameters_without_a_gradient_and_integers_are_left_alone() {
    let device = Device::flex().autodiff();
    let model = Mixed {
        a: Param::from_tensor(Tensor::ones([2], &device)),
        b: Param::from_tensor(Tensor::ones([3], &device)),
        positions: Param::initialized(
            burn::module::ParamId::new(),
            Tensor::<1, Int>::from_ints([1, 2], &device),
        ),
    };
    let mut gradients = GradientsParams::new();
    gradients.register(model.b.id, ones([3]));
    let mut optimizer = LionConfig::new().init();
    let model = optimizer.step(0.5, model, gradients);
    assert_eq!((elements(&model.a.val()), elements(&model.b.val())), (vec![1.0; 2], vec![0.5; 3]));
    assert_eq!(model.positions.val().try_into_vec_as::<i64>().expect("values"), [1, 2]);
    // A parameter added later starts with a momentum of zero.
    let mut gradients = GradientsParams::new();
    gradients.register(model.a.id, ones([2]));
    let model = optimizer.step(0.5, model, gradients);
    assert_eq!((elements(&model.a.val()), elements(&model.b.val())), (vec![0.5; 2], vec![0.5; 3]));
}

#[derive(Module, Debug)]
struct Empty {}

#[test]
fn a_module_without_parameters() {
    let mut optimizer = LionConfig::new().init();
    let model = optimizer.step(0.5, Empty {}, GradientsParams::new());
    assert_eq!(model.num_params(), 0);
}
