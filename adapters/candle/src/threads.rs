//! Parallel loops over many variables. A loop uses as many threads of the rayon pool as are worth waking, and
//! prefetches the data of later variables.
//!
//! Before a step, the elements of a large model have evicted candle's tensor records from the caches. Each record is a
//! few cache lines at an unpredictable address. A loop that waits for each miss takes as long as updating the elements
//! of small tensors.

use candle_core::{Error, Result};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

/// The minimum number of variables per thread. Processing them takes about as long as waking a thread.
const PER_THREAD: usize = 64;

/// The prefetch distance, in variables.
pub(crate) const AHEAD: usize = 8;

/// Returns whether there are too few variables for a second thread and for prefetching.
pub(crate) fn are_few(variables: usize) -> bool {
    variables < 2 * PER_THREAD
}

/// Runs work on many variables inside the pool, so that its threads are woken only once.
pub(crate) fn together<Out: Send>(variables: usize, work: impl FnOnce() -> Out + Send) -> Out {
    if are_few(variables) { work() } else { rayon::scope(|_| work()) }
}

/// Returns the result of each item, in order. `fetch` prefetches the data of the item at an index, which may be out of
/// range.
pub(crate) fn each<Known, Items, Item, Out>(
    items: Items,
    fetch: impl Fn(usize) + Send + Sync,
    work: impl Fn(Item) -> Out + Send + Sync,
) -> Vec<Out>
where
    Items: AsRef<[Known]>
        + IntoIterator<Item = Item>
        + IntoParallelIterator<Item = Item, Iter: IndexedParallelIterator>,
    Item: Send,
    Out: Send,
{
    if are_few(items.as_ref().len()) {
        return items.into_iter().map(work).collect();
    }
    let work = |(place, item): (usize, Item)| {
        fetch(place + AHEAD);
        work(item)
    };
    items.into_par_iter().with_min_len(PER_THREAD).enumerate().map(work).collect()
}

/// Returns the result of each item, in order, as [`each`] does.
///
/// # Errors
/// The error of the first item that fails.
pub(crate) fn try_each<'a, Item: Sync, Out: Send>(
    items: &'a [Item],
    fetch: impl Fn(usize) + Send + Sync,
    work: impl Fn(&'a Item) -> Result<Out> + Send + Sync,
) -> Result<Vec<Out>> {
    if are_few(items.len()) {
        return items.iter().map(work).collect();
    }
    // Boxed, because an error is several times as large as most results.
    let found = each(items, fetch, |item| work(item).map_err(Box::new));
    found.into_iter().collect::<std::result::Result<_, Box<Error>>>().map_err(|error| *error)
}
