//! Tests of the engine with two test-only formats: one with two streams, one with blocks. Each result is compared with
//! the same task in f32, between calls of the formats' conversion loops.

use alloc::string::ToString;
use alloc::vec;
use alloc::vec::Vec;

use half::bf16;

use super::fused::StoreStochastic;
use crate::isa::{Isa, Kernel};
use crate::reference::random_bits;
use crate::{
    Arena, Backend, Dtype, Ema, GradientTransform, LionStep, Plan, STATISTICS_BLOCK, StepTensors,
    StochasticRounding, Task, TensorMut, TensorRef, run,
};

const BLOCK: usize = STATISTICS_BLOCK;

/// Returns every length up to four chunks of the longest vectors, and some lengths around tiles and blocks.
fn lengths() -> impl Iterator<Item = usize> {
    (0..=129).chain([511, 512, 513, 1025, BLOCK - 1, BLOCK, BLOCK + 65, 3 * BLOCK + 1])
}

fn numbers(seed: u32, len: usize) -> Vec<f32> {
    let number = |index: usize| {
        let bits = (index as u32 + 1).wrapping_mul(seed).wrapping_mul(0x9e37_79b9);
        (f32::from_bits(bits >> 9 | 0x3f80_0000) - 1.5) * if bits & 0x30 == 0 { 100.0 } else { 0.01 }
    };
    (0..len).map(number).collect()
}

/// Stores the values in a tensor of a format, and replaces them by the rounded values.
fn stored(dtype: Dtype, values: &mut [f32]) -> Arena {
    let mut arena = Arena::new();
    arena.push(dtype, values.len()).expect("memory");
    let mut tensor = arena.tensor_mut(0).expect("pushed");
    tensor.write_f32(0, values).expect("all of it");
    tensor.to_ref().read_f32(0, values).expect("all of it");
    arena
}

fn step() -> LionStep {
    let step = LionStep::new(0.01, 0.9, 0.99).expect("valid").weight_decay(0.1).expect("valid");
    step.ema(Ema::new(0.5).expect("valid").overwrite(true))
}

#[track_caller]
fn assert_same(found: TensorRef<'_>, expected: TensorRef<'_>, what: &str) {
    for stream in 0..found.dtype().streams().len() {
        assert!(found.as_bytes(stream) == expected.as_bytes(stream), "{what}: stream {stream}");
    }
}

#[test]
fn formats_of_two_streams_and_of_blocks_need_nothing_of_the_engine() {
    for (parameter, momentum) in [
        (Dtype::Halves, Dtype::Scaled),
        (Dtype::Halves, Dtype::F32),
        (Dtype::BF16, Dtype::Scaled),
        (Dtype::Scaled, Dtype::Halves),
    ] {
        for len in lengths() {
            let (mut p, g, mut m, mut ema) =
                (numbers(3, len), numbers(5, len), numbers(7, len), numbers(11, len));
            let (p_tensor, m_tensor) = (stored(parameter, &mut p), stored(momentum, &mut m));
            let ema_before = ema.clone();
            // The same step in f32, stage by stage.
            let plain = LionStep { ema: None, ..step() };
            let tensors = StepTensors::in_place(&mut p, &g, &mut m);
            Task::step(plain, tensors).and_then(|mut task| task.run(Backend::Scalar)).expect("a step");
            let (mut p_expected, m_expected) = (stored(parameter, &mut p), stored(momentum, &mut m));
            for (average, value) in ema.iter_mut().zip(&p) {
                *average = 0.5 * *average + 0.5 * value;
            }
            p_expected.tensor_mut(0).expect("pushed").write_f32(0, &ema).expect("all of it");

            for backend in Backend::available() {
                for threads in [1, 2] {
                    let (mut p_found, mut m_found) = (p_tensor.clone(), m_tensor.clone());
                    let mut average = ema_before.clone();
                    let tensors = StepTensors::in_place(
                        p_found.tensor_mut(0).expect("pushed"),
                        &g,
                        m_found.tensor_mut(0).expect("pushed"),
                    );
                    let task = Task::step(step(), tensors.ema(&mut average)).expect("fits");
                    let plan =
                        Plan::new(backend).threads(threads).chunk_elements(BLOCK).parallel_threshold(0);
                    run(&plan, &mut [task]).expect("it runs");
                    let what = alloc::format!("{len} elements of {parameter}/f32/{momentum} on {backend}");
                    assert_same(p_found.tensor(0).expect("it"), p_expected.tensor(0).expect("it"), &what);
                    assert_same(m_found.tensor(0).expect("it"), m_expected.tensor(0).expect("it"), &what);
                    assert_same((&average).into(), (&ema).into(), &what);
                }
            }
        }
    }
}

#[test]
fn conversions_and_statistics_of_every_format() {
    for &dtype in Dtype::ALL {
        for len in lengths() {
            let mut values = numbers(13, len);
            let tensor = stored(dtype, &mut values);
            for backend in Backend::available() {
                let mut back = vec![0.0; len];
                let task = Task::convert(tensor.tensor(0).expect("it"), &mut back);
                task.and_then(|mut task| task.run(backend)).expect("a conversion");
                assert_eq!(back, values, "{len} elements of {dtype} on {backend}");
                let mut again = Arena::new();
                again.push(dtype, len).expect("memory");
                let task = Task::convert(&back, again.tensor_mut(0).expect("it"));
                task.and_then(|mut task| task.run(backend)).expect("a conversion");
                let mut twice = vec![0.0; len];
                again.tensor(0).expect("it").read_f32(0, &mut twice).expect("all of it");
                assert_eq!(twice, values, "{len} elements to {dtype} on {backend}");
            }
        }
    }
}

#[test]
fn wrong_formats_and_cut_blocks_are_errors() {
    let mut arena = Arena::new();
    arena.push(Dtype::Scaled, 200).expect("memory");
    let tensor = arena.tensor(0).expect("pushed");
    assert_eq!(tensor.range(64..200).expect("whole blocks").len(), 136);
    assert_eq!(
        tensor.range(0..65).unwrap_err().to_string(),
        "the scaled tensor is cut at element 65; expected a multiple of 64"
    );
    assert_eq!(
        tensor.range(64..201).unwrap_err().to_string(),
        "the range 64..201 is not within the tensor; expected a range within 0..200"
    );
    let mut sums = vec![0.0; 200];
    let refused = |task: Result<Task<'_>, crate::Error>| task.unwrap_err().to_string();
    assert_eq!(
        refused(Task::accumulate(&GradientTransform::new(), &mut sums, tensor)),
        "the gradient is scaled; expected one of f32, f16, bf16"
    );
    let mut halves = vec![half::f16::ONE; 200];
    assert_eq!(
        refused(Task::accumulate(&GradientTransform::new(), TensorMut::from(&mut halves), &sums)),
        "the accumulator is f16; expected f32"
    );
}

/// Compares the operations on bytes and halves with plain Rust.
struct CheckBytes<'a> {
    /// 64 bytes and 64 numbers.
    bytes: &'a [i8; 64],
    numbers: &'a [u32; 64],
}

impl Kernel for CheckBytes<'_> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let CheckBytes { bytes, numbers } = self;
        let lanes = |vector: I::U32| {
            let mut lanes = [0_u32; 16];
            // SAFETY: there is room for the longest vectors.
            unsafe { isa.store(lanes.as_mut_ptr().cast(), vector) };
            lanes[..I::LANES].to_vec()
        };
        // SAFETY: there are four vectors.
        let four: [I::U32; 4] = unsafe { isa.load(numbers.as_ptr().cast()) };

        let largest = numbers.chunks(I::LANES).take(4).map(|lanes| *lanes.iter().max().expect("lanes"));
        let found = lanes(isa.largest_lanes(four));
        assert!(found.chunks(4).all(|found| found.iter().copied().eq(largest.clone())), "{found:?}");

        let halves = |a: u32, b: u32| {
            let [upper, lower] =
                [(a >> 16).saturating_sub(b >> 16), (a as u16).saturating_sub(b as u16).into()];
            upper << 16 | lower
        };
        let expected: Vec<u32> =
            (0..I::LANES).map(|lane| halves(numbers[lane], numbers[I::LANES + lane])).collect();
        assert_eq!(lanes(isa.saturating_sub_halves(four[0], four[1])), expected);

        for split in [false, true] {
            // The place of an element of a chunk: the vector and the lane.
            let place = |element: usize| match split {
                true => (element % 2, element / 2),
                false => (element / I::LANES, element % I::LANES),
            };
            // SAFETY: there are bytes for two vectors.
            let products = isa.scaled_bytes(unsafe { isa.load(bytes.as_ptr().cast()) }, 1.0 / 127.0, split);
            let products = products.map(|vector| lanes(isa.to_bits(vector)));
            for (element, &byte) in bytes.iter().enumerate().take(2 * I::LANES) {
                let (vector, lane) = place(element);
                let expected = f32::from(byte) * (1.0 / 127.0);
                assert_eq!(f32::from_bits(products[vector][lane]), expected, "element {element}, {split}");
            }

            let mut values = [[0.0; 16]; 4];
            for element in 0..4 * I::LANES {
                let (vector, lane) = place(element % (2 * I::LANES));
                let quarters = [0.0, 0.25, 0.5, -0.25, -0.5][numbers[element] as usize % 5];
                values[element / (2 * I::LANES) * 2 + vector][lane] =
                    f32::from(bytes[element].clamp(-127, 126)) + quarters;
            }
            // SAFETY: each array has the length of the longest vectors.
            let vectors = values.map(|values| unsafe { isa.load(values.as_ptr().cast()) });
            let rounded = lanes(isa.round_to_bytes(vectors, split));
            for element in 0..4 * I::LANES {
                let (vector, lane) = place(element % (2 * I::LANES));
                let value = values[element / (2 * I::LANES) * 2 + vector][lane];
                let found = rounded[element / 4].to_ne_bytes()[element % 4] as i8;
                assert_eq!(found, value.round_ties_even() as i8, "{value}, {split}");
            }
        }
    }
}

#[test]
fn operations_on_bytes_and_halves() {
    for seed in 1..200_u32 {
        let numbers: [u32; 64] =
            core::array::from_fn(|index| (index as u32 + 7).wrapping_mul(seed).wrapping_mul(0x9e37_79b9));
        let bytes = numbers.map(|number| (number >> 24) as i8);
        for backend in Backend::available() {
            backend.run(CheckBytes { bytes: &bytes, numbers: &numbers }).expect("available");
        }
    }
}

/// Rounds all 2^32 bit patterns, each with the random bits of `LION_DRAWS` steps (default 1).
#[test]
#[cfg(feature = "std")]
fn every_f32_is_rounded_at_random() {
    const CHUNK: u32 = 1 << 16;
    let calls = std::env::var("LION_DRAWS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(1);
    let draws: Vec<Vec<u16>> = (0..calls)
        .map(|call| (0..u64::from(CHUNK)).map(|index| random_bits(9, "w", call, index)).collect())
        .collect();
    for backend in Backend::available() {
        std::thread::scope(|scope| {
            for half in 0..2 {
                let draws = &draws;
                scope.spawn(move || {
                    let mut found = vec![bf16::ZERO; CHUNK as usize];
                    for chunk in half * (CHUNK / 2)..(half + 1) * (CHUNK / 2) {
                        let from: Vec<f32> =
                            (0..CHUNK).map(|low| f32::from_bits(chunk << 16 | low)).collect();
                        for (call, draws) in (0..).zip(draws) {
                            let step = step().stochastic_rounding(StochasticRounding::new(9, "w", call));
                            let (to, n) = (found.as_mut_ptr(), from.len());
                            let store = StoreStochastic { step: &step, from: from.as_ptr(), to, first: 0, n };
                            backend.run(store).expect("available");
                            let same = from.iter().zip(&found).zip(draws).all(|((value, found), draw)| {
                                let expected = match value.is_nan() {
                                    true => 0x7fc0,
                                    false => (value.to_bits().wrapping_add(u32::from(*draw)) >> 16) as u16,
                                };
                                found.to_bits() == expected
                            });
                            assert!(same, "upper half {chunk:#x} in call {call} on {backend}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn a_bandwidth_pass_moves_every_stream_and_a_second_one_restores_it() {
    const LEN: usize = 3 * BLOCK;
    for &parameter in Dtype::ALL {
        for &gradient in &[Dtype::F32, Dtype::F16, Dtype::BF16] {
            for &momentum in Dtype::ALL {
                let (p_before, g) =
                    (stored(parameter, &mut numbers(3, LEN)), stored(gradient, &mut numbers(5, LEN)));
                let m_before = stored(momentum, &mut numbers(7, LEN));
                for backend in Backend::available() {
                    let what = alloc::format!("{parameter}/{gradient}/{momentum} on {backend}");
                    let (mut p, mut m) = (p_before.clone(), m_before.clone());
                    let mut pass = || {
                        let (p, m) = (p.tensor_mut(0).expect("it"), m.tensor_mut(0).expect("it"));
                        let task = Task::bandwidth_step(p, g.tensor(0).expect("it"), m);
                        task.map(|mut task| task.run(backend).expect("available"))
                    };
                    let Ok(()) = pass() else { continue };
                    pass().expect("the same task");
                    assert_same(p.tensor(0).expect("it"), p_before.tensor(0).expect("it"), &what);
                    assert_same(m.tensor(0).expect("it"), m_before.tensor(0).expect("it"), &what);
                    let task = Task::bandwidth_step(
                        p.tensor_mut(0).expect("it"),
                        g.tensor(0).expect("it"),
                        m.tensor_mut(0).expect("it"),
                    );
                    task.and_then(|mut task| task.run(backend)).expect("available");
                    for (found, before) in [(&p, &p_before), (&m, &m_before)] {
                        let (found, before) = (found.tensor(0).expect("it"), before.tensor(0).expect("it"));
                        for stream in 0..found.dtype().streams().len() {
                            let bytes = |tensor: TensorRef<'_>| tensor.as_bytes(stream).expect("it").to_vec();
                            let (found, before) = (bytes(found), bytes(before));
                            let moved = found.iter().zip(&before).filter(|(found, before)| found != before);
                            assert!(8 * moved.count() >= found.len(), "{what}: stream {stream}");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_task_is_small() {
    assert!(size_of::<Task<'_>>() <= 208, "{}", size_of::<Task<'_>>());
}
