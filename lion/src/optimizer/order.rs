//! Sorts the caller's list for a step, and puts it back in the caller's order.

/// A permutation of a list, kept from step to step so that its memory is reused.
#[derive(Debug, Default)]
pub(super) struct CallerOrder {
    /// Scratch: the index of the item that belongs at each place.
    sources: Vec<usize>,
    /// The swaps that sorted the list, in order.
    swaps: Vec<(usize, usize)>,
}

impl CallerOrder {
    /// Sorts the items by key. A list that is sorted already costs one comparison per item.
    pub(super) fn sort<T, K: Ord>(&mut self, items: &mut [T], key: impl Fn(&T) -> K) {
        self.swaps.clear();
        if items.is_sorted_by_key(&key) {
            return;
        }
        self.sources.clear();
        self.sources.extend(0..items.len());
        self.sources.sort_unstable_by_key(|&index| key(&items[index]));
        // A permutation is a set of cycles. Each swap puts one item at its final place.
        for start in 0..items.len() {
            let mut place = start;
            loop {
                let source = std::mem::replace(&mut self.sources[place], place);
                if source == start {
                    break;
                }
                items.swap(place, source);
                self.swaps.push((place, source));
                place = source;
            }
        }
    }

    /// Undoes the last [`sort`](Self::sort) of the same list.
    pub(super) fn restore<T>(&self, items: &mut [T]) {
        for &(a, b) in self.swaps.iter().rev() {
            items.swap(a, b);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permutation_is_sorted_and_restored() {
        let mut order = CallerOrder::default();
        let mut lists = vec![vec![0]];
        for next in 1..6 {
            let insert = |list: &Vec<usize>| {
                (0..=list.len()).map(|place| [&list[..place], &[next], &list[place..]].concat()).collect()
            };
            lists = lists.iter().flat_map(|list| -> Vec<Vec<usize>> { insert(list) }).collect();
        }
        assert_eq!(lists.len(), 720);
        for list in lists {
            let mut items = list.clone();
            order.sort(&mut items, |&item| item);
            assert!(items.is_sorted(), "{list:?}");
            order.restore(&mut items);
            assert_eq!(items, list);
        }
    }
}
