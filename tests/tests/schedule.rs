//! The schedules, compared with Keras 3.15.1 and with their definitions.

use lion::schedule::{
    Constant, CosineDecay, CosineDecayRestarts, DecayShape, ExponentialDecay, InverseSquareRoot,
    InverseTimeDecay, LinearWarmup, OneCycle, PiecewiseConstantDecay, PolynomialDecay, WarmupStableDecay,
};
use lion::{Config, Error, Hyperparameter, Schedule};
use serde_json::{Value, json};

/// What the project promises: 8 units in the last place, or 1e-6.
fn close(found: f32, expected: f32) -> bool {
    let unit = |x: f32| f64::from(f32::from_bits(x.abs().to_bits() + 1)) - f64::from(x.abs());
    let difference = (f64::from(found) - f64::from(expected)).abs();
    difference <= (8.0 * unit(expected.abs().max(found.abs()))).max(1e-6)
}

fn from_keras(serialized: &Value) -> Schedule {
    let config = json!({"learning_rate": serialized});
    match Config::from_json(&config.to_string()).unwrap().learning_rate {
        Hyperparameter::Scheduled(schedule) => schedule,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_call_is_as_in_keras() {
    let golden: Value = serde_json::from_str(include_str!("../golden/schedules.json")).unwrap();
    let steps: Vec<u64> = serde_json::from_value(golden["steps"].clone()).unwrap();
    let (mut values, mut wrong) = (0, 0);
    for case in golden["cases"].as_array().unwrap() {
        let schedule = from_keras(&case["schedule"]);
        assert_eq!(case["schedule"]["class_name"], schedule.class_name());
        for (&step, expected) in steps.iter().zip(case["values"].as_array().unwrap()) {
            let expected = expected.as_f64().unwrap() as f32;
            let found = schedule.at(step);
            assert!(close(found, expected), "{schedule:?} at {step}: {found} and not {expected}");
            values += 1;
            if let Some(keras) = case["wrong"].get(step.to_string()) {
                assert!(!close(found, keras.as_f64().unwrap() as f32), "{schedule:?} at {step}");
                wrong += 1;
            }
        }
    }
    assert!(values > 3000 && wrong >= 7, "{values} values, {wrong} wrong cycles");
}

/// The expectations of Keras's learning_rate_schedule_test.py, version 3.15.1.
#[test]
fn keras_s_own_tests() -> Result<(), Error> {
    let check = |schedule: &Schedule, step: u64, expected: f64| {
        let found = f64::from(schedule.at(step));
        assert!((found - expected).abs() <= 1e-6 * (1.0 + expected), "{schedule:?} at {step}: {found}");
    };
    check(&ExponentialDecay::new(0.05, 10.0, 0.96)?.into(), 5, 0.05 * 0.96_f64.powf(0.5));
    let staircase = ExponentialDecay::new(0.1, 3.0, 0.96)?.staircase(true).into();
    for (step, expected) in [(1, 0.1), (2, 0.1), (100, 0.1 * 0.96_f64.powi(33))] {
        check(&staircase, step, expected);
    }
    let pieces = PiecewiseConstantDecay::new([100.0, 110.0, 120.0], [1.0, 0.1, 0.01, 0.001])?.into();
    for (step, expected) in [(0, 1.0), (100, 1.0), (105, 0.1), (110, 0.1), (120, 0.01), (999, 0.001)] {
        check(&pieces, step, expected);
    }
    let pieces = PiecewiseConstantDecay::new([1.0, 2.0, 3.0], [0.4, 0.5, 0.6, 0.7])?.into();
    for (step, expected) in [(0, 0.4), (1, 0.4), (2, 0.5), (3, 0.6), (4, 0.7)] {
        check(&pieces, step, expected);
    }
    for power in [1.0, 0.5] {
        let line = PolynomialDecay::new(0.05, 10.0)?.power(power)?;
        let to = line.clone().end_learning_rate(0.001)?;
        check(&line.end_learning_rate(0.0)?.into(), 5, 0.05 * 0.5_f64.powf(power));
        check(&to.clone().into(), 10, 0.001);
        check(&to.clone().into(), 5, 0.049 * 0.5_f64.powf(power) + 0.001);
        check(&to.clone().into(), 15, 0.001);
        check(&to.cycle(true).into(), 15, 0.049 * 0.25_f64.powf(power) + 0.001);
    }
    check(&PolynomialDecay::new(0.001, 10.0)?.cycle(true).into(), 0, 0.001);
    let inverse = InverseTimeDecay::new(0.1, 10.0, 0.96)?;
    for step in 0..=10 {
        check(&inverse.clone().into(), step, 0.1 / (1.0 + step as f64 / 10.0 * 0.96));
        check(&inverse.clone().staircase(true).into(), step, 0.1 / (1.0 + 0.96 * (step / 10) as f64));
    }
    for step in (0..1500).step_by(250) {
        let cosine = (1.0 + (std::f64::consts::PI * (step.min(1000) as f64) / 1000.0).cos()) / 2.0;
        check(&CosineDecay::new(1.0, 1000.0)?.into(), step, cosine);
        check(&CosineDecay::new(1.0, 1000.0)?.alpha(0.1)?.into(), step, 0.9 * cosine + 0.1);
        let warmup = CosineDecay::new(0.0, 10.0)?.warmup(10.0, 1500.0)?;
        check(&warmup.into(), step, step as f64 / 1500.0 * 10.0);
    }
    for step in (0..3000).step_by(250) {
        let warmup = CosineDecay::new(0.0, 1000.0)?.warmup(10.0, 2000.0)?;
        let part = (step.max(2000) - 2000) as f64 / 1000.0;
        let after = 5.0 * (1.0 + (std::f64::consts::PI * part).cos());
        check(&warmup.into(), step, if step < 2001 { step as f64 / 200.0 } else { after });
    }
    for (t_mul, m_mul, alpha) in [(2.0, 1.0, 0.0), (2.0, 1.0, 0.1), (2.0, 0.9, 0.0), (1.0, 1.0, 0.0)] {
        for step in (0..1500).step_by(250) {
            let again = CosineDecayRestarts::new(1.0, 1000.0)?.t_mul(t_mul)?.m_mul(m_mul)?.alpha(alpha)?;
            let (rest, length, height) =
                if step < 1000 { (step, 1000.0, 1.0) } else { (step - 1000, 1000.0 * t_mul, m_mul) };
            let cosine = (1.0 + (std::f64::consts::PI * rest as f64 / length).cos()) / 2.0;
            check(&again.into(), step, (1.0 - alpha) * height * cosine + alpha);
        }
    }
    Ok(())
}

#[test]
fn a_restart_is_where_it_should_be() -> Result<(), Error> {
    let mut restarts = 0;
    for first in [1_u64, 3, 7, 10, 100, 999, 1000, 6_400] {
        for (growth, by) in
            [(2, 1), (3, 1), (5, 1), (6, 1), (7, 1), (10, 1), (3, 2), (11, 10), (6, 5), (101, 100)]
        {
            let (growth, by): (u64, u64) = (growth, by);
            let t_mul = growth as f64 / by as f64;
            let curve = CosineDecayRestarts::new(1.0, first as f64)?.t_mul(t_mul)?.m_mul(0.5)?;
            let schedule = Schedule::from(curve);
            let (mut start, mut length) = (first, first);
            // While restarts are whole numbers; from there on no step is at one.
            for cycle in 1.. {
                if start > 1 << 23 || length * growth % by != 0 {
                    break;
                }
                let height = 0.5_f32.powi(cycle);
                assert_eq!(schedule.at(start), height, "{t_mul} from {first}, restart {cycle} at {start}");
                let last = (1.0 - (std::f32::consts::PI / length as f32).cos()) * height;
                let (before, error) = (schedule.at(start - 1), 1e-4 * height);
                assert!(
                    (before - last).abs() < error,
                    "{t_mul} from {first}: {before} before {start}, not {last}"
                );
                length = length * growth / by;
                start += length;
                restarts += 1;
            }
        }
    }
    assert!(restarts > 400, "{restarts}");
    Ok(())
}

#[test]
fn cycles_that_become_shorter_have_an_end() -> Result<(), Error> {
    let schedule = Schedule::from(CosineDecayRestarts::new(0.1, 512.0)?.t_mul(0.5)?.alpha(0.1)?);
    for restart in [0, 512, 768, 896, 960, 992] {
        assert_eq!(schedule.at(restart), 0.1);
    }
    for step in [1024, 1025, u64::MAX] {
        assert!(close(schedule.at(step), 0.01));
    }
    Ok(())
}

#[test]
fn those_that_keras_lacks() -> Result<(), Error> {
    let at =
        |schedule: Schedule, steps: &[u64]| steps.iter().map(|&step| schedule.at(step)).collect::<Vec<_>>();
    assert_eq!(at(Constant::new(0.25)?.into(), &[0, 1, u64::MAX]), [0.25; 3]);

    let pieces = PiecewiseConstantDecay::new([10.0], [1.0, 0.5])?;
    let warmup = LinearWarmup::new(4, pieces)?.initial_learning_rate(0.5)?;
    assert_eq!(at(warmup.into(), &[0, 1, 2, 3, 4, 14, 15]), [0.5, 0.625, 0.75, 0.875, 1.0, 1.0, 0.5]);
    assert_eq!(at(LinearWarmup::new(0, Constant::new(0.5)?)?.into(), &[0, 1]), [0.5, 0.5]);

    let stable = WarmupStableDecay::new(1.0, 4.0, 10.0, 8.0)?;
    let steps = [0, 1, 4, 14, 16, 18, 22, 1000];
    assert_eq!(at(stable.clone().into(), &steps), [0.0, 0.25, 1.0, 1.0, 0.75, 0.5, 0.0, 0.0]);
    let ended = stable.clone().end_learning_rate(0.5)?;
    assert_eq!(at(ended.into(), &steps), [0.0, 0.25, 1.0, 1.0, 0.875, 0.75, 0.5, 0.5]);
    assert_eq!(at(stable.clone().shape(DecayShape::OneMinusSqrt).into(), &[14, 16, 22]), [1.0, 0.5, 0.0]);
    assert_eq!(at(stable.shape(DecayShape::Cosine).into(), &[14, 18, 22]), [1.0, 0.5, 0.0]);

    assert_eq!(at(WarmupStableDecay::new(1.0, 0.0, 2.0, 4.0)?.into(), &[0, 1, 2, 4]), [1.0, 1.0, 1.0, 0.5]);

    let inverse = InverseSquareRoot::new(1.0, 4.0)?;
    assert_eq!(at(inverse.into(), &[0, 1, 3, 15, 63]), [0.25, 0.5, 1.0, 0.5, 0.25]);
    // The base model of the paper: 512 wide, 4000 steps.
    let paper = Schedule::from(InverseSquareRoot::noam(512.0, 4000.0)?);
    for number in [1_u64, 100, 3999, 4000, 4001, 100_000] {
        let n = number as f64;
        let expected = 512_f64.powf(-0.5) * n.powf(-0.5).min(n * 4000_f64.powf(-1.5));
        assert!((f64::from(paper.at(number - 1)) - expected).abs() < 1e-7 * expected * 2.0);
    }

    // PyTorch 2's OneCycleLR(max_lr=0.1, total_steps=10), by its formula.
    let expected = [
        0.004,
        0.052,
        0.1,
        0.095_048_46,
        0.081_174_56,
        0.061_126_2,
        0.038_874_2,
        0.018_825_83,
        0.004_951_937,
        4e-7,
        4e-7,
    ];
    let cycle = Schedule::from(OneCycle::new(0.1, 10.0)?);
    for (step, expected) in (0..).zip(expected) {
        assert!((cycle.at(step) - expected).abs() < 2e-7, "{} at {step}, not {expected}", cycle.at(step));
    }
    let halves = OneCycle::new(1.0, 10.0)?.pct_start(0.5)?.div_factor(4.0)?.final_div_factor(8.0)?;
    assert_eq!(at(halves.into(), &[0, 2, 4, 9, 10]), [0.25, 0.625, 1.0, 0.03125, 0.03125]);
    // Lengths that leave nothing for one of the two ways.
    assert_eq!(at(OneCycle::new(0.1, 1.0)?.into(), &[0, 5]), [4e-7; 2]);
    assert_eq!(at(OneCycle::new(0.1, 4.0)?.pct_start(1.0)?.into(), &[0, 3, 4]), [0.004, 4e-7, 4e-7]);
    assert_eq!(at(OneCycle::new(0.1, 4.0)?.pct_start(0.0)?.into(), &[0, 3]), [0.1, 4e-7]);
    Ok(())
}

#[test]
fn no_value_is_negative_or_nan() -> Result<(), Error> {
    let extremes: [f64; 5] = [0.0, 1e-45, 1e-3, 1.0, 3e38];
    let steps = [0, 1, 2, 3, 100, (1 << 24) + 1, u64::MAX];
    for lr in extremes {
        for length in [1e-45, 0.3, 1.0, 1e38] {
            for rate in extremes {
                let part = rate.min(1.0);
                let schedules: [Schedule; 10] = [
                    ExponentialDecay::new(lr, length, rate)?.into(),
                    InverseTimeDecay::new(lr, length, rate)?.staircase(true).into(),
                    PolynomialDecay::new(lr, length)?.power(rate)?.cycle(true).into(),
                    PolynomialDecay::new(lr, length)?.end_learning_rate(rate)?.into(),
                    CosineDecay::new(lr, length)?.warmup(rate, length)?.alpha(part)?.into(),
                    CosineDecayRestarts::new(lr, length)?.t_mul(rate.max(1e-45))?.m_mul(rate)?.into(),
                    CosineDecayRestarts::new(lr, length)?.t_mul(1.0)?.m_mul(rate)?.alpha(part)?.into(),
                    WarmupStableDecay::new(lr, length, length, length)?.end_learning_rate(rate)?.into(),
                    InverseSquareRoot::new(lr, length.max(1.0))?.into(),
                    OneCycle::new(lr, length.max(1.0))?.pct_start(part)?.div_factor(rate.max(1e-45))?.into(),
                ];
                for schedule in schedules {
                    for step in steps {
                        let value = schedule.at(step);
                        assert!(value >= 0.0, "{schedule:?} at {step}: {value}");
                    }
                }
            }
        }
    }
    Ok(())
}

#[test]
fn steps_are_f32_but_for_boundaries() -> Result<(), Error> {
    let boundary = (1 << 24) + 1;
    let pieces = Schedule::from(PiecewiseConstantDecay::new([boundary as f64], [1.0, 0.5])?);
    assert_eq!([pieces.at(boundary), pieces.at(boundary + 1)], [1.0, 0.5]);
    let stairs = Schedule::from(ExponentialDecay::new(1.0, boundary as f64, 0.5)?.staircase(true));
    // The length is 2^24 as f32, as the step is.
    assert_eq!([stairs.at(boundary - 2), stairs.at(boundary - 1), stairs.at(boundary)], [1.0, 0.5, 0.5]);
    Ok(())
}

#[test]
fn wrong_arguments_are_named() {
    fn message<T: std::fmt::Debug>(result: Result<T, Error>) -> String {
        result.unwrap_err().to_string()
    }
    let nan = f64::NAN;
    let cosine = || CosineDecay::new(0.1, 10.0).unwrap();
    let restarts = || CosineDecayRestarts::new(0.1, 10.0).unwrap();
    let polynomial = || PolynomialDecay::new(0.1, 10.0).unwrap();
    let cycle = || OneCycle::new(0.1, 10.0).unwrap();
    let stable = || WarmupStableDecay::new(0.1, 1.0, 1.0, 1.0).unwrap();
    let mut deep = Schedule::from(Constant::new(0.1).unwrap());
    for _ in 0..15 {
        deep = LinearWarmup::new(1, deep).unwrap().into();
    }
    for (found, expected) in [
        (message(Constant::new(-1.0)), "learning_rate is -1, and must be in [0, inf)"),
        (message(Constant::new(1e39)), "learning_rate is 1e39, which is inf as f32, and must be in [0, inf)"),
        (
            message(ExponentialDecay::new(-0.1, 1.0, 1.0)),
            "initial_learning_rate is -0.1, and must be in [0, inf)",
        ),
        (message(ExponentialDecay::new(0.1, 0.0, 1.0)), "decay_steps is 0, and must be in (0, inf)"),
        (
            message(ExponentialDecay::new(0.1, 1e-50, 1.0)),
            "decay_steps is 1e-50, which is 0 as f32, and must be in (0, inf)",
        ),
        (message(ExponentialDecay::new(0.1, 1.0, nan)), "decay_rate is NaN, and must be in [0, inf)"),
        (
            message(InverseTimeDecay::new(nan, 1.0, 1.0)),
            "initial_learning_rate is NaN, and must be in [0, inf)",
        ),
        (message(InverseTimeDecay::new(0.1, -1.0, 1.0)), "decay_steps is -1, and must be in (0, inf)"),
        (message(InverseTimeDecay::new(0.1, 1.0, -1.0)), "decay_rate is -1, and must be in [0, inf)"),
        (
            message(PiecewiseConstantDecay::new([1.0], [1.0])),
            "values is a list of 1, and must be one longer than boundaries, a list of 1",
        ),
        (
            message(PiecewiseConstantDecay::new([], [])),
            "values is a list of 0, and must be one longer than boundaries, a list of 0",
        ),
        (
            message(PiecewiseConstantDecay::new([2.0, 1.0], [1.0; 3])),
            "boundaries[1] is 1, and must be in [2, inf), from the one before",
        ),
        (
            message(PiecewiseConstantDecay::new([f64::INFINITY], [1.0; 2])),
            "boundaries[0] is inf, and must be in [0, inf)",
        ),
        (
            message(PiecewiseConstantDecay::new([1.0], [1.0, nan])),
            "values[1] is NaN, and must be in [0, inf)",
        ),
        (message(PolynomialDecay::new(0.1, nan)), "decay_steps is NaN, and must be in (0, inf)"),
        (message(PolynomialDecay::new(-0.1, 1.0)), "initial_learning_rate is -0.1, and must be in [0, inf)"),
        (message(polynomial().end_learning_rate(-1.0)), "end_learning_rate is -1, and must be in [0, inf)"),
        (message(polynomial().power(-1.0)), "power is -1, and must be in [0, inf)"),
        (message(CosineDecay::new(0.1, -2.5)), "decay_steps is -2.5, and must be in (0, inf)"),
        (message(CosineDecay::new(nan, 1.0)), "initial_learning_rate is NaN, and must be in [0, inf)"),
        (message(cosine().alpha(1.5)), "alpha is 1.5, and must be in [0, 1]"),
        (message(cosine().warmup(-1.0, 1.0)), "warmup_target is -1, and must be in [0, inf)"),
        (message(cosine().warmup(1.0, -1.0)), "warmup_steps is -1, and must be in [0, inf)"),
        (message(CosineDecayRestarts::new(0.1, 0.0)), "first_decay_steps is 0, and must be in (0, inf)"),
        (
            message(CosineDecayRestarts::new(-1.0, 1.0)),
            "initial_learning_rate is -1, and must be in [0, inf)",
        ),
        (message(restarts().t_mul(0.0)), "t_mul is 0, and must be in (0, inf)"),
        (message(restarts().m_mul(-1.0)), "m_mul is -1, and must be in [0, inf)"),
        (message(restarts().alpha(nan)), "alpha is NaN, and must be in [0, 1]"),
        (message(LinearWarmup::new(1, deep)), "after is 17 schedules deep, and must be at most 16 deep"),
        (
            message(LinearWarmup::new(1, cosine()).unwrap().initial_learning_rate(-1.0)),
            "initial_learning_rate is -1, and must be in [0, inf)",
        ),
        (
            message(WarmupStableDecay::new(nan, 1.0, 1.0, 1.0)),
            "peak_learning_rate is NaN, and must be in [0, inf)",
        ),
        (message(WarmupStableDecay::new(1.0, -1.0, 1.0, 1.0)), "warmup_steps is -1, and must be in [0, inf)"),
        (message(WarmupStableDecay::new(1.0, 1.0, -1.0, 1.0)), "stable_steps is -1, and must be in [0, inf)"),
        (message(WarmupStableDecay::new(1.0, 1.0, 1.0, 0.0)), "decay_steps is 0, and must be in (0, inf)"),
        (message(stable().end_learning_rate(-1.0)), "end_learning_rate is -1, and must be in [0, inf)"),
        (message(InverseSquareRoot::new(-1.0, 1.0)), "peak_learning_rate is -1, and must be in [0, inf)"),
        (message(InverseSquareRoot::new(1.0, 0.5)), "warmup_steps is 0.5, and must be in [1, inf)"),
        (message(InverseSquareRoot::noam(0.0, 1.0)), "model_width is 0, and must be in [1, inf)"),
        (message(OneCycle::new(-1.0, 1.0)), "max_learning_rate is -1, and must be in [0, inf)"),
        (message(OneCycle::new(1.0, 0.0)), "total_steps is 0, and must be in [1, inf)"),
        (message(cycle().pct_start(1.1)), "pct_start is 1.1, and must be in [0, 1]"),
        (message(cycle().div_factor(0.0)), "div_factor is 0, and must be in (0, inf)"),
        (message(cycle().final_div_factor(nan)), "final_div_factor is NaN, and must be in (0, inf)"),
    ] {
        assert_eq!(found, expected);
    }
}
