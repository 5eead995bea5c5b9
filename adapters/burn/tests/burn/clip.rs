//! Tests of clipping by the norm of all gradients of a module. `numbers` compares the results with the core.

use burn::module::{Module, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, FloatDType, Tensor};
use lion_burn::clip_global_norm;

#[derive(Module, Debug)]
struct Two {
    a: Param<Tensor<1>>,
    b: Param<Tensor<2>>,
}

fn model(device: &Device) -> Two {
    Two {
        a: Param::from_tensor(Tensor::ones([2], device)),
        b: Param::from_tensor(Tensor::ones([1, 2], device)),
    }
}

fn gradients(model: &Two, device: &Device, value: f32, dtype: FloatDType) -> GradientsParams {
    let mut gradients = GradientsParams::new();
    gradients.register(model.a.id, Tensor::<1>::full([2], value, device).cast(dtype));
    gradients.register(model.b.id, Tensor::<2>::full([1, 2], value, device).cast(dtype));
    gradients
}

#[test]
fn the_norm_is_that_of_all() {
    let device = Device::flex();
    for dtype in [FloatDType::F32, FloatDType::F64] {
        let model = model(&device);
        for (limit, expected) in [(100.0, 3.0), (1.0, 0.5)] {
            let clipped =
                clip_global_norm(&model, gradients(&model, &device, 3.0, dtype), limit).expect("valid");
            assert_eq!(clipped.norm, 6.0, "{dtype:?}");
            let a: Vec<f32> =
                clipped.gradients.get::<1>(model.a.id).expect("there").try_into_vec_as().expect("values");
            let b: Vec<f32> =
                clipped.gradients.get::<2>(model.b.id).expect("there").try_into_vec_as().expect("values");
            for value in a.iter().chain(&b) {
                assert!(
                    (value - expected).abs() <= 2.0 * f32::EPSILON,
                    "{value} and not {expected} in {dtype:?}"
                );
            }
        }
    }
}

#[test]
fn a_parameter_that_is_there_twice_counts_once() {
    #[derive(Module, Debug)]
    struct Tied {
        one: Param<Tensor<1>>,
        other: Param<Tensor<1>>,
    }

    let device = Device::flex();
    let param = Param::from_tensor(Tensor::<1>::ones([1], &device));
    let model = Tied { one: param.clone(), other: param };
    let mut gradients = GradientsParams::new();
    gradients.register(model.one.id, Tensor::<1>::full([1], 4.0, &device));
    let clipped = clip_global_norm(&model, gradients, 1.0).expect("valid");
    assert_eq!(clipped.norm, 4.0);
    assert_eq!(clipped.gradients.get::<1>(model.other.id).expect("there").into_scalar::<f32>(), 1.0);
}

#[test]
fn what_is_not_a_norm() {
    let device = Device::flex();
    let model = model(&device);
    for limit in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let error = clip_global_norm(&model, gradients(&model, &device, 1.0, FloatDType::F32), limit)
            .expect_err("refused");
        assert!(error.to_string().starts_with("limit is "), "{error}");
    }
    // As in Keras, an infinite norm gives NaN.
    let clipped = clip_global_norm(&model, gradients(&model, &device, f32::INFINITY, FloatDType::F32), 1.0)
        .expect("valid");
    let a: Vec<f32> =
        clipped.gradients.get::<1>(model.a.id).expect("there").try_into_vec_as().expect("values");
    assert!(a.iter().all(|value| value.is_nan()));
    // No gradients.
    assert_eq!(clip_global_norm(&model, GradientsParams::new(), 1.0).expect("valid").norm, 0.0);
}
