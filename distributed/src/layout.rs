//! The layout: which rank owns which elements.
//!
//! The variables, in the order of registration and in blocks of 4,096 elements, form one row of blocks. Rank `r` of `n`
//! owns the blocks from the first one that begins at or after `r / n` of all elements, up to the next rank's. Names and
//! shapes stay whole: a rank's part of a variable is a range of its elements, in row-major order.

use std::ops::Range;

use lion_kernels::STATISTICS_BLOCK;

use crate::Error;

/// The elements of one variable that one rank owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The number of the variable in the order of registration.
    pub variable: usize,
    /// The elements, in row-major order. The range starts at a multiple of 4,096, and ends at one or at the variable's end.
    pub range: Range<usize>,
}

/// The parts of all ranks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// By rank, in order of the variables.
    shards: Vec<Vec<Segment>>,
}

impl Layout {
    /// Changes whenever other elements belong to a rank.
    pub(crate) const REVISION: u32 = 1;

    /// Lays out variables with these numbers of elements. No rank owns a variable without elements.
    ///
    /// # Errors
    /// [`Error::Setting`] for no ranks, or more than there are blocks.
    pub fn new(elements: &[usize], ranks: usize) -> Result<Self, Error> {
        let blocks: usize = elements.iter().map(|len| len.div_ceil(STATISTICS_BLOCK)).sum();
        if !(1..=blocks).contains(&ranks) {
            let allowed = format!(
                "1 to {blocks}, the number of blocks of {STATISTICS_BLOCK} elements that the variables have"
            );
            return Err(Error::Setting { name: "the number of ranks", value: ranks.to_string(), allowed });
        }
        let total: u128 = elements.iter().map(|&len| len as u128).sum();
        // The owner of a block is the last rank whose share begins at or before the block.
        let owner = |start: u128| ((start * ranks as u128) / total) as usize;
        let mut shards = vec![Vec::<Segment>::new(); ranks];
        let mut before = 0_u128;
        for (variable, &len) in elements.iter().enumerate() {
            let mut start = 0;
            while start < len {
                let rank = owner(before + start as u128);
                // The elements before the next rank's share, up to the block that it begins in or before.
                let next = ((rank as u128 + 1) * total).div_ceil(ranks as u128) - before;
                let end = usize::try_from(next.div_ceil(STATISTICS_BLOCK as u128) * STATISTICS_BLOCK as u128)
                    .map_or(len, |end| end.min(len));
                if let Some(shard) = shards.get_mut(rank) {
                    shard.push(Segment { variable, range: start..end });
                }
                start = end;
            }
            before += len as u128;
        }
        Ok(Layout { shards })
    }

    /// The number of ranks.
    pub fn ranks(&self) -> usize {
        self.shards.len()
    }

    /// Returns a rank's segments, in order of the variables; none if the rank does not exist.
    pub fn shard(&self, rank: usize) -> &[Segment] {
        self.shards.get(rank).map_or(&[], Vec::as_slice)
    }

    /// Returns the elements of a variable that a rank owns; an empty range if none.
    pub fn held(&self, rank: usize, variable: usize) -> Range<usize> {
        let shard = self.shard(rank);
        let found = shard.binary_search_by_key(&variable, |segment| segment.variable);
        found.ok().and_then(|index| shard.get(index)).map_or(0..0, |segment| segment.range.clone())
    }
}

/// Segments as one row of units, which are taken from the front.
#[derive(Clone, Debug)]
pub(crate) struct Row<'a> {
    segments: &'a [Segment],
    /// By variable, the units of an element; 0 leaves the variable out.
    units: &'a [usize],
    /// Units of the first segment that have been taken.
    taken: usize,
}

impl<'a> Row<'a> {
    pub(crate) fn new(segments: &'a [Segment], units: &'a [usize]) -> Self {
        Row { segments, units, taken: 0 }
    }

    fn units_of(&self, segment: &Segment) -> usize {
        self.units.get(segment.variable).copied().unwrap_or_default()
    }

    /// The units that are left.
    pub(crate) fn left(&self) -> usize {
        let all: usize = self.segments.iter().map(|it| it.range.len() * self.units_of(it)).sum();
        all - self.taken
    }

    /// Takes the next units, as ranges of units by variable, counted from the variable's first element.
    pub(crate) fn take(&mut self, mut count: usize) -> Vec<Segment> {
        let mut pieces = Vec::new();
        while let Some((segment, rest)) = self.segments.split_first() {
            let units = self.units_of(segment);
            let (start, end) = (segment.range.start * units + self.taken, segment.range.end * units);
            let next = count.min(end - start);
            if next > 0 {
                pieces.push(Segment { variable: segment.variable, range: start..start + next });
            }
            count -= next;
            self.taken += next;
            if start + next < end {
                break;
            }
            (self.segments, self.taken) = (rest, 0);
        }
        pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The layout by its definition, block by block.
    fn by_definition(elements: &[usize], ranks: usize) -> Vec<Vec<(usize, usize)>> {
        let total: usize = elements.iter().sum();
        let mut shards = vec![Vec::new(); ranks];
        let mut before = 0;
        for (variable, &len) in elements.iter().enumerate() {
            for start in (0..len).step_by(STATISTICS_BLOCK) {
                let begun = |rank: usize| before + start >= (rank * total).div_ceil(ranks);
                let rank = (0..ranks).rev().find(|&rank| begun(rank)).expect("rank 0 begins at 0");
                shards[rank].push((variable, start / STATISTICS_BLOCK));
            }
            before += len;
        }
        shards
    }

    #[test]
    fn each_block_has_the_owner_of_the_definition() {
        let mut rng = fastrand::Rng::with_seed(9);
        for _ in 0..500 {
            let elements: Vec<_> =
                (0..rng.usize(1..6)).map(|_| rng.usize(0..5) * rng.usize(0..5000)).collect();
            let blocks: usize = elements.iter().map(|len| len.div_ceil(STATISTICS_BLOCK)).sum();
            for ranks in 1..=9 {
                let layout = Layout::new(&elements, ranks);
                assert_eq!(layout.is_ok(), ranks <= blocks, "{elements:?} on {ranks}");
                let Ok(layout) = layout else { continue };
                for (rank, expected) in by_definition(&elements, ranks).into_iter().enumerate() {
                    let shard = layout.shard(rank);
                    let found: Vec<_> = shard
                        .iter()
                        .flat_map(|it| {
                            it.range
                                .clone()
                                .step_by(STATISTICS_BLOCK)
                                .map(|start| (it.variable, start / STATISTICS_BLOCK))
                        })
                        .collect();
                    assert_eq!(found, expected, "rank {rank} of {ranks}, {elements:?}");
                    assert!(shard.windows(2).all(|pair| pair[0].variable < pair[1].variable));
                    for segment in shard {
                        assert!(segment.range.start.is_multiple_of(STATISTICS_BLOCK));
                        assert_eq!(layout.held(rank, segment.variable), segment.range);
                    }
                }
            }
        }
    }

    #[test]
    fn shards_of_a_large_model_are_even() {
        let elements = [50_257 * 1600, 1600 * 6400, 6400, 1600, 1024 * 1600];
        let layout = Layout::new(&elements, 16).expect("enough blocks");
        let total: usize = elements.iter().sum();
        for rank in 0..16 {
            let own: usize = layout.shard(rank).iter().map(|it| it.range.len()).sum();
            let share = own as f64 * 16.0 / total as f64;
            assert!((0.98..1.02).contains(&share), "rank {rank} has {share} of an even share");
        }
        assert!(Layout::new(&[usize::MAX / 2, usize::MAX / 2], 3).is_ok());
        let error = Layout::new(&[1, 4097], 4).expect_err("too many").to_string();
        let allowed = "1 to 3, the number of blocks of 4096 elements that the variables have";
        assert_eq!(error, format!("the number of ranks is 4; expected {allowed}"));
    }

    #[test]
    fn a_row_is_taken_in_order_and_once() {
        let segments = [
            Segment { variable: 0, range: 4..10 },
            Segment { variable: 2, range: 0..3 },
            Segment { variable: 3, range: 8..9 },
        ];
        let units = [2, 5, 0, 4];
        for count in 1..20 {
            let mut row = Row::new(&segments, &units);
            let mut found = Vec::new();
            while row.left() > 0 {
                let before = row.left();
                for piece in row.take(count) {
                    found.extend(piece.range.map(|unit| (piece.variable, unit)));
                }
                assert_eq!(before - row.left(), count.min(before));
            }
            let expected: Vec<_> =
                (8..20).map(|unit| (0, unit)).chain((32..36).map(|unit| (3, unit))).collect();
            assert_eq!(found, expected);
            assert!(row.take(1).is_empty());
        }
    }
}
