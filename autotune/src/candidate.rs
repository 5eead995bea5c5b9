//! The search space: backend × threads × chunk × prefetch.
//!
//! The baseline of a case is the plan that runs without a profile. [`Space`] lists the other candidates. A call on one thread
//! is not split, so each backend has one candidate for one thread. Chunks are [`STATISTICS_BLOCK`] times a power of two. The coarse grid
//! has every second chunk, and leaves prefetching to the kernels. The candidates between are tried around the best one.

use lion_kernels::{Backend, Plan, Prefetch, STATISTICS_BLOCK};

use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::Machine;

/// The revision of the kernels' speed. It is raised by hand when old measurements no longer hold.
pub const KERNELS_REVISION: u32 = 1;

/// The number of chunk sizes: [`STATISTICS_BLOCK`] times a power of two.
const CHUNKS: u32 = 11;

/// All candidates of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Space {
    backends: Vec<Backend>,
    /// The numbers of threads, from 1, ascending.
    threads: Vec<usize>,
}

impl Space {
    /// Creates the space of all backends of this process on the cores of a machine, or on at most `limit` threads.
    pub fn new(machine: &Machine, limit: Option<usize>) -> Self {
        Self::of(Backend::available().collect(), machine, limit)
    }

    /// Creates the space of these backends on the cores of a machine, or on at most `limit` threads.
    pub fn of(backends: Vec<Backend>, machine: &Machine, limit: Option<usize>) -> Self {
        let allowed = machine.cores.min(limit.unwrap_or(usize::MAX));
        let max = allowed.clamp(1, lion_kernels::MAX_THREADS);
        let mut threads: Vec<usize> =
            (0..usize::BITS).map(|power| 1 << power).take_while(|n| *n < max).collect();
        // With SMT, also one thread for each physical core.
        threads.extend([max, (allowed / machine.smt.max(1)).clamp(1, max)]);
        threads.sort_unstable();
        threads.dedup();
        Space { backends, threads }
    }

    /// Returns the coarse grid: every second chunk, and the kernels' own choice of prefetching.
    pub fn coarse(&self, case: &Case) -> Vec<Plan> {
        self.grid(case, 2, &[Prefetch::Auto])
    }

    /// Returns all candidates.
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

    /// Returns the neighbours of a plan: they differ by one step in threads, in chunk, in both, or in prefetching.
    pub fn around(&self, case: &Case, plan: &Plan) -> Vec<Plan> {
        let plan = self.effective(case, plan);
        let threads = plan.threads.map_or(1, usize::from);
        let mut near = Vec::new();
        let index = self.threads.partition_point(|it| *it < threads);
        let mut push = |threads: usize, chunk: usize| match threads {
            1 => near.push(serial(plan.backend).prefetch(plan.prefetch)),
            _ if chunk < case.elements() && chunk >= STATISTICS_BLOCK => {
                near.push(parallel(plan.backend, threads, chunk).prefetch(plan.prefetch));
            }
            _ => {}
        };
        // A serial plan has no chunk: two threads start with equal shares.
        let share = (case.elements() / 2).next_power_of_two() / 2;
        let chunk = if threads == 1 {
            share.clamp(STATISTICS_BLOCK, STATISTICS_BLOCK << (CHUNKS - 1))
        } else {
            plan.chunk_elements
        };
        for index in [index.checked_sub(1), index.checked_add(1)].into_iter().flatten() {
            if let Some(&threads) = self.threads.get(index) {
                // Changes both, because more threads may pay only together with smaller chunks, and the reverse.
                for chunk in [chunk / 2, chunk, chunk * 2] {
                    push(threads, chunk);
                }
            }
        }
        if threads > 1 {
            push(threads, chunk / 2);
            push(threads, chunk * 2);
        }
        near.extend(prefetches(case).iter().map(|prefetch| plan.prefetch(*prefetch)));
        near.retain(|it| *it != plan);
        near
    }

    /// Returns the candidate that has the same effect as a plan for a case.
    #[must_use]
    pub fn effective(&self, case: &Case, plan: &Plan) -> Plan {
        let max = self.threads.last().copied().unwrap_or(1);
        let threads = plan.threads.map_or(max, usize::from).min(max);
        let stays = plan.parallel_threshold.is_some_and(|threshold| case.bytes < threshold);
        if threads == 1 || stays || plan.chunk_elements >= case.elements() {
            return serial(plan.backend).prefetch(plan.prefetch);
        }
        match plan.parallel_threshold {
            Some(_) => parallel(plan.backend, threads, plan.chunk_elements).prefetch(plan.prefetch),
            // The kernels decide at each call.
            None => plan.threads(threads),
        }
    }

    /// Returns the backends.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Returns the numbers of threads, from 1.
    pub fn threads(&self) -> &[usize] {
        &self.threads
    }
}

/// The maximum number of threads in a profile, which exceeds that of any machine.
pub(crate) const MAX_THREADS: usize = 4096;

fn serial(backend: Backend) -> Plan {
    Plan::new(backend).threads(1)
}

fn parallel(backend: Backend, threads: usize, chunk: usize) -> Plan {
    Plan::new(backend).threads(threads).chunk_elements(chunk).parallel_threshold(0)
}

/// Returns the chunks that are smaller than the tensors of a case.
fn chunks(case: &Case) -> impl Iterator<Item = usize> {
    let elements = case.elements();
    (0..CHUNKS).map(|power| STATISTICS_BLOCK << power).take_while(move |chunk| *chunk < elements)
}

/// Returns the choices of prefetching. Only the step prefetches, and only for long tensors.
fn prefetches(case: &Case) -> &'static [Prefetch] {
    match case.operation {
        Operation::Step if case.bytes >= 1 << 20 => &[Prefetch::Auto, Prefetch::On, Prefetch::Off],
        _ => &[Prefetch::Auto],
    }
}

/// Describes a plan in a message.
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

/// Returns a checksum of all candidates of a machine. If it differs from that of a profile, the profile is stale.
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

/// The FNV-1a hash, 64 bits. It is the same in every version of Rust, and need not resist attacks.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Fnv(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        // The byte 0 separates the plans, because no description has it.
        for &byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_threads() {
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
