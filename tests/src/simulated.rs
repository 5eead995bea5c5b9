//! A model of a machine, as a bench for the tuner: known times under noise, spikes and drift, by a clock of its own.

use std::time::Duration;

use fastrand::Rng;
use lion_autotune::measure::{Bench, Caches};
use lion_autotune::{Cache, Case, Error, Machine};
use lion_kernels::{Backend, Plan, Prefetch};

/// The backends of the simulated machine, independent of the real machine.
pub const BACKENDS: [Backend; 3] = [Backend::Scalar, Backend::Avx2, Backend::Avx512];

const HOUR: Duration = Duration::from_secs(3600);

/// A machine with known times.
#[derive(Debug)]
pub struct Simulated {
    machine: Machine,
    /// The standard deviation of a sample's logarithm.
    pub noise: f64,
    /// The share of samples that take ten times as long.
    pub spikes: f64,
    /// The amplitude of the machine's drift in speed, as a fraction.
    pub drift: f64,
    /// The share of samples in which the clock jumps: an hour ahead, or back to the start of the sample.
    pub jumps: f64,
    /// The backend that gives wrong bits, if any.
    pub wrong: Option<Backend>,
    rng: Rng,
    case: Option<Case>,
    clock: f64,
}

/// Returns a machine with these numbers of cores and memory nodes.
pub fn machine(cores: usize, numa_nodes: usize) -> Machine {
    Machine {
        arch: "x86_64".into(),
        os: "linux".into(),
        vendor: "SimulatedCPU".into(),
        family: 1,
        model: 2,
        stepping: 3,
        brand: "a model".into(),
        isa: vec!["avx2".into(), "avx512f".into()],
        caches: vec![
            Cache { level: 1, bytes: 32 << 10, shared_by: 1 },
            Cache { level: 2, bytes: 1 << 20, shared_by: 1 },
            Cache { level: 3, bytes: 32 << 20, shared_by: cores / numa_nodes },
        ],
        cores,
        allowed: cores,
        quota: None,
        smt: 1,
        numa_nodes,
        memory: 64 << 30,
        page_size: 4096,
        huge_pages: "madvise".into(),
    }
}

impl Simulated {
    /// Creates a simulation with 10 % noise, spikes in 3 of 100 samples, and a drift of 20 % in speed.
    pub fn new(machine: Machine, seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        let (noise, spikes, drift, jumps) = (0.1, 0.03, 0.2, 0.0);
        Simulated { machine, noise, spikes, drift, jumps, wrong: None, rng, case: None, clock: 0.0 }
    }

    /// Returns the machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Returns the time of a run without noise in nanoseconds: the geometric mean over the states of the caches.
    pub fn truth(&self, case: &Case, plan: &Plan) -> f64 {
        let cold = self.nanoseconds(case, plan, Caches::Cold);
        match case.bytes as u64 > 2 * self.machine.last_level() {
            true => cold,
            false => (cold * self.nanoseconds(case, plan, Caches::Warm)).sqrt(),
        }
    }

    fn nanoseconds(&self, case: &Case, plan: &Plan, caches: Caches) -> f64 {
        let threads = plan.threads.map_or(self.machine.cores, usize::from).min(self.machine.cores);
        let pieces = case.elements().div_ceil(plan.chunk_elements);
        // The kernels' decision without a threshold is not modelled.
        let threshold = plan.parallel_threshold.unwrap_or(1 << 20);
        let workers = if case.bytes < threshold { 1 } else { threads.min(pieces).max(1) };
        let arithmetic = match plan.backend {
            Backend::Avx512 => 0.15,
            Backend::Avx2 => 0.22,
            _ => 1.2,
        };
        let each = case.traffic() as f64 / case.elements() as f64;
        let moving = each / self.bandwidth(case, workers, caches) * workers as f64;
        let prefetching = match plan.prefetch {
            Prefetch::On => 1.04,
            _ => 1.0,
        };
        let element = f64::max(arithmetic, moving) * prefetching;
        if workers == 1 {
            return 60.0 + case.elements() as f64 * element;
        }
        // The slowest worker has the most chunks. Each chunk costs a fetch, each worker a wake-up.
        let most = pieces.div_ceil(workers) as f64;
        3_000.0
            + 250.0 * workers as f64
            + most * (120.0 + plan.chunk_elements.min(case.elements()) as f64 * element)
    }

    /// Returns the bytes per nanosecond of all workers together.
    fn bandwidth(&self, case: &Case, workers: usize, caches: Caches) -> f64 {
        let count = workers as f64;
        let nodes = workers.div_ceil(self.machine.cores / self.machine.numa_nodes) as f64;
        let part = (case.bytes / workers) as u64;
        match caches {
            Caches::Warm if part <= self.machine.cache(1) => 150.0 * count,
            Caches::Warm if part <= self.machine.cache(2) => 60.0 * count,
            Caches::Warm if case.bytes as f64 <= self.machine.cache(3) as f64 * nodes => {
                (25.0 * count).min(120.0 * nodes)
            }
            _ => (14.0 * count).min(40.0 * nodes),
        }
    }

    fn sample(&mut self, nanoseconds: f64) -> Duration {
        // The sum of twelve uniform numbers is nearly normal.
        let normal = (0..12).map(|_| self.rng.f64()).sum::<f64>() - 6.0;
        let spike = if self.rng.f64() < self.spikes { 10.0 } else { 1.0 };
        let swing = 1.0 + self.drift * (self.clock / 7e9).sin();
        let time = nanoseconds * (normal * self.noise).exp() * spike * swing;
        if self.jumps > 0.0 && self.rng.f64() < self.jumps {
            let jump = if self.rng.bool() { HOUR } else { Duration::ZERO };
            self.clock += jump.as_nanos() as f64;
            return jump;
        }
        self.clock += time;
        Duration::from_nanos(time as u64)
    }
}

impl Bench for Simulated {
    fn prepare(&mut self, case: &Case) -> Result<(), Error> {
        self.case = Some(*case);
        Ok(())
    }

    fn check(&mut self, plan: &Plan) -> Result<bool, Error> {
        Ok(self.wrong != Some(plan.backend))
    }

    fn calls(&mut self, plan: &Plan, caches: Caches, calls: u32) -> Result<Duration, Error> {
        assert_ne!(self.wrong, Some(plan.backend), "a plan with wrong bits is timed");
        let case = self.case.expect("prepared");
        let one = self.nanoseconds(&case, plan, caches);
        Ok(self.sample(one * f64::from(calls)))
    }

    fn bandwidth_bound(
        &mut self,
        plan: &Plan,
        caches: Caches,
        calls: u32,
    ) -> Result<Option<Duration>, Error> {
        self.calls(plan, caches, calls).map(|time| Some(time.mul_f64(0.9)))
    }

    fn now(&self) -> Duration {
        Duration::from_nanos(self.clock as u64)
    }

    fn min_sample_time(&self) -> Duration {
        Duration::from_micros(100)
    }
}
