//! The elements that the parts of a step have covered so far.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::VariableId;

/// Disjoint, sorted ranges for each variable; adjacent ranges are joined. A variable without elements has an entry once it
/// was given.
#[derive(Clone, Debug, Default)]
pub(crate) struct Coverage {
    ranges: BTreeMap<VariableId, Vec<Range<usize>>>,
}

impl Coverage {
    pub(crate) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Returns the covered ranges of a variable.
    pub(crate) fn of(&self, variable: VariableId) -> &[Range<usize>] {
        self.ranges.get(&variable).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn has(&self, variable: VariableId) -> bool {
        self.ranges.contains_key(&variable)
    }

    /// Returns the first covered range that overlaps `range`.
    pub(crate) fn overlap(&self, variable: VariableId, range: &Range<usize>) -> Option<Range<usize>> {
        let given = self.of(variable);
        let next = given.partition_point(|known| known.end <= range.start);
        given.get(next).filter(|known| known.start < range.end).cloned()
    }

    /// Adds a range that overlaps no covered range.
    pub(crate) fn add(&mut self, variable: VariableId, range: Range<usize>) {
        let given = self.ranges.entry(variable).or_default();
        if range.is_empty() {
            return;
        }
        let at = given.partition_point(|known| known.end < range.start);
        match given.get(at).map(|known| (known.start, known.end)) {
            Some((_, end)) if end == range.start => {
                given[at].end = range.end;
                if given.get(at + 1).is_some_and(|next| next.start == range.end) {
                    given[at].end = given.remove(at + 1).end;
                }
            }
            Some((start, _)) if start == range.end => given[at].start = range.start,
            _ => given.insert(at, range),
        }
    }

    /// Returns the parts of `all` that are not covered.
    pub(crate) fn gaps<'a>(
        &'a self,
        variable: VariableId,
        all: &Range<usize>,
    ) -> impl Iterator<Item = Range<usize>> + 'a {
        let ends = self.of(variable).iter().map(|known| known.end);
        let starts = self.of(variable).iter().map(|known| known.start);
        let (first, last) = (all.start, all.end);
        std::iter::once(first)
            .chain(ends)
            .zip(starts.chain(std::iter::once(last)))
            .filter(|(start, end)| start < end)
            .map(|(start, end)| start..end)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (VariableId, Range<usize>)> {
        self.ranges
            .iter()
            .flat_map(|(&variable, ranges)| ranges.iter().map(move |range| (variable, range.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_in_any_order_join() {
        let orders = [[0, 1, 2, 3], [3, 2, 1, 0], [1, 3, 0, 2], [2, 0, 3, 1]];
        for order in orders {
            let mut coverage = Coverage::default();
            for part in order {
                let range = part * 10..part * 10 + 10;
                assert_eq!(coverage.overlap(VariableId(0), &range), None);
                coverage.add(VariableId(0), range.clone());
                assert!(coverage.overlap(VariableId(0), &range).is_some());
            }
            assert_eq!(coverage.of(VariableId(0)), std::slice::from_ref(&(0..40)));
            assert!(coverage.gaps(VariableId(0), &(0..50)).eq(std::iter::once(40..50)));
        }
    }

    #[test]
    fn gaps_of_what_was_never_given() {
        let coverage = Coverage::default();
        assert!(coverage.gaps(VariableId(3), &(5..9)).eq(std::iter::once(5..9)));
        assert_eq!(coverage.gaps(VariableId(3), &(5..5)).count(), 0);
    }
}
