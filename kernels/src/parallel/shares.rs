//! Splits a list of tasks into shares, from which workers take chunks.

use core::array;
use core::ops::{Range, RangeInclusive};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::latency::{StartLatency, Verdict};
use super::{MAX_THREADS, ParallelFor, pool};
use crate::error::Error;
use crate::plan::Plan;
use crate::statistics::STATISTICS_BLOCK;
use crate::task::Task;

/// The numbers of chunks per share in a run without a threshold, unless a chunk would be smaller than a block.
///
/// Fewer would make threads wait, because workers start late and the first to finish waits for the others' last chunks.
/// More cost time: 340 and more per share took 4 to 9 % longer than 16 to 43 for 16-bit steps of 64 and 256 MiB on
/// Emerald Rapids, and as long for f32.
const CHUNKS: RangeInclusive<usize> = 8..=32;

/// The maximum number of chunks that the calling thread times before it starts other threads.
///
/// After an idle millisecond the first chunk takes longer than the next ones: its code is not cached, and Intel's
/// processors start 512-bit units slowly. So a close decision takes more chunks, about 10 µs.
const MAX_SAMPLES: usize = 6;

/// Runs a list on workers that the host calls. If the plan has no threshold, the calling thread runs a few chunks, then
/// decides by their time whether to start the workers.
pub(super) fn run(
    plan: &Plan,
    bytes: usize,
    tasks: &mut [Task<'_>],
    workers: usize,
    parallel_for: &ParallelFor<'_>,
    latency: &StartLatency,
) -> Result<(), Error> {
    let prefetch = plan.prefetch.enabled_for(bytes);
    let tasks = &*tasks;
    let run_chunk = |chunk: Share| {
        for (task, range) in chunk.parts(tasks) {
            // SAFETY: the range is within the task, and no other chunk overlaps it.
            unsafe { task.run_range(plan.backend, prefetch, range)? };
        }
        Ok(())
    };
    let elements = tasks.iter().map(Task::elements).fold(0, usize::saturating_add);
    let mut rest = Share::all(tasks);
    let mut bytes = bytes;
    let mut chunk_elements = plan.chunk_elements.max(STATISTICS_BLOCK);
    if plan.parallel_threshold.is_none() {
        for _ in 0..MAX_SAMPLES {
            let begin = Instant::now();
            let Some(sample) = rest.take(tasks, STATISTICS_BLOCK) else { return Ok(()) };
            run_chunk(sample)?;
            let now = Instant::now();
            let done = sample.bytes(tasks);
            bytes = bytes.saturating_sub(done);
            let seconds = now.saturating_duration_since(begin).as_secs_f64();
            let alone = Duration::try_from_secs_f64(seconds * bytes as f64 / done.max(1) as f64);
            match latency.verdict(alone.unwrap_or(Duration::MAX), now) {
                Verdict::Alone => return run_chunk(rest),
                Verdict::Close => {}
                Verdict::Parallel => break,
            }
        }
        let share = elements / workers;
        chunk_elements =
            chunk_elements.clamp(share / CHUNKS.end(), share / CHUNKS.start()).max(STATISTICS_BLOCK);
    }
    let begin = Instant::now();
    let shares = cut_shares(tasks, rest, bytes, workers);
    let busy = AtomicUsize::new(0);
    let waited = AtomicU64::new(u64::MAX);
    let failed = Mutex::new(Ok(()));
    let work = |worker: usize| {
        busy.fetch_add(1, Ordering::Relaxed);
        if worker > 0 {
            waited.fetch_min(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        for offset in 0..workers {
            let Some(share) = shares.get((preferred_share(worker) + offset) % workers) else { continue };
            loop {
                let chunk = share.lock().unwrap_or_else(PoisonError::into_inner).take(tasks, chunk_elements);
                let Some(chunk) = chunk else { break };
                if let Err(error) = run_chunk(chunk) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
                }
            }
        }
        busy.fetch_sub(1, Ordering::Relaxed);
        pool::wait_for(&busy);
    };
    parallel_for(workers, &work);
    latency.record(begin, Duration::from_nanos(waited.load(Ordering::Relaxed)));
    // Runs the chunks that no worker took. If the host called at least one worker, none remain.
    work(0);
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the share that a worker takes chunks from first: the same for a pool thread in every run.
fn preferred_share(worker: usize) -> usize {
    pool::index().unwrap_or(worker)
}

/// A position in a list of tasks: a task and an element of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    task: usize,
    element: usize,
}

/// A range of consecutive elements of a list of tasks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    next: Position,
    end: Position,
}

impl Share {
    /// Returns the whole list.
    fn all(tasks: &[Task<'_>]) -> Self {
        Share { next: Position::default(), end: Position { task: tasks.len(), element: 0 } }
    }

    /// Takes about this many elements from the front: whole tasks, or a part of one.
    pub(super) fn take(&mut self, tasks: &[Task<'_>], elements: usize) -> Option<Share> {
        if self.next >= self.end {
            return None;
        }
        let start = self.next;
        let mut left = elements;
        for (task, range) in self.parts(tasks) {
            let index = self.next.task;
            if range.len() > left {
                // A chunk holds a part of a task only if it holds nothing else.
                if self.next == start {
                    let middle =
                        (range.start + left).checked_next_multiple_of(STATISTICS_BLOCK).unwrap_or(usize::MAX);
                    self.next.element = middle.min(range.end);
                    if self.next.element == task.elements() {
                        self.next = Position { task: index + 1, element: 0 };
                    }
                }
                break;
            }
            left -= range.len();
            self.next = match range.end == task.elements() {
                true => Position { task: index + 1, element: 0 },
                false => Position { task: index, element: range.end },
            };
        }
        Some(Share { next: start, end: self.next })
    }

    /// Returns the tasks of the share, each with the range of its elements in the share.
    pub(super) fn parts<'l, 't>(
        self,
        tasks: &'l [Task<'t>],
    ) -> impl Iterator<Item = (&'l Task<'t>, Range<usize>)> {
        let Share { next, end } = self;
        let last = if end.element > 0 { end.task + 1 } else { end.task };
        let found = tasks.get(next.task..last).unwrap_or_default();
        found.iter().enumerate().map(move |(index, task)| {
            let start = if index == 0 { next.element } else { 0 };
            let end = if next.task + index == end.task { end.element } else { task.elements() };
            (task, start..end)
        })
    }

    fn bytes(self, tasks: &[Task<'_>]) -> usize {
        self.parts(tasks).map(|(task, range)| bytes_per_element(task) * range.len()).sum()
    }
}

fn bytes_per_element(task: &Task<'_>) -> usize {
    task.bytes() / task.elements().max(1)
}

/// Splits the rest of a list, which has `bytes` bytes, into `count` shares of about equal bytes.
pub(super) fn cut_shares(
    tasks: &[Task<'_>],
    rest: Share,
    bytes: usize,
    count: usize,
) -> [Mutex<Share>; MAX_THREADS] {
    let mut left = bytes;
    let mut next = rest.next;
    array::from_fn(|index| {
        let own = left / count.saturating_sub(index).max(1);
        let end = match index + 1 {
            after if after < count => end_of_share(tasks, next, own),
            after if after == count => rest.end,
            _ => next,
        };
        let share = Share { next, end };
        next = end;
        left -= share.bytes(tasks).min(left);
        Mutex::new(share)
    })
}

/// Returns the end of a share of about this many bytes from `next` on.
fn end_of_share(tasks: &[Task<'_>], next: Position, bytes: usize) -> Position {
    let mut left = bytes;
    let whole = Share { next, end: Position { task: tasks.len(), element: 0 } };
    let mut at = next;
    for (task, range) in whole.parts(tasks) {
        let each = bytes_per_element(task).max(1);
        let size = range.len() * each;
        if size > left {
            if left > 0 {
                let middle =
                    range.start.saturating_add(left / each).checked_next_multiple_of(STATISTICS_BLOCK);
                at.element = middle.unwrap_or(usize::MAX).min(range.end);
                if at.element == task.elements() {
                    at = Position { task: at.task + 1, element: 0 };
                }
            }
            break;
        }
        left -= size;
        at = Position { task: at.task + 1, element: 0 };
    }
    at
}

#[cfg(test)]
mod tests {
    use std::vec;
    use std::vec::Vec;

    use super::*;

    const BLOCK: usize = STATISTICS_BLOCK;

    fn elements(share: Share, tasks: &[Task<'_>]) -> Vec<usize> {
        share.parts(tasks).map(|(_, range)| range.len()).filter(|&len| len > 0).collect()
    }

    /// Returns the number of elements of each share, task by task.
    fn cut(lengths: &[usize], count: usize) -> Vec<Vec<usize>> {
        let tensors: Vec<_> = lengths.iter().map(|&len| vec![0.0_f32; len]).collect();
        let tasks: Vec<_> = tensors.iter().map(Task::bandwidth_read).collect();
        let bytes = tasks.iter().map(Task::bytes).sum();
        let shares = cut_shares(&tasks, Share::all(&tasks), bytes, count).into_iter().take(count);
        shares.map(|share| elements(share.into_inner().expect("no panic"), &tasks)).collect()
    }

    #[test]
    fn shares_are_equal_and_cross_borders() {
        assert_eq!(cut(&[4 * BLOCK], 2), [[2 * BLOCK], [2 * BLOCK]]);
        assert_eq!(cut(&[3 * BLOCK, BLOCK], 2), [vec![2 * BLOCK], vec![BLOCK, BLOCK]]);
        assert_eq!(cut(&[BLOCK; 4], 2), [[BLOCK, BLOCK], [BLOCK, BLOCK]]);
        assert_eq!(cut(&[5], 3), [vec![5], vec![], vec![]]);
        assert_eq!(cut(&[BLOCK + 1, 7, 0], 2), [vec![BLOCK], vec![1, 7]]);
        let total: usize = cut(&[10 * BLOCK + 17, 3, 90 * BLOCK], 7).iter().flatten().sum();
        assert_eq!(total, 100 * BLOCK + 20);
    }

    #[test]
    fn chunks_hold_whole_tasks_or_parts_of_one() {
        let tensor = vec![0.0_f32; 3 * BLOCK];
        let lengths = [100, 200, 3 * BLOCK, 50, 2 * BLOCK];
        let tasks: Vec<_> = lengths.iter().map(|&len| Task::bandwidth_read(&tensor[..len])).collect();
        let mut share = Share::all(&tasks);
        let mut found = Vec::new();
        while let Some(chunk) = share.take(&tasks, BLOCK) {
            found.push(elements(chunk, &tasks));
        }
        assert_eq!(
            found,
            [vec![100, 200], vec![BLOCK], vec![BLOCK], vec![BLOCK], vec![50], vec![BLOCK], vec![BLOCK]]
        );
    }
}
