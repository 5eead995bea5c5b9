//! Arbitrary passes of the kernels, on every backend of this machine, whole and split for threads. Each is compared bit
//! for bit with the scalar reference.

use arbitrary::{Arbitrary, Unstructured};
use half::{bf16, f16};
use lion_kernels::reference::Settings;
use lion_kernels::{Backend, Dtype, GradientStatistics, Plan, Prefetch, Role, STATISTICS_BLOCK, Task, run};
use lion_tests::alone::{accumulate, apply, convert, update_ema};
use lion_tests::{Case, Sample, settings};

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Operation {
    Step { in_place: bool },
    Accumulate,
    Average,
    Convert,
    Statistics,
}

#[derive(Arbitrary, Debug)]
enum Clip {
    None,
    Value(f32),
    Norm(f32, f32),
    Global(f64, f32),
}

/// A list of tasks on threads; without, a call on one.
#[derive(Arbitrary, Debug)]
struct Cut {
    threads: u8,
    blocks: u8,
    prefetch: bool,
}

#[derive(Arbitrary, Debug)]
struct Input {
    operation: Operation,
    rates: [f32; 3],
    weight_decay: Option<f32>,
    loss_scale: Option<f32>,
    accumulation_steps: Option<u32>,
    clip: Clip,
    ema: Option<(f32, bool)>,
    /// Of parameter, gradient and momentum, and of a copy, where there is one.
    formats: [u8; 4],
    misalignment: [u8; 3],
    cut: Option<Cut>,
    /// How often the elements come one after the other, in the low five bits. Two more say whether the decay is masked,
    /// and whether the step goes up the gradient: so they cost no byte, and older seeds keep their meaning.
    repeats: u8,
    elements: Vec<[u32; 5]>,
}

/// A run over a fuzzer's bytes.
pub fn fuzz(bytes: &[u8]) {
    let Ok(input) = Input::arbitrary_take_rest(Unstructured::new(bytes)) else { return };
    match input.formats[0] % 3 {
        0 => with_parameter::<f32>(&input),
        1 => with_parameter::<f16>(&input),
        _ => with_parameter::<bf16>(&input),
    }
}

fn with_parameter<P: Sample>(input: &Input) {
    match input.formats[1] % 3 {
        0 => with_gradient::<P, f32>(input),
        1 => with_gradient::<P, f16>(input),
        _ => with_gradient::<P, bf16>(input),
    }
}

fn with_gradient<P: Sample, G: Sample>(input: &Input) {
    match input.formats[2] % 3 {
        0 => check::<P, G, f32>(input),
        1 => check::<P, G, f16>(input),
        _ => check::<P, G, bf16>(input),
    }
}

/// A number from 0 to 1: itself, where it is one.
fn fraction(number: f32) -> f32 {
    if (0.0..=1.0).contains(&number) { number } else { (number.to_bits() >> 8) as f32 / (1 << 24) as f32 }
}

/// A number that is neither negative nor NaN: itself, where it is one.
fn not_negative(number: f32) -> f32 {
    if number >= 0.0 { number } else { f32::from_bits(number.to_bits() & 0x7F7F_FFFF) }
}

/// The settings, mostly such as the kernels accept.
fn pass(input: &Input) -> Settings {
    let [learning_rate, beta_1, beta_2] = input.rates;
    let pass = Settings {
        learning_rate: not_negative(learning_rate),
        beta_1: fraction(beta_1),
        beta_2: fraction(beta_2),
        weight_decay: input.weight_decay.map(not_negative),
        masked_decay: input.repeats & 0x20 != 0,
        maximize: input.repeats & 0x40 != 0,
        loss_scale: input.loss_scale.map(not_negative),
        accumulation_steps: input.accumulation_steps.map(|steps| 2 + steps % ((1 << 24) - 1)),
        ema_momentum: input.ema.map(|(momentum, _)| fraction(momentum)),
        ema_overwrite: input.ema.is_some_and(|(_, overwrite)| overwrite),
        ..Settings::default()
    };
    match input.clip {
        Clip::None => pass,
        Clip::Value(limit) => Settings { clip_value: Some(not_negative(limit)), ..pass },
        Clip::Norm(limit, norm) => {
            Settings { clip_norm: Some((not_negative(limit), not_negative(norm))), ..pass }
        }
        // The limit of a joint norm is the optimizer's to check.
        Clip::Global(limit, norm) if limit > 0.0 && limit.is_finite() && norm >= 0.0 => {
            Settings { global_clip_norm: Some((limit, norm)), ..pass }
        }
        Clip::Global(..) => pass,
    }
}

fn check<P: Sample, G: Sample, M: Sample>(input: &Input) {
    let pass = pass(input);
    if settings(&pass).is_err() {
        return;
    }
    fn tensor<T: Sample>(input: &Input, which: usize) -> Vec<T> {
        // Long enough to be cut, short enough to be quick.
        let repeats = 1 + usize::from(input.repeats) % 32;
        let len = (input.elements.len() * repeats).min(5 * STATISTICS_BLOCK);
        input.elements.iter().cycle().take(len).map(|element| T::from_low_bits(element[which])).collect()
    }
    let case = Case::<P, G, M> {
        pass,
        copy: Dtype::for_role(Role::Gradient).nth(usize::from(input.formats[3] % 4)),
        parameter: tensor(input, 0),
        gradient: tensor(input, 1),
        momentum: tensor(input, 2),
        accumulator: tensor(input, 3),
        average: tensor(input, 4),
        misalignment: input.misalignment.map(usize::from),
    };
    for backend in Backend::available() {
        match &input.cut {
            None => alone(&case, input.operation, backend),
            Some(cut) => {
                let plan = Plan::new(backend).threads(cut.threads.into()).parallel_threshold(0);
                let plan = plan.chunk_elements(usize::from(cut.blocks) * STATISTICS_BLOCK);
                let prefetch = if cut.prefetch { Prefetch::On } else { Prefetch::Off };
                planned(&case, input.operation, &plan.prefetch(prefetch));
            }
        }
    }
}

fn alone<P: Sample, G: Sample, M: Sample>(case: &Case<P, G, M>, operation: Operation, backend: Backend) {
    match operation {
        Operation::Step { in_place } => {
            case.check_step(in_place, |step, tensors| apply(step, backend, tensors));
        }
        Operation::Accumulate => {
            case.check_accumulate(|gradient, sums, g| accumulate(backend, gradient, sums, g))
        }
        Operation::Average => case.check_average(|ema, averages, p| update_ema(backend, ema, averages, p)),
        Operation::Convert => case.check_convert(|source, target| convert(backend, source, target)),
        Operation::Statistics => {
            case.check_statistics(|gradient, g, sums| GradientStatistics::measure(backend, gradient, g, sums))
        }
    }
}

fn planned<P: Sample, G: Sample, M: Sample>(case: &Case<P, G, M>, operation: Operation, plan: &Plan) {
    match operation {
        Operation::Step { in_place } => {
            case.check_step(in_place, |step, tensors| run(plan, &mut [Task::step(step, tensors)?]));
        }
        Operation::Accumulate => {
            case.check_accumulate(|gradient, sums, g| run(plan, &mut [Task::accumulate(gradient, sums, g)?]));
        }
        Operation::Average => {
            case.check_average(|ema, averages, p| run(plan, &mut [Task::update_ema(ema, averages, p)?]));
        }
        Operation::Convert => {
            case.check_convert(|source, target| run(plan, &mut [Task::convert(source, target)?]))
        }
        Operation::Statistics => case.check_statistics(|gradient, g, sums| {
            let mut blocks = vec![GradientStatistics::default(); g.len().div_ceil(STATISTICS_BLOCK)];
            run(plan, &mut [Task::statistics(gradient, g, sums, &mut blocks)?])?;
            Ok(GradientStatistics::from_blocks(&blocks))
        }),
    }
}
