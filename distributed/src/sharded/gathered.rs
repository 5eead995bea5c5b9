//! Gathers parameters, and the statistics of gradients.

use lion_kernels::GradientStatistics;

use crate::exchange::Gathered;
use crate::layout::Row;
use crate::{Layout, Update};

/// The parameters, each as its bytes.
pub(super) struct Parameters<'a, 'u> {
    updates: &'a mut [Update<'u>],
    /// By variable, the update that has it.
    places: &'a [Option<usize>],
    own: Row<'a>,
    rows: Vec<Row<'a>>,
}

impl<'a, 'u> Parameters<'a, 'u> {
    /// `units` are the bytes of an element of each variable that is gathered, and 0 for the others.
    pub(super) fn new(
        updates: &'a mut [Update<'u>],
        places: &'a [Option<usize>],
        layout: &'a Layout,
        rank: usize,
        units: &'a [usize],
    ) -> Self {
        let row = |rank| Row::new(layout.shard(rank), units);
        Parameters { updates, places, own: row(rank), rows: (0..layout.ranks()).map(row).collect() }
    }

    /// The bytes of each rank.
    pub(super) fn lengths(&self) -> Vec<usize> {
        self.rows.iter().map(Row::left).collect()
    }

    fn update(&mut self, variable: usize) -> Option<&mut Update<'u>> {
        self.updates.get_mut((*self.places.get(variable)?)?)
    }
}

impl Gathered for Parameters<'_, '_> {
    fn fill(&mut self, mut to: &mut [u8]) {
        for piece in self.own.take(to.len()) {
            let (next, rest) = std::mem::take(&mut to).split_at_mut(piece.range.len());
            to = rest;
            let update = self.update(piece.variable);
            if let Some(bytes) = update.and_then(|it| it.parameter.to_ref().as_bytes(0)?.get(piece.range)) {
                next.copy_from_slice(bytes);
            }
        }
    }

    fn take(&mut self, rank: usize, mut bytes: &[u8]) {
        let pieces = self.rows.get_mut(rank).map(|row| row.take(bytes.len())).unwrap_or_default();
        for piece in pieces {
            let (next, rest) = bytes.split_at(piece.range.len());
            bytes = rest;
            let update = self.update(piece.variable);
            if let Some(to) = update.and_then(|it| it.parameter.as_bytes_mut(0)?.get_mut(piece.range)) {
                to.copy_from_slice(next);
            }
        }
    }
}

/// The statistics of the blocks of each rank.
pub(super) struct Blocks {
    own: Vec<u8>,
    filled: usize,
    of: Vec<Vec<u8>>,
}

/// Bytes of the statistics of one block in transit.
pub(super) const BLOCK_BYTES: usize = 20;

impl Blocks {
    pub(super) fn new<'a>(own: impl Iterator<Item = &'a GradientStatistics>, ranks: usize) -> Self {
        let mut bytes = Vec::new();
        for block in own {
            bytes.extend(block.sum_of_squares.to_ne_bytes());
            bytes.extend(block.non_finite.to_ne_bytes());
            bytes.extend(block.max_abs.to_ne_bytes());
        }
        Blocks { own: bytes, filled: 0, of: vec![Vec::new(); ranks] }
    }

    /// The statistics that a rank has sent.
    pub(super) fn of(&self, rank: usize) -> Vec<GradientStatistics> {
        let blocks = self.of.get(rank).map_or(&[][..], |bytes| bytes.as_chunks::<BLOCK_BYTES>().0);
        let block = |&[a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t]: &[u8; BLOCK_BYTES]| {
            GradientStatistics {
                sum_of_squares: f64::from_ne_bytes([a, b, c, d, e, f, g, h]),
                non_finite: u64::from_ne_bytes([i, j, k, l, m, n, o, p]),
                max_abs: f32::from_ne_bytes([q, r, s, t]),
            }
        };
        blocks.iter().map(block).collect()
    }
}

impl Gathered for Blocks {
    fn fill(&mut self, to: &mut [u8]) {
        let end = self.filled + to.len();
        if let Some(bytes) = self.own.get(self.filled..end) {
            to.copy_from_slice(bytes);
        }
        self.filled = end;
    }

    fn take(&mut self, rank: usize, bytes: &[u8]) {
        if let Some(of) = self.of.get_mut(rank) {
            of.extend(bytes);
        }
    }
}
