//! Start latency: decides whether a run uses other threads.
//!
//! A sleeping worker takes a while to wake: 20 µs on a virtual Zen 5, 15 to 110 µs on a virtual Zen 1, the longer its
//! core has been idle. Until then the caller works alone. Outside a pool, a run that ends before the worker has started
//! still waits for it. So the rule [`is_profitable`] compares two times: the work on the calling thread alone, and the
//! start latency plus a fixed overhead.
//!
//! Neither time is a constant. The work's time depends on pass, formats, instruction set and caches; the caller
//! measures it on the first chunks of each run. The latency depends on the machine and on the threads' last activity;
//! each parallel run records when its first worker starts. No measurement runs extra work.
//!
//! After a run, workers look for more work before they sleep. A run soon after another one finds them awake.
//!
//! A wrong decision costs time. No result depends on it.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// The assumed latency before the first measurement, of sleeping and of awake workers. The value for sleeping workers
/// is that of slow machines, where too few parallel runs cost less than too many.
const DEFAULT_LATENCY: [Duration; 2] = [Duration::from_micros(30), Duration::from_micros(1)];

/// The maximum latency that is recorded. Longer times come from other load on the machine.
const MAX_LATENCY: Duration = Duration::from_micros(200);

/// The time for which workers look for work before they sleep: rayon's workers yield 32 times. On Zen 1, all workers
/// were awake 20 µs after a run, and half of them 60 µs after it.
const AWAKE_TIME: Duration = Duration::from_micros(20);

/// The overhead of a parallel run besides the latency, for sleeping and for awake workers: the queue, splitting the
/// list, the wait for the last worker, and, after sleep, cold caches.
///
/// On Zen 1, one and two threads were equally fast for 10 µs of work with awake workers, and for 60 to 75 µs of work
/// with workers that start after 40 µs. On Zen 5, two threads were still slower for 41 µs of work with workers that
/// start after 20 µs.
const OVERHEAD: [Duration; 2] = [Duration::from_micros(25), Duration::from_micros(8)];

/// Returns whether other threads speed up work that takes `alone` on the calling thread. At the limit, two threads are
/// as fast as one; of any longer work, two threads save half of the excess.
const fn is_profitable(alone: Duration, latency: Duration, overhead: Duration) -> bool {
    alone.as_nanos() > latency.as_nanos() + overhead.as_nanos()
}

/// Work that takes this many times the break-even is clearly worth other threads.
const CLEAR: u32 = 4;

/// Whether other threads speed up the rest of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The calling thread is as fast alone.
    Alone,
    /// Other threads may be faster; the time of another chunk tells more.
    Close,
    Parallel,
}

/// The learned start latency of a pool's workers.
#[derive(Debug)]
pub(super) struct StartLatency {
    /// The latency in nanoseconds, of sleeping and of awake workers.
    known: [AtomicU64; 2],
    /// The end of the last parallel run, by [`since_first`]; 0 before the first.
    last: AtomicU64,
}

impl StartLatency {
    pub(super) const fn new() -> Self {
        let [asleep, awake] = DEFAULT_LATENCY;
        let known = [AtomicU64::new(asleep.as_nanos() as u64), AtomicU64::new(awake.as_nanos() as u64)];
        StartLatency { known, last: AtomicU64::new(0) }
    }

    /// Returns the latency and the overhead that apply now: those of awake workers soon after a run, else those of
    /// sleeping workers.
    fn known(&self, now: Instant) -> (&AtomicU64, Duration) {
        let [asleep, awake] = &self.known;
        let last = self.last.load(Ordering::Relaxed);
        let awake_now = last > 0 && since_first(now) < last + AWAKE_TIME.as_nanos() as u64;
        if awake_now { (awake, OVERHEAD[1]) } else { (asleep, OVERHEAD[0]) }
    }

    /// Decides whether to use other threads now, for work that takes `alone` on the calling thread.
    pub(super) fn verdict(&self, alone: Duration, now: Instant) -> Verdict {
        let (known, overhead) = self.known(now);
        let latency = known.load(Ordering::Relaxed);
        let profitable = |alone| is_profitable(alone, Duration::from_nanos(latency), overhead);
        match (profitable(alone), profitable(alone / CLEAR)) {
            (true, true) => Verdict::Parallel,
            (true, false) => Verdict::Close,
            (false, _) => {
                known.store(decay(latency), Ordering::Relaxed);
                Verdict::Alone
            }
        }
    }

    /// Records a parallel run from `begin` on, whose first worker started after `waited`.
    pub(super) fn record(&self, begin: Instant, waited: Duration) {
        let (known, _) = self.known(begin);
        known.store(blend(known.load(Ordering::Relaxed), waited), Ordering::Relaxed);
        self.last.store(since_first(Instant::now()), Ordering::Relaxed);
    }
}

/// Returns the known latency, moved a quarter of the way to the new one.
fn blend(known: u64, seen: Duration) -> u64 {
    let seen = seen.min(MAX_LATENCY).as_nanos() as u64;
    (3 * known + seen) / 4
}

/// Returns a slightly lower latency, after each run that stayed on its thread. So a latency measured in a disturbed
/// moment is tried again after hundreds of runs.
fn decay(known: u64) -> u64 {
    known - known / 256
}

/// Returns the nanoseconds since the first call of this function, plus 1.
fn since_first(now: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(|| now);
    now.saturating_duration_since(first).as_nanos() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A measurement: its description, 1 if the workers were awake, the latency in µs, the time of the work alone in
    /// µs, and whether more threads were faster.
    type Recorded = (&'static str, usize, u64, f64, bool);

    const RECORDED: &[Recorded] = &[
        // A virtual machine with two cores. These times are scaled from a step over 3 MiB of f32, which took 30.7 µs on
        // one thread. Two threads lost 50 to 62 % against one at 1 MiB, and 16 to 39 % at 4 MiB.
        ("Zen 5, step, f32, 1 MiB", 0, 20, 10.2, false),
        ("Zen 5, step, f32, 4 MiB", 0, 20, 40.9, false),
        ("Zen 5, step, f32, 16 MiB", 0, 20, 164.0, true),
        // A virtual machine with two cores, whose latency is not recorded. The times are from benches/results.
        ("Sapphire Rapids, step, f32, 1 MiB", 0, DEFAULT_LATENCY[0].as_micros() as u64, 43.7, false),
        ("Sapphire Rapids, step, f32, 3 MiB", 0, DEFAULT_LATENCY[0].as_micros() as u64, 160.2, true),
        // A virtual machine with two cores, a millisecond after the previous run.
        ("Zen 1, accumulate, f32, 1 MiB", 0, 40, 24.0, false),
        ("Zen 1, step, f32, 1 MiB", 0, 40, 54.3, false),
        ("Zen 1, step, f32 with gradients in bf16, 1 MiB", 0, 40, 74.0, true),
        ("Zen 1, statistics, f32, 1 MiB", 0, 40, 80.6, true),
        ("Zen 1, convert, f32, 4 MiB", 0, 40, 155.0, true),
        ("Zen 1, step, bf16, 1 MiB", 0, 40, 204.3, true),
        // The same machine, back to back.
        ("Zen 1, awake, step, f32, 256 KiB", 1, 1, 13.1, true),
        ("Zen 1, awake, statistics, f32, 256 KiB", 1, 1, 20.6, true),
        ("Zen 1, awake, convert, f32, 256 KiB", 1, 1, 3.7, false),
        ("Zen 1, awake, accumulate, f32, 256 KiB", 1, 1, 5.0, false),
        ("Zen 1, awake, accumulate, f32, 1 MiB", 1, 1, 23.6, true),
    ];

    #[test]
    fn the_rule_agrees_with_the_measurements() {
        for &(what, awake, latency, alone, faster) in RECORDED {
            let alone = Duration::from_secs_f64(alone * 1e-6);
            assert_eq!(
                is_profitable(alone, Duration::from_micros(latency), OVERHEAD[awake]),
                faster,
                "{what}"
            );
        }
        let [longest, none] = [Duration::MAX, Duration::ZERO];
        assert!(
            !is_profitable(none, none, none)
                && !is_profitable(longest, longest, longest)
                && is_profitable(longest, none, none)
        );
    }

    #[test]
    fn latency_follows_the_measurements() {
        let microseconds = Duration::from_micros;
        let latency = StartLatency::new();
        let known = |of: usize| latency.known[of].load(Ordering::Relaxed);
        let begin = Instant::now();
        for (alone, expected) in [(50, Verdict::Alone), (60, Verdict::Close), (400, Verdict::Parallel)] {
            assert_eq!(latency.verdict(microseconds(alone), begin), expected, "{alone} µs");
        }
        for _ in 0..20 {
            latency.last.store(0, Ordering::Relaxed);
            latency.record(begin, microseconds(4));
        }
        assert!((4_000..4_200).contains(&known(0)), "{}", known(0));
        latency.last.store(0, Ordering::Relaxed);
        latency.record(begin, Duration::MAX);
        assert!((50_000..54_000).contains(&known(0)), "one disturbed call: {}", known(0));
        // Runs that stay on their thread lower it again.
        latency.last.store(0, Ordering::Relaxed);
        let kept =
            (0..10_000).take_while(|_| latency.verdict(microseconds(50), begin) == Verdict::Alone).count();
        assert!((150..250).contains(&kept), "{kept}");
        assert_eq!(known(1), 1_000, "the latency of awake workers did not change");
    }

    #[test]
    fn workers_are_awake_for_a_while_after_a_call() {
        let latency = StartLatency::new();
        let begin = Instant::now();
        latency.record(begin, Duration::from_micros(30));
        let short = Duration::from_micros(15);
        let end = Instant::now();
        assert_eq!(latency.verdict(short, end + AWAKE_TIME), Verdict::Alone, "asleep");
        assert_eq!(latency.verdict(short, begin), Verdict::Close, "awake");
    }
}
