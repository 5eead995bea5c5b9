//! Schedules with arbitrary arguments, at arbitrary steps. The value is never negative or NaN. It is infinite only for
//! schedules that grow without bound. A schedule read from a file gives the same values.

use arbitrary::{Arbitrary, Unstructured};
use lion::schedule::{
    Constant, CosineDecay, CosineDecayRestarts, DecayShape, ExponentialDecay, InverseSquareRoot,
    InverseTimeDecay, LinearWarmup, OneCycle, PiecewiseConstantDecay, PolynomialDecay, WarmupStableDecay,
};
use lion::{Config, Error, Hyperparameter, Schedule};

/// A number that is mostly in the range of f32, as arguments must be.
#[derive(Clone, Copy, Debug)]
struct Number(f64);

impl<'a> Arbitrary<'a> for Number {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        Ok(Number(match u.int_in_range(0..=5)? {
            0 => f64::from_bits(u.arbitrary()?),
            1 => f64::from(u.arbitrary::<u16>()?),
            2 => f64::from(u.arbitrary::<u8>()?) / 255.0,
            3 => *u.choose(&[0.0, 1.0, 0.5, 1e-45, 3.4e38, 16_777_216.0, 16_777_217.0, -1.0])?,
            _ => f64::from(f32::from_bits(u.arbitrary::<u32>()? & 0x7fff_ffff)),
        }))
    }
}

#[derive(Arbitrary, Debug)]
enum Kind {
    Constant(Number),
    Exponential { lr: Number, steps: Number, rate: Number, staircase: bool },
    InverseTime { lr: Number, steps: Number, rate: Number, staircase: bool },
    Piecewise { boundaries: Vec<Number>, values: Vec<Number> },
    Polynomial { lr: Number, steps: Number, end: Number, power: Number, cycle: bool },
    Cosine { lr: Number, steps: Number, alpha: Number, warmup: Option<(Number, Number)> },
    Restarts { lr: Number, steps: Number, t_mul: Number, m_mul: Number, alpha: Number },
    Stable { lr: Number, steps: [Number; 3], end: Number, shape: u8 },
    Root { lr: Number, steps: Number },
    Noam { width: Number, steps: Number },
    OneCycle { lr: Number, steps: Number, start: Number, div: Number, final_div: Number },
}

#[derive(Arbitrary, Debug)]
struct Input {
    kind: Kind,
    warmups: Vec<(u64, Number)>,
    calls: Vec<u64>,
}

fn build(kind: &Kind) -> Result<Schedule, Error> {
    let all = |numbers: &[Number]| numbers.iter().map(|number| number.0).collect::<Vec<_>>();
    Ok(match kind {
        Kind::Constant(lr) => Constant::new(lr.0)?.into(),
        Kind::Exponential { lr, steps, rate, staircase } => {
            ExponentialDecay::new(lr.0, steps.0, rate.0)?.staircase(*staircase).into()
        }
        Kind::InverseTime { lr, steps, rate, staircase } => {
            InverseTimeDecay::new(lr.0, steps.0, rate.0)?.staircase(*staircase).into()
        }
        Kind::Piecewise { boundaries, values } => {
            PiecewiseConstantDecay::new(all(boundaries), all(values))?.into()
        }
        Kind::Polynomial { lr, steps, end, power, cycle } => {
            let decay = PolynomialDecay::new(lr.0, steps.0)?.end_learning_rate(end.0)?;
            decay.power(power.0)?.cycle(*cycle).into()
        }
        Kind::Cosine { lr, steps, alpha, warmup } => {
            let decay = CosineDecay::new(lr.0, steps.0)?.alpha(alpha.0)?;
            match warmup {
                None => decay.into(),
                Some((target, steps)) => decay.warmup(target.0, steps.0)?.into(),
            }
        }
        Kind::Restarts { lr, steps, t_mul, m_mul, alpha } => {
            let decay = CosineDecayRestarts::new(lr.0, steps.0)?;
            decay.t_mul(t_mul.0)?.m_mul(m_mul.0)?.alpha(alpha.0)?.into()
        }
        Kind::Stable { lr, steps: [warmup, stable, decay], end, shape } => {
            let shapes = [DecayShape::Linear, DecayShape::Cosine, DecayShape::OneMinusSqrt];
            let schedule = WarmupStableDecay::new(lr.0, warmup.0, stable.0, decay.0)?;
            schedule.end_learning_rate(end.0)?.shape(shapes[usize::from(*shape) % shapes.len()]).into()
        }
        Kind::Root { lr, steps } => InverseSquareRoot::new(lr.0, steps.0)?.into(),
        Kind::Noam { width, steps } => InverseSquareRoot::noam(width.0, steps.0)?.into(),
        Kind::OneCycle { lr, steps, start, div, final_div } => {
            let cycle = OneCycle::new(lr.0, steps.0)?.pct_start(start.0)?;
            cycle.div_factor(div.0)?.final_div_factor(final_div.0)?.into()
        }
    })
}

fn may_grow(kind: &Kind) -> bool {
    match kind {
        Kind::Exponential { rate, .. } => rate.0 > 1.0,
        Kind::Restarts { m_mul, .. } => m_mul.0 > 1.0,
        Kind::OneCycle { div, final_div, .. } => div.0 < 1.0 || final_div.0 < 1.0,
        _ => false,
    }
}

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    let Ok(mut schedule) = build(&input.kind) else { return };
    for (steps, start) in input.warmups.iter().take(20) {
        let warmup = LinearWarmup::new(*steps, schedule.clone());
        let Ok(warmup) = warmup.and_then(|warmup| warmup.initial_learning_rate(start.0)) else { return };
        schedule = warmup.into();
    }
    let mut config = Config::default();
    config.learning_rate = Hyperparameter::from(schedule.clone());
    let text = config.to_lion_json().expect("no closure");
    let again = Config::from_json(&text).expect("what is written can be read");
    assert_eq!(again, config);
    for call in input.calls.iter().copied().chain([0, 1, 2, 1 << 24, u64::MAX]) {
        let value = schedule.at(call);
        assert!(value >= 0.0, "{value} in call {call}");
        assert!(value.is_finite() || may_grow(&input.kind), "{value} in call {call}");
        assert_eq!(again.learning_rate.at(call).to_bits(), value.to_bits());
    }
}
