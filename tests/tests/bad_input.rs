//! What the kernels refuse: each refusal names what is wrong, and nothing has been written.

use std::fmt::Display;

use lion_kernels::{
    BLOCK, Backend, Buffer, Clip, Dtype, Ema, Error, Gradient, Statistics, Step, Tensors, accumulate,
    average, block_statistics, convert, statistics, stream,
};

fn step() -> Step {
    Step::new(0.1, 0.9, 0.99).expect("valid")
}

#[test]
fn hyperparameters_outside_their_range() {
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0];
    let refused = |result: Result<Step, Error>, name: &str, value: &dyn Display| match result {
        Err(error @ Error::Hyperparameter { .. }) => {
            let message = error.to_string();
            assert!(message.starts_with(&format!("{name} is {value}, and must be in ")), "{message}");
        }
        other => panic!("{name} = {value} gives {other:?}"),
    };
    for value in bad {
        refused(Step::new(value, 0.9, 0.99), "learning_rate", &value);
        refused(Step::new(0.1, value, 0.99), "beta_1", &value);
        refused(Step::new(0.1, 0.9, value), "beta_2", &value);
        refused(step().weight_decay(value), "weight_decay", &value);
        refused(step().clip(Clip::Value(value)), "clipvalue", &value);
        refused(step().clip(Clip::Norm { limit: value, norm: 1.0 }), "clipnorm", &value);
        refused(Ema::new(value).map(|it| step().ema(it)), "ema_momentum", &value);
    }
    for value in [0.0, 1.1] {
        refused(Step::new(0.1, value, 0.99), "beta_1", &value);
    }
    refused(Step::new(0.1, 0.9, 1.1), "beta_2", &1.1);
    refused(step().clip(Clip::Value(0.0)), "clipvalue", &0.0);
    refused(step().clip(Clip::Norm { limit: 1.0, norm: -1.0 }), "norm", &-1.0);
    for value in [f32::NAN, f32::NEG_INFINITY, -1.0] {
        refused(Gradient::new().unscale(value).map(|it| step().gradient(it)), "loss_scale_factor", &value);
    }
    for steps in [0, 1, (1 << 24) + 1] {
        let name = "gradient_accumulation_steps";
        refused(Gradient::new().accumulated(steps).map(|it| step().gradient(it)), name, &steps);
    }
}

#[test]
fn tensors_that_do_not_fit() {
    let backend = Backend::best();
    let (g, short) = (vec![1.0_f32; 40], vec![1.0_f32; 39]);
    let averaging = step().gradient(Gradient::new().accumulated(2).expect("valid"));
    let observing = step().ema(Ema::new(0.5).expect("valid"));
    let (mut p, mut m, mut other, mut long) = (g.clone(), g.clone(), short.clone(), g.clone());

    let length = |tensor, found| Error::Length { tensor, found, reference: "parameter", expected: 40 };
    let result = step().apply(backend, Tensors::in_place(&mut p, &short, &mut m));
    assert_eq!(result, Err(length("gradient", 39)));
    let result = step().apply(backend, Tensors::in_place(&mut p, &g, &mut other));
    assert_eq!(result, Err(length("momentum", 39)));
    let result = step().apply(backend, Tensors::out_of_place(&short, &mut p, &g, &mut m));
    assert_eq!(result, Err(length("source", 39)));
    let result = step().apply(backend, Tensors::in_place(&mut p, &g, &mut m).copy(&mut other));
    assert_eq!(result, Err(length("copy", 39)));
    let result = averaging.apply(backend, Tensors::in_place(&mut p, &g, &mut m).accumulator(&mut other));
    assert_eq!(result, Err(length("accumulator", 39)));
    let result = observing.apply(backend, Tensors::in_place(&mut p, &g, &mut m).ema(&mut other));
    assert_eq!(result, Err(length("EMA", 39)));

    let result = averaging.apply(backend, Tensors::in_place(&mut p, &g, &mut m));
    assert_eq!(result, Err(Error::MissingTensor { tensor: "accumulator" }));
    let result = observing.apply(backend, Tensors::in_place(&mut p, &g, &mut m));
    assert_eq!(result, Err(Error::MissingTensor { tensor: "EMA" }));
    let result = step().apply(backend, Tensors::in_place(&mut p, &g, &mut m).accumulator(&mut long));
    assert_eq!(result, Err(Error::UnusedTensor { tensor: "accumulator" }));
    let result = step().apply(backend, Tensors::in_place(&mut p, &g, &mut m).ema(&mut long));
    assert_eq!(result, Err(Error::UnusedTensor { tensor: "EMA" }));
    let halves = vec![half::f16::ONE; 40];
    let result = step().apply(backend, Tensors::out_of_place(&halves, &mut p, &g, &mut m));
    assert_eq!(result, Err(Error::SourceDtype { found: Dtype::F16, expected: Dtype::F32 }));

    assert!(accumulate(backend, &Gradient::new(), &mut p, &short).is_err());
    assert!(average(backend, &Ema::new(0.5).expect("valid"), &mut p, &mut other).is_err());
    assert!(convert(backend, &short, &mut p).is_err());
    assert!(stream(backend, &mut p, &short, &mut m).is_err());
    let averaged = Gradient::new().accumulated(2).expect("valid");
    assert_eq!(statistics(backend, &averaged, &g, None), Err(Error::MissingTensor { tensor: "accumulator" }));
    assert!(statistics(backend, &averaged, &g, Some(&short)).is_err());
    assert!(statistics(backend, &Gradient::new(), &g, Some(&g)).is_err());
    let mut blocks = [Statistics::default(); 2];
    let result = block_statistics(backend, &Gradient::new(), &g, None, &mut blocks);
    assert_eq!(result, Err(Error::Blocks { found: 2, expected: 1, elements: 40 }));
    assert_eq!(BLOCK % 32, 0);

    for untouched in [&p, &m, &long] {
        assert_eq!(untouched, &g);
    }
    assert_eq!(other, short);
}

#[test]
fn empty_tensors_are_a_success() {
    let none = Vec::<f32>::new();
    let (mut p, mut m) = (none.clone(), none.clone());
    for backend in Backend::available() {
        step().apply(backend, Tensors::in_place(&mut p, &none, &mut m)).expect("nothing to do");
        assert_eq!(statistics(backend, &Gradient::new(), &none, None), Ok(Statistics::default()));
        convert(backend, &none, &mut p).expect("nothing to do");
    }
}

#[test]
fn backends_that_are_not_here() {
    let absent: Vec<_> = Backend::ALL.iter().filter(|backend| !backend.is_available()).collect();
    assert!(!absent.is_empty(), "no machine has both NEON and AVX");
    let g = vec![1.0_f32; 40];
    for backend in absent.into_iter().copied() {
        let expected = Err(Error::UnavailableBackend { backend });
        let (mut p, mut m) = (g.clone(), g.clone());
        assert_eq!(step().apply(backend, Tensors::in_place(&mut p, &g, &mut m)), expected);
        assert_eq!((&p, &m), (&g, &g));
        let error = Backend::from_name(backend.name()).expect_err("not here");
        let message = error.to_string();
        assert!(message.contains(backend.name()) && message.contains("available here: scalar"), "{message}");
    }
    let message = Backend::from_name("sse9").expect_err("unknown").to_string();
    assert!(message.starts_with("there is no backend \"sse9\"; available here: scalar"), "{message}");
    let message = "f8".parse::<Dtype>().expect_err("unknown").to_string();
    assert_eq!(message, "there is no dtype \"f8\"; known: f32, f16, bf16");
}

#[test]
fn memory_that_cannot_be_had() {
    for elements in [usize::MAX, usize::MAX / 4, 1 << 60] {
        let expected = Error::OutOfMemory { elements, dtype: Dtype::F32 };
        assert_eq!(Buffer::<f32>::zeroed(elements).expect_err("too much"), expected);
    }
}
