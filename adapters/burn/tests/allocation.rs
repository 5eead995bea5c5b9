//! Tests that a step is in place if nothing else shares the module.

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor};
use lion_burn::LionConfig;
use lion_testing::allocator::{Watched, largest_request};

#[global_allocator]
static WATCHED: Watched = Watched;

#[derive(Module, Debug)]
struct Three {
    a: Param<Tensor<2>>,
    b: Param<Tensor<2>>,
    c: Param<Tensor<2>>,
}

#[test]
fn a_step_allocates_no_tensor() {
    let device = Device::flex().autodiff();
    let param = |dtype| Param::from_tensor(Tensor::<2>::ones([100, 100], &device).cast(dtype).detach());
    let mut model =
        Three { a: param(FloatDType::F32), b: param(FloatDType::F16), c: param(FloatDType::BF16) };
    let mut optimizer = LionConfig::new().with_weight_decay(0.1).init();
    for step in 0..4 {
        let square = |tensor: Tensor<2>| tensor.cast(FloatDType::F32).square().sum();
        let loss = square(model.a.val()) + square(model.b.val()) + square(model.c.val());
        let gradients = GradientsParams::from_grads(loss.backward(), &model);
        assert_eq!(gradients.len(), 3);
        let (bytes, moved) = largest_request(|| optimizer.step(0.001, model, gradients));
        model = moved;
        // The first step creates the momenta.
        assert!(step == 0 || bytes < 8192, "step {step} asked for {bytes} bytes at once");
    }
}
