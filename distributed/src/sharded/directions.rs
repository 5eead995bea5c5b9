//! Gathering parameters as directions: each owner sends the directions of its elements in two bits, and every rank makes
//! the same move on its own copy.

use half::bf16;
use lion::{Config, Dtype, Lion, StepId, TensorBuf, VariableId};

use super::call::Call;
use super::{Registered, Sharded};
use crate::codes::{GROUP, GROUP_BYTES, pack, unpack};
use crate::digest::digest;
use crate::exchange::{Gathered, gather};
use crate::layout::{Layout, Row, Segment};
use crate::{Communicator, Error, Gather, Settings, Update, Variable};

/// Elements that follow at a time: their directions stay in the second-level cache.
const PIECE: usize = 1 << 18;

/// Refuses what directions alone cannot carry.
pub(super) fn check(settings: &Settings, config: &Config, variables: &[Variable]) -> Result<(), Error> {
    if settings.gather == Gather::Parameters {
        return Ok(());
    }
    let wrong =
        |value: String, allowed: &str| Err(Error::Setting { name: "gather", value, allowed: allowed.into() });
    if config.use_ema && config.ema_overwrite_frequency.is_some() {
        let allowed = "Parameters, as averages are with the owner of an element";
        return wrong("Directions with ema_overwrite_frequency".into(), allowed);
    }
    let split =
        |it: &&Variable| config.split_master && it.dtype == Dtype::BF16 && !it.options.nearest_rounding;
    match variables.iter().find(split) {
        Some(Variable { name, .. }) => wrong(
            format!("Directions with split_master for {name:?}"),
            "Parameters, as low halves are with the owner of an element",
        ),
        None => Ok(()),
    }
}

/// Memory for directions, in bf16; empty unless they are gathered.
#[derive(Debug)]
pub(super) struct Room {
    /// Those of the elements that this rank steps.
    own: TensorBuf,
    /// Those of a piece of another rank.
    other: TensorBuf,
}

impl Room {
    pub(super) fn new() -> Result<Self, Error> {
        let empty = || TensorBuf::zeroed(Dtype::BF16, 0);
        Ok(Room { own: empty()?, other: empty()? })
    }

    /// Makes room, so that a step cannot fail for want of memory.
    fn reserve(&mut self, own: usize) -> Result<(), Error> {
        for (buffer, wanted) in [(&mut self.own, own), (&mut self.other, PIECE)] {
            if buffer.len() < wanted {
                *buffer = TensorBuf::zeroed(Dtype::BF16, wanted)?;
            }
        }
        Ok(())
    }

    /// Room for the directions of this rank's elements, as many as have been reserved.
    pub(super) fn own(&mut self, len: usize) -> Result<&mut [bf16], Error> {
        Ok(self.own.to_mut().range(0..len)?.into_slice().unwrap_or_default())
    }
}

impl<C: Communicator> Sharded<C> {
    /// Whether updates reach the other ranks as directions. One rank has no others.
    pub(super) fn gathers_directions(&self) -> bool {
        self.settings.gather != Gather::Parameters && self.layout.ranks() > 1
    }

    /// Whether the ranks compare their parameters in this call.
    pub(super) fn compares_parameters(&self) -> bool {
        match self.settings.gather {
            Gather::Directions { check_every } if self.layout.ranks() > 1 => {
                self.optimizer.iterations().is_multiple_of(check_every)
            }
            _ => false,
        }
    }

    /// The digests of all parameters of a call, a line each.
    pub(super) fn digests(&self, updates: &[Update<'_>]) -> String {
        let line = |update: &Update<'_>| {
            let name = self.optimizer.name(update.variable).unwrap_or_default();
            format!("{name:?} has the digest {:016x}", digest(update.parameter.to_ref()))
        };
        updates.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    pub(super) fn reserve_directions(&mut self, with_gradient: &[bool]) -> Result<(), Error> {
        if !self.gathers_directions() {
            return Ok(());
        }
        let own = self.layout.shard(self.communicator.rank()).iter();
        let stepped = own.filter(|segment| with_gradient.get(segment.variable) == Some(&true));
        self.room.reserve(stepped.map(|segment| segment.range.len()).sum())
    }

    /// Gives every rank the directions of all, and moves the elements that this rank does not own.
    pub(super) fn follow(
        &mut self,
        call: &Call,
        step: StepId,
        updates: &mut [Update<'_>],
    ) -> Result<(), Error> {
        let Room { own, other } = &mut self.room;
        let groups: Vec<_> = (0..self.layout.ranks()).map(|rank| groups(&self.layout, rank)).collect();
        let units: Vec<_> = (0..self.variables.len())
            .map(|variable| if call.has_gradient(variable) { GROUP_BYTES } else { 0 })
            .collect();
        let rows: Vec<_> = groups.iter().map(|groups| Row::new(groups, &units)).collect();
        let lengths: Vec<_> = rows.iter().map(Row::left).collect();
        let mut directions = Directions {
            optimizer: &mut self.optimizer,
            step,
            ids: &self.ids,
            variables: &self.variables,
            updates,
            places: &call.places,
            own_row: rows[self.communicator.rank()].clone(),
            rows,
            own: own.to_ref().as_slice().unwrap_or_default(),
            room: other.to_mut().into_slice().unwrap_or_default(),
            failed: None,
        };
        gather(&mut self.communicator, self.settings.bucket_bytes, &lengths, &mut directions)?;
        directions.failed.map_or(Ok(()), Err)
    }
}

/// What a rank owns, in groups of elements.
fn groups(layout: &Layout, rank: usize) -> Vec<Segment> {
    let group = |segment: &Segment| Segment {
        variable: segment.variable,
        range: segment.range.start / GROUP..segment.range.end.div_ceil(GROUP),
    };
    layout.shard(rank).iter().map(group).collect()
}

/// Directions on their way: packed from this rank's step, and followed as they come.
struct Directions<'a, 'u> {
    optimizer: &'a mut Lion,
    step: StepId,
    ids: &'a [VariableId],
    variables: &'a [Registered],
    updates: &'a mut [Update<'u>],
    places: &'a [Option<usize>],
    own_row: Row<'a>,
    rows: Vec<Row<'a>>,
    /// This rank's, from the first that has not been sent on.
    own: &'a [bf16],
    room: &'a mut [bf16],
    failed: Option<Error>,
}

impl Directions<'_, '_> {
    /// The elements of a variable that bytes of its codes stand for.
    fn elements(&self, piece: &Segment) -> std::ops::Range<usize> {
        let len = self.variables.get(piece.variable).map_or(0, |variable| variable.len);
        4 * piece.range.start..(4 * piece.range.end).min(len)
    }

    fn follow(&mut self, piece: &Segment, bytes: &[u8]) -> Result<(), Error> {
        let elements = self.elements(piece);
        let update = self.places.get(piece.variable).copied().flatten();
        let update = update.and_then(|place| self.updates.get_mut(place));
        let (Some(update), Some(&id)) = (update, self.ids.get(piece.variable)) else { return Ok(()) };
        let mut start = elements.start;
        for bytes in bytes.chunks(PIECE / 4) {
            let range = start..elements.end.min(start + PIECE);
            start = range.end;
            let directions = &mut self.room[..range.len()];
            unpack(bytes, directions);
            let parameter = update.parameter.reborrow().range(range.clone())?;
            let update = lion::Update::new(id, parameter, &*directions).range(range);
            self.optimizer.follow(self.step, &mut [update])?;
        }
        Ok(())
    }
}

impl Gathered for Directions<'_, '_> {
    fn fill(&mut self, mut to: &mut [u8]) {
        for piece in self.own_row.take(to.len()) {
            let (next, rest) = std::mem::take(&mut to).split_at_mut(piece.range.len());
            to = rest;
            let (directions, later) = self.own.split_at(self.elements(&piece).len().min(self.own.len()));
            self.own = later;
            pack(directions, next);
        }
    }

    fn take(&mut self, rank: usize, mut bytes: &[u8]) {
        let pieces = self.rows.get_mut(rank).map(|row| row.take(bytes.len())).unwrap_or_default();
        for piece in pieces {
            let (next, rest) = bytes.split_at(piece.range.len());
            bytes = rest;
            // The exchange goes on, so that no rank waits.
            if self.failed.is_none() {
                self.failed = self.follow(&piece, next).err();
            }
        }
    }
}
