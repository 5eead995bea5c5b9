//! The space that is searched: backend × threads × chunk × prefetching.
//!
//! Candidate 0 of a case is what runs without a profile; [`Space`] lists the others. A call on one thread is not cut,
//! so for one thread there is one candidate a backend. Chunks are powers of two of [`STATISTICS_BLOCK`]; the coarse grid has
//! every second one and the best backends' own choice of prefetching, and what lies between is tried around the best.

use lion_kernels::{Backend, Plan, Prefetch, STATISTICS_BLOCK};

use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::Machine;

/// Raised by hand whenever a kernel's speed changes so much that old measurements say nothing.
pub const KERNELS_REVISION: u32 = 1;

/// Powers of two of [`STATISTICS_BLOCK`] that a chunk may be.
const CHUNKS: u32 = 11;

/// The candidates of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    backends: Vec<Backend>,
    /// From 1, ascending.
    threads: Vec<usize>,
}

impl Space {
    /// All backends of this process on the threads of a machine, or on at most `limit` of them.
    pub fn new(machine: &Machine, limit: Option<usize>) -> Self {
        Self::of(Backend::available().collect(), machine, limit)
    }

    /// These backends on the threads of a machine, or on at most `limit` of them.
    pub fn of(backends: Vec<Backend>, machine: &Machine, limit: Option<usize>) -> Self {
        let allowed = machine.cores.min(limit.unwrap_or(usize::MAX));
        let most = allowed.clamp(1, lion_kernels::MAX_THREADS);
        let mut threads: Vec<usize> =
            (0..usize::BITS).map(|power| 1 << power).take_while(|n| *n < most).collect();
        // One on each core, where that is fewer.
        threads.extend([most, (allowed / machine.smt.max(1)).clamp(1, most)]);
        threads.sort_unstable();
        threads.dedup();
        Space { backends, threads }
    }

    /// Every second chunk, with prefetching where the kernels have it by themselves.
    pub fn coarse(&self, case: &Case) -> Vec<Plan> {
        self.grid(case, 2, &[Prefetch::Auto])
    }

    /// Everything.
    pub fn full(&self, case: &Case) -> Vec<Plan> {
        self.grid(case, 1, prefetches(case))
    }

    fn grid(&self, case: &Case, stride: usize, prefetches: &[Prefetch]) -> Vec<Plan> {
        let mut plans = Vec::new();
        for &backend in &self.backends {
            for &prefetch in prefetches {
                plans.push(serial(backend).prefetch(prefetch));
                for &threads in self.threads.iter().filter(|threads| **threads > 1) {
                    let chunks = chunks(case).step_by(stride);
                    plans.extend(chunks.map(|chunk| parallel(backend, threads, chunk).prefetch(prefetch)));
                }
            }
        }
        plans
    }

    /// What differs from a plan by one step in threads, in chunk, in both, or in prefetching.
    pub fn around(&self, case: &Case, plan: &Plan) -> Vec<Plan> {
        let plan = self.effective(case, plan);
        let threads = plan.threads.map_or(1, usize::from);
        let mut near = Vec::new();
        let place = self.threads.partition_point(|it| *it < threads);
        let mut steps = |threads: usize, chunk: usize| match threads {
            1 => near.push(serial(plan.backend).prefetch(plan.prefetch)),
            _ if chunk < case.elements() && chunk >= STATISTICS_BLOCK => {
                near.push(parallel(plan.backend, threads, chunk).prefetch(plan.prefetch));
            }
            _ => {}
        };
        // From one thread to two a chunk is chosen anew: an equal share.
        let share = (case.elements() / 2).next_power_of_two() / 2;
        let chunk = if threads == 1 {
            share.clamp(STATISTICS_BLOCK, STATISTICS_BLOCK << (CHUNKS - 1))
        } else {
            plan.chunk_elements
        };
        for place in [place.checked_sub(1), place.checked_add(1)].into_iter().flatten() {
            if let Some(&threads) = self.threads.get(place) {
                // More threads with smaller chunks may pay where neither does alone, and so on round the compass.
                for chunk in [chunk / 2, chunk, chunk * 2] {
                    steps(threads, chunk);
                }
            }
        }
        if threads > 1 {
            steps(threads, chunk / 2);
            steps(threads, chunk * 2);
        }
        near.extend(prefetches(case).iter().map(|prefetch| plan.prefetch(*prefetch)));
        near.retain(|it| *it != plan);
        near
    }

    /// The plan that does the same for a case and is written as the candidates are.
    #[must_use]
    pub fn effective(&self, case: &Case, plan: &Plan) -> Plan {
        let most = self.threads.last().copied().unwrap_or(1);
        let threads = plan.threads.map_or(most, usize::from).min(most);
        let stays = plan.parallel_threshold.is_some_and(|threshold| case.bytes < threshold);
        if threads == 1 || stays || plan.chunk_elements >= case.elements() {
            return serial(plan.backend).prefetch(plan.prefetch);
        }
        match plan.parallel_threshold {
            Some(_) => parallel(plan.backend, threads, plan.chunk_elements).prefetch(plan.prefetch),
            // The kernels decide, call by call.
            None => plan.threads(threads),
        }
    }

    /// The backends.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The numbers of threads, from 1.
    pub fn threads(&self) -> &[usize] {
        &self.threads
    }
}

/// More threads than any machine has that this runs on.
pub(crate) const MAX_THREADS: usize = 4096;

fn serial(backend: Backend) -> Plan {
    Plan::new(backend).threads(1)
}

fn parallel(backend: Backend, threads: usize, chunk: usize) -> Plan {
    Plan::new(backend).threads(threads).chunk_elements(chunk).parallel_threshold(0)
}

/// Chunks that cut a case at all.
fn chunks(case: &Case) -> impl Iterator<Item = usize> {
    let elements = case.elements();
    (0..CHUNKS).map(|power| STATISTICS_BLOCK << power).take_while(move |chunk| *chunk < elements)
}

/// The step alone prefetches, and only its whole tensors are long enough for it.
fn prefetches(case: &Case) -> &'static [Prefetch] {
    match case.operation {
        Operation::Step if case.bytes >= 1 << 20 => &[Prefetch::Auto, Prefetch::On, Prefetch::Off],
        _ => &[Prefetch::Auto],
    }
}

/// A plan as messages show it.
pub fn describe(plan: &Plan) -> String {
    let threads = match plan.threads {
        None => "all threads".into(),
        Some(threads) if threads.get() == 1 => "1 thread".into(),
        Some(threads) => format!("{threads} threads"),
    };
    let chunk = match plan.threads {
        Some(threads) if threads.get() == 1 => String::new(),
        _ => format!(", chunks of {}", plan.chunk_elements),
    };
    let prefetch = match plan.prefetch {
        Prefetch::Auto => "",
        Prefetch::On => ", prefetching",
        Prefetch::Off => ", no prefetching",
    };
    format!("{} on {threads}{chunk}{prefetch}", plan.backend)
}

/// A checksum of all candidates of a machine like this: a profile that was searched for among others is stale.
pub fn checksum(machine: &Machine) -> String {
    let space = Space::of(Backend::ALL.to_vec(), machine, None);
    let mut hash = Fnv::default();
    for class in SizeClass::all() {
        for &operation in Operation::ALL {
            let case = Case::new(operation, Dtypes::all(lion_kernels::Dtype::F32), class);
            for plan in space.full(&case) {
                hash.add(describe(&plan).as_bytes());
            }
        }
    }
    format!("{:016x}", hash.0)
}

/// FNV-1a in 64 bits. It must be the same in every version of Rust, and guards against nothing but age.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        // No text of a plan has the byte 0.
        for &byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_threads_that_the_kernels_tell_apart() {
        let threads = |cores: usize, smt: usize, limit: Option<usize>| {
            let machine = Machine { cores, smt, ..Machine::detect() };
            Space::new(&machine, limit).threads().to_vec()
        };
        assert_eq!(threads(128, 1, None), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(threads(128, 2, None), [1, 2, 4, 8, 16, 32, 64]);
        assert_eq!(threads(96, 2, None), [1, 2, 4, 8, 16, 32, 48, 64]);
        assert_eq!(threads(12, 2, None), [1, 2, 4, 6, 8, 12]);
        assert_eq!(threads(12, 2, Some(5)), [1, 2, 4, 5]);
        assert_eq!(threads(0, 0, Some(0)), [1]);
        assert_eq!(threads(usize::MAX, usize::MAX, None), [1, 2, 4, 8, 16, 32, 64]);
    }
}
