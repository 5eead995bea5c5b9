//! Tensors of the tuner's own, and the kernels on them.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lion_kernels::{
    Dtype, Ema, GradientStatistics, GradientTransform, LionStep, Plan, STATISTICS_BLOCK, StepTensors, Task,
    TensorBuf, TensorMut, TensorRef, run,
};

use super::{Caches, Rig, SAMPLE, check, wait_idly};
use crate::Error;
use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::Machine;

/// More memory than this is not taken for cold caches, unless one call needs it.
const MOST: u64 = 1 << 30;

/// Elements between the tensors of neighbouring calls, at least, so that they do not all begin at the same place of a
/// page.
const GAP: usize = 80;

/// The tensors of a call begin at a multiple of this, where a block of every format begins.
const WHOLE: usize = 64;

/// This machine, as a rig: three streams of memory, in which calls take turns on as many tensors as fit.
///
/// Calls run in rayon's global pool, as those of an optimizer do whose caller has none of its own. Calls that can be
/// shared among threads are a millisecond apart, as a training run makes them: back to back the workers never sleep, and
/// on two cores two threads win from 256 KiB on that lose up to 4 MiB when they must be woken.
#[derive(Debug)]
pub struct Scratch {
    begin: Instant,
    clock_step: Duration,
    /// Bytes that are more than all caches hold.
    beyond_caches: u64,
    /// Parameters, gradients and momenta; also accumulators and averages, which are f32, in the place of momenta.
    streams: [Option<TensorBuf>; 3],
    blocks: Vec<GradientStatistics>,
    case: Case,
    turns: Turns,
    checked: HashSet<(Operation, Dtypes, Plan)>,
}

/// Which tensors of a stream a call works on.
#[derive(Clone, Copy, Debug)]
struct Turns {
    elements: usize,
    slots: usize,
    stride: usize,
    next: usize,
}

impl Turns {
    fn of(case: &Case, footprint: u64) -> Self {
        let slots = (footprint / case.bytes.max(1) as u64).max(1) as usize;
        Turns { elements: case.elements(), slots, stride: stride(slots), next: 0 }
    }

    fn total(&self) -> usize {
        self.slots * self.slot()
    }

    /// Elements from the start of one call's tensors to that of the next one's.
    fn slot(&self) -> usize {
        (self.elements + GAP).next_multiple_of(WHOLE)
    }

    fn take(&mut self, caches: Caches) -> std::ops::Range<usize> {
        let slot = match caches {
            Caches::Warm => 0,
            Caches::Cold => {
                self.next = (self.next + self.stride) % self.slots;
                self.next
            }
        };
        let start = slot * self.slot();
        start..start + self.elements
    }
}

/// From each slot to the next: far, where no hardware prefetcher is waiting, and coprime with their number, so that
/// all have their turn before one has its second.
fn stride(slots: usize) -> usize {
    let far = slots * 5 / 8 + 1;
    (far..).find(|stride| greatest_common_divisor(*stride, slots) == 1).unwrap_or(1)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl Scratch {
    /// For a machine with caches of these sizes.
    pub fn new(machine: &Machine) -> Self {
        let memory = if machine.memory == 0 { MOST } else { machine.memory / 4 };
        let case = Case::new(Operation::Step, Dtypes::all(Dtype::F32), SizeClass::of(0));
        Scratch {
            begin: Instant::now(),
            clock_step: clock_step(),
            beyond_caches: machine.beyond_caches().min(MOST).min(memory),
            streams: [None, None, None],
            blocks: Vec::new(),
            case,
            turns: Turns::of(&case, 0),
            checked: HashSet::new(),
        }
    }

    fn time(
        &mut self,
        plan: &Plan,
        caches: Caches,
        calls: u32,
        tasks: for<'a> fn(Operation, Call<'a>, &mut Vec<Task<'a>>) -> Result<(), Error>,
    ) -> Result<Duration, Error> {
        if caches == Caches::Warm {
            self.call(plan, caches, tasks)?;
        }
        let mut time = Duration::ZERO;
        if self.is_apart() {
            for _ in 0..calls {
                wait_idly();
                let start = Instant::now();
                self.call(plan, caches, tasks)?;
                time += start.elapsed();
            }
        } else {
            let start = Instant::now();
            for _ in 0..calls {
                self.call(plan, caches, tasks)?;
            }
            time = start.elapsed();
        }
        Ok(time)
    }

    /// Whether there is a pause before each call: not where it stays on one thread whatever the plan.
    fn is_apart(&self) -> bool {
        self.case.elements() > STATISTICS_BLOCK
    }

    fn call(
        &mut self,
        plan: &Plan,
        caches: Caches,
        tasks: for<'a> fn(Operation, Call<'a>, &mut Vec<Task<'a>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let range = self.turns.take(caches);
        let [parameter, gradient, momentum] = &mut self.streams;
        let call = Call {
            parameter: parameter.as_mut().and_then(|values| values.to_mut().range(range.clone()).ok()),
            gradient: gradient.as_ref().and_then(|values| values.to_ref().range(range.clone()).ok()),
            momentum: momentum.as_mut().and_then(|values| values.to_mut().range(range).ok()),
            blocks: &mut self.blocks,
        };
        let mut list = Vec::with_capacity(2);
        tasks(self.case.operation, call, &mut list)?;
        Ok(run(plan, &mut list)?)
    }
}

impl Rig for Scratch {
    fn prepare(&mut self, case: &Case) -> Result<(), Error> {
        let Dtypes { parameter, gradient, momentum } = case.dtypes;
        let wanted = match case.operation {
            Operation::Step => [Some(parameter), Some(gradient), Some(momentum)],
            Operation::Statistics => [None, Some(gradient), None],
            Operation::Accumulate => [None, Some(gradient), Some(Dtype::F32)],
            Operation::Average => [Some(parameter), None, Some(Dtype::F32)],
            Operation::Convert => [Some(parameter), Some(gradient), None],
        };
        self.case = *case;
        self.turns = Turns::of(case, self.beyond_caches);
        let elements = self.turns.total();
        for (stream, wanted) in self.streams.iter_mut().zip(wanted) {
            let Some(dtype) = wanted else { continue };
            if stream.as_ref().is_some_and(|it| it.dtype() == dtype && it.len() >= elements) {
                continue;
            }
            // The old memory goes before the new comes.
            *stream = None;
            *stream = Some(ones(dtype, elements)?);
        }
        self.blocks.resize(case.elements().div_ceil(STATISTICS_BLOCK), GradientStatistics::default());
        Ok(())
    }

    fn check(&mut self, plan: &Plan) -> Result<bool, Error> {
        let Case { operation, dtypes, .. } = self.case;
        if self.checked.contains(&(operation, dtypes, *plan)) {
            return Ok(true);
        }
        let same = check::has_the_reference_s_bits(operation, dtypes, plan)?;
        if same {
            self.checked.insert((operation, dtypes, *plan));
        }
        Ok(same)
    }

    fn calls(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Duration, Error> {
        self.time(plan, caches, calls, operation)
    }

    fn limit(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Option<Duration>, Error> {
        let first = self.turns.next;
        let time = self.time(plan, caches, calls, limit)?;
        // These passes change bits, and would leave the next calls numbers that arithmetic is slow with. Made once more
        // on the same tensors they leave what was there.
        self.turns.next = first;
        self.time(plan, caches, calls, limit)?;
        Ok(Some(time))
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn floor(&self) -> Duration {
        // A pause takes longer than many calls do. Each of these is timed alone, so that the clock errs by its step each
        // time, and not always to the same side.
        if self.is_apart() { self.clock_step * 100 } else { SAMPLE.max(self.clock_step * 1000) }
    }
}

/// The tensors of one call.
struct Call<'a> {
    parameter: Option<TensorMut<'a>>,
    gradient: Option<TensorRef<'a>>,
    momentum: Option<TensorMut<'a>>,
    blocks: &'a mut [GradientStatistics],
}

fn operation<'a>(operation: Operation, call: Call<'a>, list: &mut Vec<Task<'a>>) -> Result<(), Error> {
    let Call { parameter, gradient, momentum, blocks } = call;
    let task = match (operation, parameter, gradient, momentum) {
        (Operation::Step, Some(p), Some(g), Some(m)) => Task::step(step()?, StepTensors::in_place(p, g, m))?,
        (Operation::Statistics, _, Some(g), _) => {
            Task::statistics(&GradientTransform::new(), g, None, blocks)?
        }
        (Operation::Accumulate, _, Some(g), Some(sums)) => {
            Task::accumulate(&GradientTransform::new(), sums, g)?
        }
        (Operation::Average, Some(p), _, Some(average)) => Task::update_ema(&Ema::new(0.99)?, average, p)?,
        (Operation::Convert, Some(p), Some(g), _) => Task::convert(g, p)?,
        // What `prepare` makes always fits.
        _ => return Ok(()),
    };
    list.push(task);
    Ok(())
}

/// Passes that move the same bytes and do nothing else.
fn limit<'a>(operation: Operation, call: Call<'a>, list: &mut Vec<Task<'a>>) -> Result<(), Error> {
    let Call { parameter, gradient, momentum, .. } = call;
    match (operation, parameter, gradient, momentum) {
        (Operation::Step, Some(p), Some(g), Some(m)) => list.push(Task::bandwidth_step(p, g, m)?),
        (Operation::Statistics, _, Some(g), _) => list.push(Task::bandwidth_read(g)),
        (Operation::Accumulate, _, Some(g), Some(sums)) => {
            list.extend([Task::bandwidth_read(g), Task::bandwidth_rewrite(sums)])
        }
        (Operation::Average, Some(p), _, Some(average)) => {
            list.extend([Task::bandwidth_read(p), Task::bandwidth_rewrite(average)]);
        }
        (Operation::Convert, Some(p), Some(g), _) => {
            list.extend([Task::bandwidth_read(g), Task::bandwidth_rewrite(p)])
        }
        _ => {}
    }
    Ok(())
}

pub(super) fn step() -> Result<LionStep, Error> {
    Ok(LionStep::new(1e-4, 0.9, 0.99)?.weight_decay(0.1)?)
}

/// Numbers that however many calls make neither subnormal, infinite nor NaN, with which arithmetic may be slow: a
/// parameter of f32 goes from 1 towards -10, past 0 in steps of 1e-4, and one of 16 bits stays, as less than half of
/// its last place is taken off; a sum grows until one more is rounded away.
fn ones(dtype: Dtype, elements: usize) -> Result<TensorBuf, Error> {
    let mut values = TensorBuf::zeroed(dtype, elements)?;
    for start in (0..elements).step_by(STATISTICS_BLOCK) {
        let ones = [1.0; STATISTICS_BLOCK];
        values.to_mut().write_f32(start, ones.get(..elements - start).unwrap_or(&ones))?;
    }
    Ok(values)
}

/// The least difference of two readings of the clock that differ.
fn clock_step() -> Duration {
    let step = || {
        let start = Instant::now();
        loop {
            let elapsed = start.elapsed();
            if !elapsed.is_zero() {
                return elapsed;
            }
        }
    };
    (0..100).map(|_| step()).min().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use lion_kernels::Backend;

    use super::*;
    use crate::machine::Cache;

    #[test]
    fn every_slot_has_its_turn() {
        let case = Case::new(Operation::Step, Dtypes::all(Dtype::F32), SizeClass::of(0));
        for slots in 1..=300 {
            let mut turns = Turns::of(&case, (slots * case.bytes) as u64);
            let starts: HashSet<usize> = (0..slots).map(|_| turns.take(Caches::Cold).start).collect();
            assert_eq!((turns.slots, starts.len()), (slots, slots));
            assert!(starts.iter().all(|start| start + turns.elements <= turns.total()), "{slots}");
        }
    }

    #[test]
    fn unknown_caches_are_not_taken_for_none() {
        let unknown = Machine { caches: Vec::new(), memory: 0, ..Machine::detect() };
        assert_eq!(Scratch::new(&unknown).beyond_caches, 256 << 20);
        let small = Machine { memory: 256 << 20, ..unknown };
        assert_eq!(Scratch::new(&small).beyond_caches, 64 << 20);
    }

    #[test]
    fn a_call_before_any_is_prepared_does_nothing() {
        let mut scratch = Scratch::new(&Machine::detect());
        for caches in [Caches::Warm, Caches::Cold] {
            scratch.calls(&Plan::new(Backend::Scalar), caches, 2).expect("nothing");
        }
    }

    #[test]
    fn the_limit_leaves_the_tensors_as_they_were() {
        let caches = vec![Cache { level: 3, bytes: 1 << 20, shared_by: 1 }];
        let mut scratch = Scratch::new(&Machine { caches, ..Machine::detect() });
        let plan = Plan::new(Backend::best());
        for (dtype, size) in [(Dtype::F32, 16 << 10), (Dtype::BF16, 1 << 20)] {
            let case = Case::new(Operation::Step, Dtypes::all(dtype), SizeClass::of(size));
            scratch.prepare(&case).expect("memory");
            for caches in [Caches::Warm, Caches::Cold] {
                for calls in [1, 2, 3] {
                    scratch.limit(&plan, caches, calls).expect("a pass");
                }
            }
            for stream in scratch.streams.iter().flatten() {
                assert!(stream.to_ref().to_f32().iter().all(|&value| value == 1.0), "{case}");
            }
        }
    }
}
