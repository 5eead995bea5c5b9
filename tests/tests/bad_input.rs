//! Invalid input of the kernels: each error names the fault, and nothing is written.

use std::fmt::Display;

use lion_kernels::{
    AlignedBuffer, Backend, Clip, Dtype, Ema, Error, GradientStatistics, GradientTransform, LionStep,
    STATISTICS_BLOCK, StepTensors, Task, TensorBuf,
};
use lion_tests::alone::{accumulate, apply, block_statistics, convert, update_ema};

fn step() -> LionStep {
    LionStep::new(0.1, 0.9, 0.99).expect("valid")
}

#[test]
fn hyperparameters_outside_their_range() {
    let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0];
    let refused = |result: Result<LionStep, Error>, name: &str, value: &dyn Display| match result {
        Err(error @ Error::Hyperparameter { .. }) => {
            let message = error.to_string();
            assert!(message.starts_with(&format!("{name} is {value}, and must be in ")), "{message}");
        }
        other => panic!("{name} = {value} gives {other:?}"),
    };
    for value in bad {
        refused(LionStep::new(value, 0.9, 0.99), "learning_rate", &value);
        refused(LionStep::new(0.1, value, 0.99), "beta_1", &value);
        refused(LionStep::new(0.1, 0.9, value), "beta_2", &value);
        refused(step().weight_decay(value), "weight_decay", &value);
        refused(step().clip(Clip::Value(value)), "clipvalue", &value);
        refused(step().clip(Clip::Norm { limit: value, norm: 1.0 }), "clipnorm", &value);
        refused(Ema::new(value).map(|it| step().ema(it)), "ema_momentum", &value);
    }
    for value in [-0.1, 1.1] {
        refused(LionStep::new(0.1, value, 0.99), "beta_1", &value);
    }
    refused(LionStep::new(0.1, 0.9, 1.1), "beta_2", &1.1);
    refused(step().clip(Clip::Value(0.0)), "clipvalue", &0.0);
    refused(step().clip(Clip::Norm { limit: 1.0, norm: -1.0 }), "norm", &-1.0);
    for value in [f32::NAN, f32::NEG_INFINITY, -1.0] {
        refused(
            GradientTransform::new().loss_scale(value).map(|it| step().gradient(it)),
            "loss_scale_factor",
            &value,
        );
    }
    for value in [f32::NAN, f32::INFINITY, -0.1, 1.1] {
        refused(step().gradient_factors(value, 0.5), "one_minus_beta_1", &value);
        refused(step().gradient_factors(0.5, value), "one_minus_beta_2", &value);
    }
    for steps in [0, 1, (1 << 24) + 1] {
        let name = "gradient_accumulation_steps";
        refused(GradientTransform::new().average_over(steps).map(|it| step().gradient(it)), name, &steps);
    }
}

#[test]
fn tensors_that_do_not_fit() {
    let backend = Backend::best();
    let (g, short) = (vec![1.0_f32; 40], vec![1.0_f32; 39]);
    let averaging = step().gradient(GradientTransform::new().average_over(2).expect("valid"));
    let observing = step().ema(Ema::new(0.5).expect("valid"));
    let (mut p, mut m, mut other, mut long) = (g.clone(), g.clone(), short.clone(), g.clone());

    let length = |tensor, found| Error::Length { tensor, found, reference: "parameter", expected: 40 };
    let result = apply(step(), backend, StepTensors::in_place(&mut p, &short, &mut m));
    assert_eq!(result, Err(length("gradient", 39)));
    let result = apply(step(), backend, StepTensors::in_place(&mut p, &g, &mut other));
    assert_eq!(result, Err(length("momentum", 39)));
    let result = apply(step(), backend, StepTensors::out_of_place(&short, &mut p, &g, &mut m));
    assert_eq!(result, Err(length("source", 39)));
    let result = apply(step(), backend, StepTensors::in_place(&mut p, &g, &mut m).copy(&mut other));
    assert_eq!(result, Err(length("copy", 39)));
    let result = apply(averaging, backend, StepTensors::in_place(&mut p, &g, &mut m).accumulator(&mut other));
    assert_eq!(result, Err(length("accumulator", 39)));
    let result = apply(observing, backend, StepTensors::in_place(&mut p, &g, &mut m).ema(&mut other));
    assert_eq!(result, Err(length("EMA", 39)));

    let result = apply(averaging, backend, StepTensors::in_place(&mut p, &g, &mut m));
    assert_eq!(result, Err(Error::MissingTensor { tensor: "accumulator" }));
    let result = apply(observing, backend, StepTensors::in_place(&mut p, &g, &mut m));
    assert_eq!(result, Err(Error::MissingTensor { tensor: "EMA" }));
    let result = apply(step(), backend, StepTensors::in_place(&mut p, &g, &mut m).accumulator(&mut long));
    assert_eq!(result, Err(Error::UnusedTensor { tensor: "accumulator" }));
    let result = apply(step(), backend, StepTensors::in_place(&mut p, &g, &mut m).ema(&mut long));
    assert_eq!(result, Err(Error::UnusedTensor { tensor: "EMA" }));
    let halves = vec![half::f16::ONE; 40];
    let result = apply(step(), backend, StepTensors::out_of_place(&halves, &mut p, &g, &mut m));
    assert_eq!(result, Err(Error::SourceDtype { found: Dtype::F16, expected: Dtype::F32 }));

    assert!(accumulate(backend, &GradientTransform::new(), &mut p, &short).is_err());
    assert!(update_ema(backend, &Ema::new(0.5).expect("valid"), &mut p, &mut other).is_err());
    assert!(convert(backend, &short, &mut p).is_err());
    assert!(Task::bandwidth_step(&mut p, &short, &mut m).is_err());
    let averaged = GradientTransform::new().average_over(2).expect("valid");
    assert_eq!(
        GradientStatistics::measure(backend, &averaged, &g, None),
        Err(Error::MissingTensor { tensor: "accumulator" })
    );
    assert!(GradientStatistics::measure(backend, &averaged, &g, Some(&short)).is_err());
    assert!(GradientStatistics::measure(backend, &GradientTransform::new(), &g, Some(&g)).is_err());
    let mut blocks = [GradientStatistics::default(); 2];
    let result = block_statistics(backend, &GradientTransform::new(), &g, None, &mut blocks);
    assert_eq!(result, Err(Error::Blocks { found: 2, expected: 1, elements: 40 }));
    assert_eq!(STATISTICS_BLOCK % 32, 0);

    for untouched in [&p, &m, &long] {
        assert_eq!(untouched, &g);
    }
    assert_eq!(other, short);
}

/// Keras and the optimizer reject a beta_1 of zero. The kernels accept it.
#[test]
fn a_beta_of_zero_is_a_step() {
    let (mut p, g, mut m) = ([1.0_f32; 3], [1.0_f32, 0.0, -1.0], [-5.0_f32; 3]);
    let step = LionStep::new(0.25, 0.0, 0.0).expect("valid");
    apply(step, Backend::best(), StepTensors::in_place(&mut p, &g, &mut m)).expect("a step");
    assert_eq!((p, m), ([0.75, 1.0, 1.25], g));
}

#[test]
fn tasks_that_begin_within_a_block() {
    let (mut p, g, mut m) = ([1.0_f32; 8], [1.0_f32; 8], [0.0_f32; 8]);
    for first in [1, 31, 63, 65, STATISTICS_BLOCK as u64 - 1, STATISTICS_BLOCK as u64 + 1, u64::MAX] {
        let task = Task::step(step(), StepTensors::in_place(&mut p, &g, &mut m)).expect("fits");
        assert_eq!(task.first_element(), 0);
        let error = task.starting_at(first).expect_err("within a block");
        assert_eq!(error, Error::FirstElement { first });
        let expected =
            format!("the task begins at element {first} of its variable; expected a multiple of 64");
        assert_eq!(error.to_string(), expected);
    }
    for first in [0, 64, STATISTICS_BLOCK as u64, u64::MAX - 63] {
        let task = Task::step(step(), StepTensors::in_place(&mut p, &g, &mut m)).expect("fits");
        assert_eq!(task.starting_at(first).expect("a block's first").first_element(), first);
    }
}

#[test]
fn ranges_outside_of_a_tensor() {
    for dtype in Dtype::ALL.iter().copied().filter(|dtype| dtype.block() == 1) {
        let mut tensor = TensorBuf::zeroed(dtype, 10).expect("memory");
        for (start, end) in [(0, 11), (11, 11), (10, 11), (3, 2), (usize::MAX, 0), (0, usize::MAX), (11, 12)]
        {
            let expected = Error::Range { start, end, len: 10 };
            assert_eq!(tensor.to_ref().range(start..end).expect_err("outside"), expected);
            assert_eq!(tensor.to_mut().range(start..end).expect_err("outside"), expected);
            let message =
                format!("the range {start}..{end} is not within the tensor; expected a range within 0..10");
            assert_eq!(expected.to_string(), message);
        }
        // Reading and writing by value check the range in the same way.
        for (start, len) in [(0, 11), (10, 1), (11, 0), (usize::MAX, 1), (usize::MAX, 0)] {
            let expected = Err(Error::Range { start, end: start.saturating_add(len), len: 10 });
            assert_eq!(tensor.to_ref().read_f32(start, &mut vec![0.0; len]), expected);
            assert_eq!(tensor.to_mut().write_f32(start, &vec![1.0; len]), expected);
        }
        assert_eq!(tensor.to_ref().to_f32(), [0.0; 10], "nothing is written");
        for (start, end) in [(0, 10), (0, 0), (10, 10), (3, 7)] {
            assert_eq!(tensor.to_ref().range(start..end).expect("within").len(), end - start);
            assert_eq!(tensor.to_mut().range(start..end).expect("within").len(), end - start);
        }
        tensor.to_mut().write_f32(9, &[1.0]).expect("the last");
        let mut last = [0.0; 2];
        tensor.to_ref().read_f32(8, &mut last).expect("the last two");
        assert_eq!(last, [0.0, 1.0]);
    }
}

#[test]
fn empty_tensors_are_a_success() {
    let none = Vec::<f32>::new();
    let (mut p, mut m) = (none.clone(), none.clone());
    for backend in Backend::available() {
        apply(step(), backend, StepTensors::in_place(&mut p, &none, &mut m)).expect("nothing to do");
        assert_eq!(
            GradientStatistics::measure(backend, &GradientTransform::new(), &none, None),
            Ok(GradientStatistics::default())
        );
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
        assert_eq!(apply(step(), backend, StepTensors::in_place(&mut p, &g, &mut m)), expected);
        assert_eq!((&p, &m), (&g, &g));
        let error = Backend::from_name(backend.name()).expect_err("not here");
        let message = error.to_string();
        assert!(message.contains(backend.name()) && message.contains("available here: scalar"), "{message}");
    }
    let message = Backend::from_name("sse9").expect_err("unknown").to_string();
    assert!(message.starts_with("backend \"sse9\" does not exist; available here: scalar"), "{message}");
    let message = "f8".parse::<Dtype>().expect_err("unknown").to_string();
    assert_eq!(message, "dtype \"f8\" does not exist; known: f32, f16, bf16, split, q8, i16, i8");
}

#[test]
fn memory_that_cannot_be_had() {
    for elements in [usize::MAX, usize::MAX / 4, 1 << 60] {
        let expected = Error::OutOfMemory { elements, dtype: Dtype::F32 };
        assert_eq!(AlignedBuffer::<f32>::zeroed(elements).expect_err("too much"), expected);
    }
}
