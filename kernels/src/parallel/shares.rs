//! Cuts a list of tasks into shares, and lets workers take pieces of them.

use core::array;
use core::ops::Range;
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::handover::Handover;
use super::{MAX_THREADS, ParallelFor, pool};
use crate::error::Error;
use crate::plan::Plan;
use crate::statistics::STATISTICS_BLOCK;
use crate::task::Task;

/// Pieces of a share in a call that is handed over without a threshold, if they are of a block or more.
const LEAST_PIECES: usize = 8;

/// Runs a list on workers that the host calls; without a threshold in the plan, only what it pays to hand over.
pub(super) fn run(
    plan: &Plan,
    bytes: usize,
    tasks: &mut [Task<'_>],
    workers: usize,
    parallel_for: &ParallelFor<'_>,
    handover: &Handover,
) -> Result<(), Error> {
    let prefetch = plan.prefetch.enabled_for(bytes);
    let tasks = &*tasks;
    let run_item = |item: Share| {
        for (task, range) in item.parts(tasks) {
            // SAFETY: the range is within the task, and no other item has it.
            unsafe { task.run_range(plan.backend, prefetch, range)? };
        }
        Ok(())
    };
    let elements = tasks.iter().map(Task::elements).fold(0, usize::saturating_add);
    let mut rest = Share::all(tasks);
    let mut bytes = bytes;
    let mut chunk = plan.chunk_elements.max(STATISTICS_BLOCK);
    if plan.parallel_threshold.is_none() {
        let begin = Instant::now();
        let Some(first) = rest.take(tasks, STATISTICS_BLOCK) else { return Ok(()) };
        run_item(first)?;
        let now = Instant::now();
        let done = first.bytes(tasks);
        bytes = bytes.saturating_sub(done);
        let first = now.saturating_duration_since(begin).as_secs_f64();
        let alone = Duration::try_from_secs_f64(first * bytes as f64 / done.max(1) as f64);
        if !handover.pays(alone.unwrap_or(Duration::MAX), now) {
            return run_item(rest);
        }
        // A worker begins late, and who ends first waits for the other's last piece.
        chunk = chunk.min(elements / (LEAST_PIECES * workers)).max(STATISTICS_BLOCK);
    }
    let begin = Instant::now();
    let shares = shares(tasks, rest, bytes, workers);
    let busy = AtomicUsize::new(0);
    let waited = AtomicU64::new(u64::MAX);
    let failed = Mutex::new(Ok(()));
    let work = |worker: usize| {
        busy.fetch_add(1, Ordering::Relaxed);
        if worker > 0 {
            waited.fetch_min(begin.elapsed().as_nanos() as u64, Ordering::Relaxed);
        }
        for turn in 0..workers {
            let Some(share) = shares.get((preferred_share(worker) + turn) % workers) else { continue };
            loop {
                let item = share.lock().unwrap_or_else(PoisonError::into_inner).take(tasks, chunk);
                let Some(item) = item else { break };
                if let Err(error) = run_item(item) {
                    *failed.lock().unwrap_or_else(PoisonError::into_inner) = Err(error);
                }
            }
        }
        busy.fetch_sub(1, Ordering::Relaxed);
        pool::wait_for(&busy);
    };
    parallel_for(workers, &work);
    handover.saw(begin, Duration::from_nanos(waited.load(Ordering::Relaxed)));
    // What no worker took: nothing, if the host called one of them.
    work(0);
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// A thread of the pool begins with the same share each time.
fn preferred_share(worker: usize) -> usize {
    pool::index().unwrap_or(worker)
}

/// A place in a list of tasks: an element of one of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Position {
    task: usize,
    element: usize,
}

/// Consecutive elements of a list.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Share {
    next: Position,
    end: Position,
}

impl Share {
    /// All of a list.
    fn all(tasks: &[Task<'_>]) -> Self {
        Share { next: Position::default(), end: Position { task: tasks.len(), element: 0 } }
    }

    /// Takes about this many elements off the front: whole tasks, or a part of one.
    pub(super) fn take(&mut self, tasks: &[Task<'_>], elements: usize) -> Option<Share> {
        if self.next >= self.end {
            return None;
        }
        let start = self.next;
        let mut left = elements;
        for (task, range) in self.parts(tasks) {
            let index = self.next.task;
            if range.len() > left {
                // A part, but only as the first of the item.
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

    /// The tasks of the share, each with the elements that belong to it.
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

/// Cuts the rest of a list, of so many bytes, into `count` shares of about the same bytes.
pub(super) fn shares(
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

/// Where a share of about this many bytes ends that begins at `next`.
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

    /// The elements of each share, task by task.
    fn cut(lengths: &[usize], count: usize) -> Vec<Vec<usize>> {
        let tensors: Vec<_> = lengths.iter().map(|&len| vec![0.0_f32; len]).collect();
        let tasks: Vec<_> = tensors.iter().map(Task::bandwidth_read).collect();
        let bytes = tasks.iter().map(Task::bytes).sum();
        let shares = shares(&tasks, Share::all(&tasks), bytes, count).into_iter().take(count);
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
    fn items_hold_whole_tasks_or_parts_of_one() {
        let tensor = vec![0.0_f32; 3 * BLOCK];
        let lengths = [100, 200, 3 * BLOCK, 50, 2 * BLOCK];
        let tasks: Vec<_> = lengths.iter().map(|&len| Task::bandwidth_read(&tensor[..len])).collect();
        let mut share = Share::all(&tasks);
        let mut found = Vec::new();
        while let Some(item) = share.take(&tasks, BLOCK) {
            found.push(elements(item, &tasks));
        }
        assert_eq!(
            found,
            [vec![100, 200], vec![BLOCK], vec![BLOCK], vec![BLOCK], vec![50], vec![BLOCK], vec![BLOCK]]
        );
    }
}
