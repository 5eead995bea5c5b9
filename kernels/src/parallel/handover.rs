//! When it pays to hand work to other threads: a rule, and what it knows of the threads.
//!
//! A worker that sleeps takes a while to wake: 20 µs on a virtual Zen 5, 15 to 110 on a virtual Zen 1, the longer the core
//! has been idle. Meanwhile the caller works alone, and outside of a pool a call that ends before the worker has begun
//! waits for it. So the rule [`pays`] compares two times: of the work on the calling thread alone, and of the handover.
//!
//! Neither is a constant. How long work takes depends on pass, formats, instruction set and caches; the caller times the
//! first piece of each call. How long the handover takes depends on the machine, and on what the threads did before; each
//! call that hands work over looks when the first worker begins. So nothing is measured that has no other use.
//!
//! Workers look for more work for a while before they sleep. A call soon after another finds them awake.
//!
//! A wrong guess costs time. No result depends on it.

use core::sync::atomic::{AtomicU64, Ordering};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// What the handover is taken for before one was seen, to workers that sleep and to workers that look for work. The first
/// is that of slow machines: there handing too little over costs less than handing over too much.
const UNSEEN: [Duration; 2] = [Duration::from_micros(30), Duration::from_micros(1)];

/// No handover is taken for longer: whoever waits so long was disturbed.
const LONGEST: Duration = Duration::from_micros(200);

/// For so long workers look for work before they sleep: rayon's yield 32 times. On Zen 1, 20 µs after a call all were awake,
/// and 60 µs after it half.
const STAY_AWAKE: Duration = Duration::from_micros(20);

/// What sharing a call costs besides, from and to the same workers: the queue, cutting the list, the wait for the last
/// worker, and after sleep caches that hold none of the tensors.
///
/// On Zen 1 one thread and two were as fast for work of 10 µs with workers that look for work, and of 60 to 75 µs with
/// workers that begin after 40; on Zen 5 two still lost with 41 µs of work and workers that begin after 20.
const BESIDES: [Duration; 2] = [Duration::from_micros(25), Duration::from_micros(8)];

/// Whether to hand work over that takes so long on the calling thread alone. With two threads as fast as one for work of
/// this length, longer work gains half of what it is longer.
const fn pays(alone: Duration, handover: Duration, besides: Duration) -> bool {
    alone.as_nanos() > handover.as_nanos() + besides.as_nanos()
}

/// What is known of a pool's handover.
#[derive(Debug)]
pub(super) struct Handover {
    /// Nanoseconds until a worker begins, of workers that sleep and of workers that look for work.
    known: [AtomicU64; 2],
    /// When the last call ended that handed work over, by [`since_first`]; 0 before.
    last: AtomicU64,
}

impl Handover {
    pub(super) const fn new() -> Self {
        let [asleep, awake] = UNSEEN;
        let known = [AtomicU64::new(asleep.as_nanos() as u64), AtomicU64::new(awake.as_nanos() as u64)];
        Handover { known, last: AtomicU64::new(0) }
    }

    /// What is known of workers that are now as the last call left them, and what sharing with them costs besides.
    fn known(&self, now: Instant) -> (&AtomicU64, Duration) {
        let [asleep, awake] = &self.known;
        let last = self.last.load(Ordering::Relaxed);
        let looks = last > 0 && since_first(now) < last + STAY_AWAKE.as_nanos() as u64;
        if looks { (awake, BESIDES[1]) } else { (asleep, BESIDES[0]) }
    }

    /// Whether to hand over, now, what takes so long on the calling thread.
    pub(super) fn pays(&self, alone: Duration, now: Instant) -> bool {
        let (known, besides) = self.known(now);
        let handover = known.load(Ordering::Relaxed);
        let pays = pays(alone, Duration::from_nanos(handover), besides);
        if !pays {
            known.store(forgotten(handover), Ordering::Relaxed);
        }
        pays
    }

    /// Learns from a call that handed work over at `begin`: the first worker began after `waited`.
    pub(super) fn saw(&self, begin: Instant, waited: Duration) {
        let (known, _) = self.known(begin);
        known.store(learned(known.load(Ordering::Relaxed), waited), Ordering::Relaxed);
        self.last.store(since_first(Instant::now()), Ordering::Relaxed);
    }
}

/// Goes a quarter of the way to what was seen.
fn learned(known: u64, seen: Duration) -> u64 {
    let seen = seen.min(LONGEST).as_nanos() as u64;
    (3 * known + seen) / 4
}

/// A little less, with each call that was kept from the workers: what was learned from a disturbed moment is tried again,
/// after hundreds of calls.
fn forgotten(known: u64) -> u64 {
    known - known / 256
}

/// Nanoseconds since a moment before the first call, at least 1.
fn since_first(now: Instant) -> u64 {
    static FIRST: OnceLock<Instant> = OnceLock::new();
    let first = *FIRST.get_or_init(|| now);
    now.saturating_duration_since(first).as_nanos() as u64 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was measured where, 1 if the workers were awake, microseconds until one began, microseconds of the work alone,
    /// and whether more threads were faster.
    type Recorded = (&'static str, usize, u64, f64, bool);

    const RECORDED: &[Recorded] = &[
        // A virtual machine of two cores. A step of 3 MiB of f32 took 30.7 µs on one thread, from which these times are
        // scaled; the default, which had two threads, lost 50 to 62 % to one at 1 MiB and 16 to 39 % at 4 MiB.
        ("Zen 5, step, f32, 1 MiB", 0, 20, 10.2, false),
        ("Zen 5, step, f32, 4 MiB", 0, 20, 40.9, false),
        ("Zen 5, step, f32, 16 MiB", 0, 20, 164.0, true),
        // A virtual machine of two cores, of which no handover is recorded; times from benches/results.
        ("Sapphire Rapids, step, f32, 1 MiB", 0, UNSEEN[0].as_micros() as u64, 43.7, false),
        ("Sapphire Rapids, step, f32, 3 MiB", 0, UNSEEN[0].as_micros() as u64, 160.2, true),
        // A virtual machine of two cores, a millisecond after the call before.
        ("Zen 1, accumulate, f32, 1 MiB", 0, 40, 24.0, false),
        ("Zen 1, step, f32, 1 MiB", 0, 40, 54.3, false),
        ("Zen 1, step, f32 with gradients in bf16, 1 MiB", 0, 40, 74.0, true),
        ("Zen 1, statistics, f32, 1 MiB", 0, 40, 80.6, true),
        ("Zen 1, convert, f32, 4 MiB", 0, 40, 155.0, true),
        ("Zen 1, step, bf16, 1 MiB", 0, 40, 204.3, true),
        // The same one, back to back.
        ("Zen 1, awake, step, f32, 256 KiB", 1, 1, 13.1, true),
        ("Zen 1, awake, statistics, f32, 256 KiB", 1, 1, 20.6, true),
        ("Zen 1, awake, convert, f32, 256 KiB", 1, 1, 3.7, false),
        ("Zen 1, awake, accumulate, f32, 256 KiB", 1, 1, 5.0, false),
        ("Zen 1, awake, accumulate, f32, 1 MiB", 1, 1, 23.6, true),
    ];

    #[test]
    fn the_rule_chooses_what_was_faster() {
        for &(what, awake, handover, alone, faster) in RECORDED {
            let alone = Duration::from_secs_f64(alone * 1e-6);
            assert_eq!(pays(alone, Duration::from_micros(handover), BESIDES[awake]), faster, "{what}");
        }
        let [longest, none] = [Duration::MAX, Duration::ZERO];
        assert!(!pays(none, none, none) && !pays(longest, longest, longest) && pays(longest, none, none));
    }

    #[test]
    fn what_is_known_follows_what_is_seen() {
        let microseconds = Duration::from_micros;
        let handover = Handover::new();
        let known = |of: usize| handover.known[of].load(Ordering::Relaxed);
        let begin = Instant::now();
        assert!(!handover.pays(microseconds(50), begin) && handover.pays(microseconds(60), begin));
        for _ in 0..20 {
            handover.last.store(0, Ordering::Relaxed);
            handover.saw(begin, microseconds(4));
        }
        assert!((4_000..4_200).contains(&known(0)), "{}", known(0));
        handover.last.store(0, Ordering::Relaxed);
        handover.saw(begin, Duration::MAX);
        assert!((50_000..54_000).contains(&known(0)), "one disturbed call: {}", known(0));
        // Calls that stay on their thread for it bring it down again.
        handover.last.store(0, Ordering::Relaxed);
        let kept = (0..10_000).take_while(|_| !handover.pays(microseconds(50), begin)).count();
        assert!((150..250).contains(&kept), "{kept}");
        assert_eq!(known(1), 1_000, "nothing was learned of workers that are awake");
    }

    #[test]
    fn workers_are_awake_for_a_while_after_a_call() {
        let handover = Handover::new();
        let begin = Instant::now();
        handover.saw(begin, Duration::from_micros(30));
        let short = Duration::from_micros(15);
        let end = Instant::now();
        assert!(!handover.pays(short, end + STAY_AWAKE), "asleep");
        assert!(handover.pays(short, begin), "awake");
    }
}
