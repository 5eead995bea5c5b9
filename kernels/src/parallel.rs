//! A list of tasks, done by as many threads as pay.
//!
//! The list is cut into one share for each worker, of equal bytes, across the borders of tensors. A worker takes
//! piece after piece off the front of its own share, and helps with the others' when that is empty. So a thread works on
//! the same elements in each call, which are then in its caches and on its memory node, and yet none waits long for one
//! that was disturbed. Workers are tasks of the rayon pool that the caller is in, as many as there are shares; nothing
//! is allocated for them.
//!
//! Tensors are cut at multiples of [`BLOCK`] elements only, and no element's result depends on a cut, so neither number
//! of threads nor chunk changes a bit.

use crate::Error;
use crate::plan::Plan;
use crate::task::{Task, run_in_turn};

/// The most threads that share a call. More do not make memory faster.
pub const MOST_THREADS: usize = 64;

/// Runs a list of tasks as a plan says, each exactly once, in any order.
///
/// With the feature `rayon`, on the threads of the pool that this is called in, or of rayon's global one; a call of less
/// than [`Plan::parallel_from`] bytes stays on the calling thread.
///
/// ```
/// # use lion_kernels::{Backend, Plan, Statistics, Task, Gradient, run};
/// let gradient = vec![1.0_f32; 10_000];
/// let mut blocks = [Statistics::default(); 3];
/// let mut tasks = [Task::statistics(&Gradient::new(), &gradient, None, &mut blocks)?];
/// run(&Plan::new(Backend::best()).parallel_from(0), &mut tasks)?;
/// assert_eq!(Statistics::of_blocks(&blocks).sum_of_squares, 10_000.0);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
///
/// # Errors
/// [`Error::UnavailableBackend`]. Nothing has been written then.
pub fn run(plan: &Plan, tasks: &mut [Task<'_>]) -> Result<(), Error> {
    plan.backend.required()?;
    let bytes = tasks.iter().map(Task::bytes).fold(0, usize::saturating_add);
    let prefetch = plan.prefetch.pays_for(bytes);
    #[cfg(feature = "rayon")]
    if bytes >= plan.parallel_from {
        return workers::run(plan, prefetch, bytes, tasks);
    }
    run_in_turn(plan.backend, prefetch, tasks)
}

#[cfg(feature = "rayon")]
mod workers {
    use core::num::NonZeroUsize;
    use core::ops::Range;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use core::{array, hint, mem};
    use std::sync::{Mutex, PoisonError};

    use super::{Error, MOST_THREADS, Plan, Task, run_in_turn};
    use crate::statistics::BLOCK;

    /// Turns of a waiting loop, some 50 microseconds.
    const PATIENCE: usize = 1500;

    pub(super) fn run(
        plan: &Plan,
        prefetch: bool,
        bytes: usize,
        tasks: &mut [Task<'_>],
    ) -> Result<(), Error> {
        let elements = tasks.iter().map(Task::elements).fold(0, usize::saturating_add);
        // A field that anyone may set.
        let chunk = plan.chunk.max(BLOCK);
        let wanted = plan.threads.map_or(MOST_THREADS, NonZeroUsize::get).min(MOST_THREADS);
        let wanted = wanted.min(elements.div_ceil(chunk));
        // Asked for last: it starts the global pool where there is none.
        let count = if wanted < 2 { 1 } else { wanted.min(rayon::current_num_threads()) };
        if count < 2 {
            return run_in_turn(plan.backend, prefetch, tasks);
        }
        let shares = shares(tasks, bytes, count);
        let shares = shares.get(..count).unwrap_or(&shares);
        let busy = AtomicUsize::new(0);
        let work = |worker: usize| -> Result<(), Error> {
            busy.fetch_add(1, Ordering::Relaxed);
            // A thread of the pool begins with the same share each time.
            let home = rayon::current_thread_index().unwrap_or(worker);
            for turn in 0..count {
                let Some(share) = shares.get((home + turn) % count) else { continue };
                loop {
                    let piece = share.lock().unwrap_or_else(PoisonError::into_inner).take(chunk);
                    match piece {
                        Piece::Nothing => break,
                        Piece::Part(mut part) => {
                            run_in_turn(plan.backend, prefetch, core::slice::from_mut(&mut part))?;
                        }
                        Piece::Whole(tasks) => run_in_turn(plan.backend, prefetch, tasks)?,
                    }
                }
            }
            busy.fetch_sub(1, Ordering::Relaxed);
            wait_for(&busy);
            Ok(())
        };
        fan_out(0..count, &work)
    }

    /// Waits a little for workers that have not finished their last piece. A thread that goes to sleep instead is woken
    /// later than such a piece takes, which can be as late as half of the call.
    fn wait_for(busy: &AtomicUsize) {
        for _ in 0..PATIENCE {
            if busy.load(Ordering::Relaxed) == 0 {
                break;
            }
            hint::spin_loop();
        }
    }

    fn fan_out(
        workers: Range<usize>,
        work: &(impl Fn(usize) -> Result<(), Error> + Sync),
    ) -> Result<(), Error> {
        if workers.len() < 2 {
            return work(workers.start);
        }
        let middle = workers.start + workers.len() / 2;
        let (left, right) =
            rayon::join(|| fan_out(workers.start..middle, work), || fan_out(middle..workers.end, work));
        left.and(right)
    }

    /// Consecutive tasks, and the front of the one that follows them.
    #[derive(Default)]
    struct Share<'l, 't> {
        whole: &'l mut [Task<'t>],
        last: Option<Task<'t>>,
    }

    /// What a worker does at a time.
    enum Piece<'l, 't> {
        Nothing,
        Whole(&'l mut [Task<'t>]),
        Part(Task<'t>),
    }

    impl<'l, 't> Share<'l, 't> {
        /// Takes off about this many elements, in whole tasks or in a part of one.
        fn take(&mut self, elements: usize) -> Piece<'l, 't> {
            let Some(first) = self.whole.first_mut() else {
                return match &mut self.last {
                    Some(last) if last.elements() > elements => Piece::Part(last.take_front(elements)),
                    last => last.take().map_or(Piece::Nothing, Piece::Part),
                };
            };
            if first.elements() > elements {
                return Piece::Part(first.take_front(elements));
            }
            let mut left = elements;
            let fits = |task: &&Task<'_>| {
                let fits = task.elements() <= left;
                left = left.saturating_sub(task.elements());
                fits
            };
            let count = self.whole.iter().take_while(fits).count();
            let (piece, rest) = mem::take(&mut self.whole).split_at_mut(count);
            self.whole = rest;
            Piece::Whole(piece)
        }
    }

    /// Cuts a list into `count` shares of about the same bytes.
    fn shares<'l, 't>(
        mut tasks: &'l mut [Task<'t>],
        bytes: usize,
        count: usize,
    ) -> [Mutex<Share<'l, 't>>; MOST_THREADS] {
        let mut left = bytes;
        array::from_fn(|index| {
            let own = left / count.saturating_sub(index).max(1);
            let share = if index < count { share(&mut tasks, own) } else { Share::default() };
            left -= share.bytes().min(left);
            Mutex::new(share)
        })
    }

    /// Takes a share of about this many bytes off a list.
    fn share<'l, 't>(tasks: &mut &'l mut [Task<'t>], bytes: usize) -> Share<'l, 't> {
        let mut left = bytes;
        let fits = |task: &&Task<'_>| {
            let fits = task.bytes() <= left;
            left -= if fits { task.bytes() } else { 0 };
            fits
        };
        let count = tasks.iter().take_while(fits).count();
        let (whole, rest) = mem::take(tasks).split_at_mut(count);
        let last = rest.first_mut().and_then(|border| {
            let elements = left / (border.bytes() / border.elements().max(1)).max(1);
            (left > 0).then(|| border.take_front(elements))
        });
        *tasks = rest;
        Share { whole, last }
    }

    impl Share<'_, '_> {
        fn bytes(&self) -> usize {
            self.whole.iter().chain(&self.last).map(Task::bytes).sum()
        }
    }

    #[cfg(test)]
    mod tests {
        use alloc::vec;
        use alloc::vec::Vec;

        use super::*;
        use crate::Slice;

        /// The elements of each share, task by task.
        fn cut(lengths: &[usize], count: usize) -> Vec<Vec<usize>> {
            let tensors: Vec<_> = lengths.iter().map(|&len| vec![0.0_f32; len]).collect();
            let mut tasks: Vec<_> = tensors.iter().map(|tensor| Task::read(Slice::from(tensor))).collect();
            let bytes = tasks.iter().map(Task::bytes).sum();
            let shares = shares(&mut tasks, bytes, count);
            shares
                .into_iter()
                .take(count)
                .map(|share| {
                    let Share { whole, last } = share.into_inner().expect("no panic");
                    whole.iter().chain(&last).map(Task::elements).filter(|&len| len > 0).collect()
                })
                .collect()
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
        fn pieces_hold_whole_tasks_or_parts_of_one() {
            let tensor = vec![0.0_f32; 3 * BLOCK];
            let lengths = [100, 200, 3 * BLOCK, 50];
            let mut tasks: Vec<_> = lengths.iter().map(|&len| Task::read(&tensor[..len])).collect();
            let mut share = Share { whole: &mut tasks, last: Some(Task::read(&tensor[..2 * BLOCK])) };
            let mut found = Vec::new();
            loop {
                match share.take(BLOCK) {
                    Piece::Nothing => break,
                    Piece::Part(part) => found.push(vec![part.elements()]),
                    Piece::Whole(tasks) => found.push(tasks.iter().map(Task::elements).collect()),
                }
            }
            assert_eq!(
                found,
                [vec![100, 200], vec![BLOCK], vec![BLOCK], vec![BLOCK], vec![50], vec![BLOCK], vec![BLOCK]]
            );
        }
    }
}
