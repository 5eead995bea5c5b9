//! Compares the results of a plan with the scalar reference, bit by bit.
//!
//! The tensors repeat a pattern of a few blocks. So the slow reference computes only the pattern, while the tensors are long
//! enough for a plan with large chunks to split them.

use bytemuck::cast_slice;
use fastrand::Rng;
use half::{bf16, f16};
use lion_kernels::reference::{self, Float, Settings};
use lion_kernels::{
    Dtype, Ema, GradientStatistics, GradientTransform, Plan, STATISTICS_BLOCK, StepTensors, Task, TensorBuf,
    TensorRef, run,
};

use super::machine_bench::step;
use crate::Error;
use crate::case::{Dtypes, Operation};

/// The number of elements of the pattern.
const PERIOD: usize = 4 * STATISTICS_BLOCK;

/// The number of elements after the last whole block.
const TAIL: usize = 17;

/// Returns whether a plan gives the bits of the reference. Returns an error if the operation does not support the formats.
pub(super) fn matches_reference(operation: Operation, dtypes: Dtypes, plan: &Plan) -> Result<bool, Error> {
    let Dtypes { parameter, gradient, momentum } = dtypes;
    let len = 2 * plan.chunk_elements + TAIL;
    match operation {
        Operation::Step => check_step(plan, dtypes, len),
        Operation::Statistics => check_statistics(plan, gradient, len),
        Operation::Accumulate => check_accumulate(plan, gradient, len),
        Operation::Average => check_average(plan, parameter, len),
        Operation::Convert => check_convert(plan, momentum, gradient, len),
    }
}

/// Returns the values of a pattern in a format: ordinary numbers, and some that are zero, tiny, or subnormal in the
/// format.
fn pattern(dtype: Dtype, seed: u64) -> Vec<f32> {
    let mut rng = Rng::with_seed(seed);
    let number = |rng: &mut Rng| match rng.u8(..8) {
        0 => 0.0,
        1 => -0.0,
        2 => (rng.f32() - 0.5) * 1e-4,
        3 => (rng.f32() - 0.5) * 1e-39,
        _ => rng.f32() * 4.0 - 2.0,
    };
    let numbers: Vec<f32> = (0..PERIOD).map(|_| number(&mut rng)).collect();
    match dtype {
        Dtype::F16 => numbers.iter().map(|&value| f16::round(value).widen()).collect(),
        Dtype::BF16 => numbers.iter().map(|&value| bf16::round(value).widen()).collect(),
        Dtype::Q8 => {
            let (codes, scales) = reference::q8_encode(&numbers);
            reference::q8_decode(&codes, &scales)
        }
        _ => numbers,
    }
}

/// Encodes values with the reference, and returns the bytes of each stream.
fn stored(dtype: Dtype, values: &[f32]) -> [Vec<u8>; 2] {
    fn bytes<T: bytemuck::NoUninit>(entries: Vec<T>) -> Vec<u8> {
        cast_slice(&entries).to_vec()
    }
    let one = |bytes| [bytes, Vec::new()];
    match dtype {
        Dtype::F16 => one(bytes(values.iter().map(|&value| f16::round(value)).collect())),
        Dtype::BF16 => one(bytes(values.iter().map(|&value| bf16::round(value)).collect())),
        Dtype::Split => {
            let (high, low): (Vec<_>, Vec<_>) = values.iter().map(|&value| reference::split(value)).unzip();
            [bytes(high), bytes(low)]
        }
        Dtype::Q8 => {
            let (codes, scales) = reference::q8_encode(values);
            [bytes(codes), bytes(scales)]
        }
        _ => one(bytes(values.to_vec())),
    }
}

/// Returns a tensor of `len` elements that repeats the values.
fn repeated(dtype: Dtype, values: &[f32], len: usize) -> Result<TensorBuf, Error> {
    let mut tensor = TensorBuf::zeroed(dtype, len)?;
    for (index, pattern) in stored(dtype, values).iter().enumerate() {
        let mut tensor = tensor.to_mut();
        let bytes = tensor.as_bytes_mut(index).unwrap_or_default();
        bytes.iter_mut().zip(pattern.iter().cycle()).for_each(|(to, from)| *to = *from);
    }
    Ok(tensor)
}

/// Returns whether a tensor repeats the expected pattern. `expected` computes the values for the first elements of the
/// pattern.
fn repeats(found: TensorRef<'_>, expected: impl Fn(usize) -> Vec<f32>) -> bool {
    let dtype = found.dtype();
    let whole = stored(dtype, &expected(PERIOD));
    (0..found.len()).step_by(PERIOD).all(|start| {
        let end = found.len().min(start + PERIOD);
        let Ok(part) = found.range(start..end) else { return false };
        let of_rest = (end - start < PERIOD).then(|| stored(dtype, &expected(end - start)));
        let expected = of_rest.as_ref().unwrap_or(&whole);
        expected.iter().enumerate().all(|(index, bytes)| part.as_bytes(index).unwrap_or_default() == bytes)
    })
}

/// Returns the first elements of a pattern.
fn first(pattern: &[f32], len: usize) -> Vec<f32> {
    pattern.iter().copied().take(len).collect()
}

fn check_step(
    plan: &Plan,
    Dtypes { parameter, gradient, momentum }: Dtypes,
    len: usize,
) -> Result<bool, Error> {
    let (p, g, m) = (pattern(parameter, 1), pattern(gradient, 2), pattern(momentum, 3));
    let of_g = repeated(gradient, &g, len)?;
    let (mut of_p, mut of_m) = (repeated(parameter, &p, len)?, repeated(momentum, &m, len)?);
    let tensors = StepTensors::in_place(of_p.to_mut(), of_g.to_ref(), of_m.to_mut());
    run(plan, &mut [Task::step(step()?, tensors)?])?;
    let pass = Settings {
        learning_rate: 1e-4,
        beta_1: 0.9,
        beta_2: 0.99,
        weight_decay: Some(0.1),
        ..Settings::default()
    };
    let expected = |len| {
        let (mut p, mut m) = (first(&p, len), first(&m, len));
        pass.step(&mut p, &first(&g, len), &mut m, None, None, None::<&mut [f32]>);
        (p, m)
    };
    Ok(repeats(of_p.to_ref(), |len| expected(len).0) && repeats(of_m.to_ref(), |len| expected(len).1))
}

fn check_statistics(plan: &Plan, gradient: Dtype, len: usize) -> Result<bool, Error> {
    let g = pattern(gradient, 2);
    let of_g = repeated(gradient, &g, len)?;
    let mut blocks = vec![GradientStatistics::default(); len.div_ceil(STATISTICS_BLOCK)];
    run(plan, &mut [Task::statistics(&GradientTransform::new(), of_g.to_ref(), None, &mut blocks)?])?;
    let as_expected = |found: &GradientStatistics, block: &[f32]| {
        let (sum, non_finite, largest) = Settings::default().statistics(block, None);
        (found.sum_of_squares.to_bits(), found.non_finite, found.max_abs.to_bits())
            == (sum.to_bits(), non_finite, largest.to_bits())
    };
    // The blocks repeat, except the last one.
    let Some((last, whole)) = blocks.split_last() else { return Ok(true) };
    let known = whole.iter().zip(g.chunks(STATISTICS_BLOCK)).all(|(found, block)| as_expected(found, block));
    let periodic = whole.iter().zip(whole.iter().skip(PERIOD / STATISTICS_BLOCK)).all(|(a, b)| a == b);
    let rest: Vec<f32> = g
        .iter()
        .cycle()
        .copied()
        .skip(whole.len() % (PERIOD / STATISTICS_BLOCK) * STATISTICS_BLOCK)
        .take(STATISTICS_BLOCK)
        .collect();
    let of_last =
        rest.get(..len - whole.len() * STATISTICS_BLOCK).is_some_and(|block| as_expected(last, block));
    Ok(known && periodic && of_last)
}

fn check_accumulate(plan: &Plan, gradient: Dtype, len: usize) -> Result<bool, Error> {
    let (sums, g) = (pattern(Dtype::F32, 3), pattern(gradient, 2));
    let (mut accumulator, of_g) = (repeated(Dtype::F32, &sums, len)?, repeated(gradient, &g, len)?);
    run(plan, &mut [Task::accumulate(&GradientTransform::new(), accumulator.to_mut(), of_g.to_ref())?])?;
    Ok(repeats(accumulator.to_ref(), |len| {
        let mut sums = first(&sums, len);
        Settings::default().accumulate(&mut sums, &first(&g, len));
        sums
    }))
}

fn check_average(plan: &Plan, parameter: Dtype, len: usize) -> Result<bool, Error> {
    let (a, p) = (pattern(Dtype::F32, 3), pattern(parameter, 1));
    let (mut average, mut of_p) = (repeated(Dtype::F32, &a, len)?, repeated(parameter, &p, len)?);
    run(plan, &mut [Task::update_ema(&Ema::new(0.99)?, average.to_mut(), of_p.to_mut())?])?;
    let averages = repeats(average.to_ref(), |len| {
        let mut a = first(&a, len);
        Settings { ema_momentum: Some(0.99), ..Settings::default() }.update_ema(&mut a, &mut first(&p, len));
        a
    });
    Ok(averages && repeats(of_p.to_ref(), |len| first(&p, len)))
}

fn check_convert(plan: &Plan, target: Dtype, source: Dtype, len: usize) -> Result<bool, Error> {
    let g = pattern(source, 2);
    let (of_g, mut copy) = (repeated(source, &g, len)?, TensorBuf::zeroed(target, len)?);
    run(plan, &mut [Task::convert(of_g.to_ref(), copy.to_mut())?])?;
    Ok(repeats(copy.to_ref(), |len| first(&g, len)))
}
