//! A plan's result against the reference, by bits.
//!
//! The tensors repeat a pattern of a few blocks, so that the reference, which is slow, need compute no more than the
//! pattern, and yet a plan with large chunks is tried on tensors that it cuts.

use bytemuck::{NoUninit, must_cast_slice};
use fastrand::Rng;
use half::{bf16, f16};
use lion_kernels::reference::{Float, Settings};
use lion_kernels::{
    BLOCK, Dtype, Element, Ema, GradientStatistics, GradientTransform, Plan, StepTensors, Task, run,
};

use super::scratch::step;
use crate::Error;
use crate::case::{Dtypes, Operation};

/// Elements of the pattern.
const PERIOD: usize = 4 * BLOCK;

/// Elements after the last whole block.
const REST: usize = 17;

/// A format of tensors, for kernels and reference alike.
trait Format: Element + Float + NoUninit {}

impl<T: Element + Float + NoUninit> Format for T {}

/// Evaluates an expression with a type alias bound to the element type of a [`Dtype`].
macro_rules! with_dtype {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            Dtype::F32 => {
                type $T = f32;
                $body
            }
            Dtype::F16 => {
                type $T = f16;
                $body
            }
            Dtype::BF16 => {
                type $T = bf16;
                $body
            }
        }
    };
}

pub(super) fn has_the_reference_s_bits(
    operation: Operation,
    dtypes: Dtypes,
    plan: &Plan,
) -> Result<bool, Error> {
    let Dtypes { parameter, gradient, momentum } = dtypes;
    let len = 2 * plan.chunk_elements + REST;
    match operation {
        Operation::Step => {
            with_dtype!(parameter, P => with_dtype!(gradient, G => with_dtype!(momentum, M => {
                has_step::<P, G, M>(plan, len)
            })))
        }
        Operation::Statistics => with_dtype!(gradient, G => has_statistics::<G>(plan, len)),
        Operation::Accumulate => with_dtype!(gradient, G => has_accumulate::<G>(plan, len)),
        Operation::Average => with_dtype!(parameter, P => has_average::<P>(plan, len)),
        Operation::Convert => {
            with_dtype!(parameter, P => with_dtype!(gradient, G => has_convert::<P, G>(plan, len)))
        }
    }
}

/// Ordinary numbers, and some that are zero, tiny, or below what a format has.
fn pattern<T: Format>(seed: u64) -> Vec<T> {
    let mut rng = Rng::with_seed(seed);
    let number = |rng: &mut Rng| match rng.u8(..8) {
        0 => 0.0,
        1 => -0.0,
        2 => (rng.f32() - 0.5) * 1e-4,
        3 => (rng.f32() - 0.5) * 1e-39,
        _ => rng.f32() * 4.0 - 2.0,
    };
    (0..PERIOD).map(|_| T::round(number(&mut rng))).collect()
}

fn repeated<T: Copy>(pattern: &[T], len: usize) -> Vec<T> {
    pattern.iter().copied().cycle().take(len).collect()
}

fn repeats<T: NoUninit>(found: &[T], pattern: &[T]) -> bool {
    found.chunks(pattern.len().max(1)).all(|part| {
        let expected = pattern.get(..part.len()).unwrap_or_default();
        must_cast_slice::<T, u8>(part) == must_cast_slice::<T, u8>(expected)
    })
}

fn has_step<P: Format, G: Format, M: Format>(plan: &Plan, len: usize) -> Result<bool, Error> {
    let (mut p, g, mut m) = (pattern::<P>(1), pattern::<G>(2), pattern::<M>(3));
    let (mut parameter, gradient, mut momentum) = (repeated(&p, len), repeated(&g, len), repeated(&m, len));
    let tensors = StepTensors::in_place(&mut parameter, &gradient, &mut momentum);
    run(plan, &mut [Task::step(step()?, tensors)?])?;
    let pass = Settings {
        learning_rate: 1e-4,
        beta_1: 0.9,
        beta_2: 0.99,
        weight_decay: Some(0.1),
        ..Settings::default()
    };
    pass.step::<P, G, M, f32>(&mut p, &g, &mut m, None, None, None);
    Ok(repeats(&parameter, &p) && repeats(&momentum, &m))
}

fn has_statistics<G: Format>(plan: &Plan, len: usize) -> Result<bool, Error> {
    let g = pattern::<G>(2);
    let gradient = repeated(&g, len);
    let mut blocks = vec![GradientStatistics::default(); len.div_ceil(BLOCK)];
    run(plan, &mut [Task::statistics(&GradientTransform::new(), &gradient, None, &mut blocks)?])?;
    let as_expected = |found: &GradientStatistics, block: &[G]| {
        let (sum, non_finite, largest) = Settings::default().statistics(block, None);
        (found.sum_of_squares.to_bits(), found.non_finite, found.max_abs.to_bits())
            == (sum.to_bits(), non_finite, largest.to_bits())
    };
    // The blocks repeat, but for the last.
    let Some((last, whole)) = blocks.split_last() else { return Ok(true) };
    let first = whole.iter().zip(g.chunks(BLOCK)).all(|(found, block)| as_expected(found, block));
    let periodic = whole.iter().zip(whole.iter().skip(PERIOD / BLOCK)).all(|(a, b)| a == b);
    Ok(first && periodic && gradient.chunks(BLOCK).next_back().is_some_and(|block| as_expected(last, block)))
}

fn has_accumulate<G: Format>(plan: &Plan, len: usize) -> Result<bool, Error> {
    let (mut sums, g) = (pattern::<f32>(3), pattern::<G>(2));
    let (mut accumulator, gradient) = (repeated(&sums, len), repeated(&g, len));
    run(plan, &mut [Task::accumulate(&GradientTransform::new(), &mut accumulator, &gradient)?])?;
    Settings::default().accumulate(&mut sums, &g);
    Ok(repeats(&accumulator, &sums))
}

fn has_average<P: Format>(plan: &Plan, len: usize) -> Result<bool, Error> {
    let (mut a, mut p) = (pattern::<f32>(3), pattern::<P>(1));
    let (mut average, mut parameter) = (repeated(&a, len), repeated(&p, len));
    run(plan, &mut [Task::update_ema(&Ema::new(0.99)?, &mut average, &mut parameter)?])?;
    Settings { ema_momentum: Some(0.99), ..Settings::default() }.average(&mut a, &mut p);
    Ok(repeats(&average, &a) && repeats(&parameter, &p))
}

fn has_convert<P: Format, G: Format>(plan: &Plan, len: usize) -> Result<bool, Error> {
    let g = pattern::<G>(2);
    let (source, mut target) = (repeated(&g, len), vec![P::default(); len]);
    run(plan, &mut [Task::convert(&source, &mut target)?])?;
    let expected: Vec<P> = g.iter().map(|value| P::round(value.widen())).collect();
    Ok(repeats(&target, &expected))
}
