//! Runs and times the kernels on the tuner's own tensors.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use lion_kernels::{
    Dtype, Ema, GradientStatistics, GradientTransform, LionStep, Plan, STATISTICS_BLOCK, StepTensors, Task,
    TensorBuf, TensorMut, TensorRef, run,
};

use super::{Bench, Caches, MIN_SAMPLE_TIME, calls, check};
use crate::Error;
use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::Machine;

/// The maximum memory for cold caches, unless one call needs more.
const MAX_BYTES: u64 = 1 << 30;

/// The minimum number of elements between the tensors of neighbouring calls, so that not all of them begin at the same
/// offset in a page.
const GAP: usize = 80;

/// The alignment of a call's tensors in elements: a multiple of the block of every format.
const ALIGNMENT: usize = 64;

/// Runs and times plans on this machine. It has up to three tensors (streams), which are divided into slots; cold calls
/// rotate over the slots.
///
/// Calls run in rayon's global pool, like those of an optimizer whose caller has no pool. Calls that several threads can
/// share are a millisecond apart, as in a training run. Back-to-back calls would mislead, because the workers would never
/// sleep: on two cores, two threads then win from 256 KiB on, but if they must be woken they lose up to 4 MiB.
#[derive(Debug)]
pub struct MachineBench {
    begin: Instant,
    clock_step: Duration,
    /// A number of bytes that exceeds all caches.
    beyond_caches: u64,
    /// Parameters, gradients and momenta. The third stream also serves as f32 accumulator or average.
    streams: [Option<TensorBuf>; 3],
    blocks: Vec<GradientStatistics>,
    case: Case,
    rotation: SlotRotation,
    checked: HashSet<(Operation, Dtypes, Plan)>,
}

/// Selects the slot of a stream for each call.
#[derive(Clone, Copy, Debug)]
struct SlotRotation {
    elements: usize,
    slots: usize,
    stride: usize,
    next: usize,
}

impl SlotRotation {
    fn of(case: &Case, footprint: u64) -> Self {
        let slots = (footprint / case.bytes.max(1) as u64).max(1) as usize;
        SlotRotation { elements: case.elements(), slots, stride: stride(slots), next: 0 }
    }

    fn total(&self) -> usize {
        self.slots * self.slot_elements()
    }

    /// Returns the distance between the starts of two slots, in elements.
    fn slot_elements(&self) -> usize {
        (self.elements + GAP).next_multiple_of(ALIGNMENT)
    }

    /// Returns the range of the next call.
    fn take(&mut self, caches: Caches) -> std::ops::Range<usize> {
        let slot = match caches {
            Caches::Warm => 0,
            Caches::Cold => {
                self.next = (self.next + self.stride) % self.slots;
                self.next
            }
        };
        let start = slot * self.slot_elements();
        start..start + self.elements
    }
}

/// Returns the step from each slot to the next. It is large, so that hardware prefetchers do not expect the next slot. It is
/// coprime with the number of slots, so that every slot is used before one is used again.
fn stride(slots: usize) -> usize {
    let far = slots * 5 / 8 + 1;
    (far..).find(|stride| greatest_common_divisor(*stride, slots) == 1).unwrap_or(1)
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

impl MachineBench {
    /// Prepares for a machine with caches of these sizes.
    pub fn new(machine: &Machine) -> Self {
        let memory = if machine.memory == 0 { MAX_BYTES } else { machine.memory / 4 };
        let case = Case::new(Operation::Step, Dtypes::all(Dtype::F32), SizeClass::of(0));
        MachineBench {
            begin: Instant::now(),
            clock_step: clock_step(),
            beyond_caches: machine.beyond_caches().min(MAX_BYTES).min(memory),
            streams: [None, None, None],
            blocks: Vec::new(),
            case,
            rotation: SlotRotation::of(&case, 0),
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
                calls::pause()?;
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

    /// Returns whether calls are apart. A call of one block stays on one thread with any plan, so it needs no pause.
    fn is_apart(&self) -> bool {
        self.case.elements() > STATISTICS_BLOCK
    }

    fn call(
        &mut self,
        plan: &Plan,
        caches: Caches,
        tasks: for<'a> fn(Operation, Call<'a>, &mut Vec<Task<'a>>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let range = self.rotation.take(caches);
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

impl Bench for MachineBench {
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
        self.rotation = SlotRotation::of(case, self.beyond_caches);
        let elements = self.rotation.total();
        for (stream, wanted) in self.streams.iter_mut().zip(wanted) {
            let Some(dtype) = wanted else { continue };
            if stream.as_ref().is_some_and(|it| it.dtype() == dtype && it.len() >= elements) {
                continue;
            }
            // Frees the old memory before the new is allocated.
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
        let same = check::matches_reference(operation, dtypes, plan)?;
        if same {
            self.checked.insert((operation, dtypes, *plan));
        }
        Ok(same)
    }

    fn calls(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Duration, Error> {
        self.time(plan, caches, calls, push_call)
    }

    fn bandwidth_bound(
        &mut self,
        plan: &Plan,
        caches: Caches,
        calls: u32,
    ) -> Result<Option<Duration>, Error> {
        let first = self.rotation.next;
        let time = self.time(plan, caches, calls, push_bandwidth_bound)?;
        // These passes flip bits. The resulting numbers could be subnormal, which would slow the next calls. A second run on
        // the same tensors flips the bits back.
        self.rotation.next = first;
        self.time(plan, caches, calls, push_bandwidth_bound)?;
        Ok(Some(time))
    }

    fn now(&self) -> Duration {
        self.begin.elapsed()
    }

    fn min_sample_time(&self) -> Duration {
        // A pause takes longer than many calls, so a sample has fewer calls. Each is timed alone, and the errors of the
        // clock partly cancel.
        if self.is_apart() { self.clock_step * 100 } else { MIN_SAMPLE_TIME.max(self.clock_step * 1000) }
    }
}

/// The tensors of one call.
struct Call<'a> {
    parameter: Option<TensorMut<'a>>,
    gradient: Option<TensorRef<'a>>,
    momentum: Option<TensorMut<'a>>,
    blocks: &'a mut [GradientStatistics],
}

/// Pushes the tasks of a call.
fn push_call<'a>(operation: Operation, call: Call<'a>, list: &mut Vec<Task<'a>>) -> Result<(), Error> {
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
        // Before the first `prepare` there are no tensors.
        _ => return Ok(()),
    };
    list.push(task);
    Ok(())
}

/// Pushes the tasks of the bandwidth bound, which move the bytes of a call and do nothing else.
fn push_bandwidth_bound<'a>(
    operation: Operation,
    call: Call<'a>,
    list: &mut Vec<Task<'a>>,
) -> Result<(), Error> {
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

/// Allocates a tensor of ones. No number of calls turns them into subnormal, infinite or NaN values, which could slow the
/// arithmetic: an f32 parameter moves from 1 towards -10 and passes 0 in steps of 1e-4; a 16-bit parameter stays, because a
/// step is less than half of its last place; a sum grows until the next 1 is rounded away.
fn ones(dtype: Dtype, elements: usize) -> Result<TensorBuf, Error> {
    let mut values = TensorBuf::zeroed(dtype, elements)?;
    for start in (0..elements).step_by(STATISTICS_BLOCK) {
        let ones = [1.0; STATISTICS_BLOCK];
        values.to_mut().write_f32(start, ones.get(..elements - start).unwrap_or(&ones))?;
    }
    Ok(values)
}

/// Returns the resolution of the clock: the smallest difference between two different readings.
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
    fn every_slot_is_used() {
        let case = Case::new(Operation::Step, Dtypes::all(Dtype::F32), SizeClass::of(0));
        for slots in 1..=300 {
            let mut rotation = SlotRotation::of(&case, (slots * case.bytes) as u64);
            let starts: HashSet<usize> = (0..slots).map(|_| rotation.take(Caches::Cold).start).collect();
            assert_eq!((rotation.slots, starts.len()), (slots, slots));
            assert!(starts.iter().all(|start| start + rotation.elements <= rotation.total()), "{slots}");
        }
    }

    #[test]
    fn unknown_caches_do_not_count_as_none() {
        let unknown = Machine { caches: Vec::new(), memory: 0, ..Machine::detect() };
        assert_eq!(MachineBench::new(&unknown).beyond_caches, 256 << 20);
        let small = Machine { memory: 256 << 20, ..unknown };
        assert_eq!(MachineBench::new(&small).beyond_caches, 64 << 20);
    }

    #[test]
    fn a_call_before_prepare_does_nothing() {
        let mut bench = MachineBench::new(&Machine::detect());
        for caches in [Caches::Warm, Caches::Cold] {
            bench.calls(&Plan::new(Backend::Scalar), caches, 2).expect("nothing");
        }
    }

    #[test]
    fn the_bandwidth_bound_leaves_the_tensors_as_they_were() {
        let caches = vec![Cache { level: 3, bytes: 1 << 20, shared_by: 1 }];
        let mut bench = MachineBench::new(&Machine { caches, ..Machine::detect() });
        let plan = Plan::new(Backend::best());
        for (dtype, size) in [(Dtype::F32, 16 << 10), (Dtype::BF16, 1 << 20)] {
            let case = Case::new(Operation::Step, Dtypes::all(dtype), SizeClass::of(size));
            bench.prepare(&case).expect("memory");
            for caches in [Caches::Warm, Caches::Cold] {
                for calls in [1, 2, 3] {
                    bench.bandwidth_bound(&plan, caches, calls).expect("a pass");
                }
            }
            for stream in bench.streams.iter().flatten() {
                assert!(stream.to_ref().to_f32().iter().all(|&value| value == 1.0), "{case}");
            }
        }
    }
}
