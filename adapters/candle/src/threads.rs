//! The same work for each of many variables: on as many threads of the rayon pool as are worth waking, and with what
//! it will look at asked for ahead.
//!
//! By the time of a step the elements of a large model have driven candle's records of its tensors out of the caches.
//! Each record is a few lines of memory somewhere, so that a loop that waits for one after the other takes as long as
//! moving the elements of small tensors does.

use candle_core::{Error, Result};
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};

/// A thread has no fewer than these, which take about as long as it takes to wake.
const PER_THREAD: usize = 64;

/// How many variables ahead what is needed is asked for.
pub(crate) const AHEAD: usize = 8;

/// Whether so few variables are not worth a second thread, nor asking ahead.
pub(crate) fn are_few(variables: usize) -> bool {
    variables < 2 * PER_THREAD
}

/// Does work on many variables from within the pool, so that threads are woken for it once.
pub(crate) fn together<Out: Send>(variables: usize, work: impl FnOnce() -> Out + Send) -> Out {
    if are_few(variables) { work() } else { rayon::scope(|_| work()) }
}

/// What comes of each, in their order. `fetch` asks for what the one at a place, if there is one, will need.
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

/// What comes of each, in their order, as [`each`] has it.
///
/// # Errors
/// That of the first with one.
pub(crate) fn try_each<'a, Item: Sync, Out: Send>(
    items: &'a [Item],
    fetch: impl Fn(usize) + Send + Sync,
    work: impl Fn(&'a Item) -> Result<Out> + Send + Sync,
) -> Result<Vec<Out>> {
    if are_few(items.len()) {
        return items.iter().map(work).collect();
    }
    // Boxed, since an error is several times as large as what most give.
    let found = each(items, fetch, |item| work(item).map_err(Box::new));
    found.into_iter().collect::<std::result::Result<_, Box<Error>>>().map_err(|error| *error)
}
