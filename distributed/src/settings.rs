//! What a sharded optimizer is made of: its variables, and how gradients travel.

use lion::{Dtype, VariableOptions};
use lion_kernels::SumTree;

use crate::Error;

/// A variable of a sharded optimizer.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Variable {
    /// Its name, which no other has.
    pub name: String,
    /// Its shape; empty for a scalar.
    pub shape: Vec<usize>,
    /// The parameter's format.
    pub dtype: Dtype,
    /// What is special about it. It can be neither overwritten with its gradient nor have a constraint other than
    /// [`Constraint::non_negative`](lion::Constraint::non_negative), and the shard is the layout's.
    pub options: VariableOptions,
}

impl Variable {
    /// A variable with nothing special about it.
    pub fn new(name: &str, shape: &[usize], dtype: Dtype) -> Self {
        Variable { name: name.into(), shape: shape.into(), dtype, options: VariableOptions::default() }
    }

    /// The variable with these options.
    #[must_use]
    pub fn options(self, options: VariableOptions) -> Self {
        Variable { options, ..self }
    }
}

/// The format in which sums of gradients travel between ranks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Wire {
    /// As they are: the same bits for any number of ranks.
    #[default]
    F32,
    /// Rounded to bf16, also those that a rank keeps to itself: half the bytes, and the same bits for the same number of
    /// ranks only.
    Bf16,
}

impl Wire {
    pub(crate) fn dtype(self) -> Dtype {
        match self {
            Wire::F32 => Dtype::F32,
            Wire::Bf16 => Dtype::BF16,
        }
    }
}

/// How gradients travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The number of micro-batches of all ranks together, whose gradients are averaged: a multiple of the number of ranks,
    /// at most 2^24. Part of the result.
    pub leaves: usize,
    /// The format of sums on their way. Part of the result.
    pub wire: Wire,
    /// The bytes that a rank sends or receives in one operation, about; from 1 to 2^30 - 1. Changes no bit.
    pub bucket_bytes: usize,
}

impl Settings {
    /// One below 1 GiB, since MPI counts in 32 bits.
    pub(crate) const LARGEST_BUCKET: usize = (1 << 30) - 1;

    /// Settings for this many leaves: f32 on the wire, buckets of 32 MiB.
    pub fn new(leaves: usize) -> Self {
        Settings { leaves, wire: Wire::F32, bucket_bytes: 32 << 20 }
    }

    /// The same with another format on the wire.
    #[must_use]
    pub fn wire(self, wire: Wire) -> Self {
        Settings { wire, ..self }
    }

    /// The same with other buckets.
    #[must_use]
    pub fn bucket_bytes(self, bucket_bytes: usize) -> Self {
        Settings { bucket_bytes, ..self }
    }

    pub(crate) fn check(&self, ranks: usize) -> Result<(), Error> {
        let wrong =
            |name, value: usize, allowed| Err(Error::Setting { name, value: value.to_string(), allowed });
        if !(1..=SumTree::MAX_LEAVES).contains(&self.leaves) || !self.leaves.is_multiple_of(ranks) {
            let allowed = format!("a multiple of the {ranks} ranks, up to {}", SumTree::MAX_LEAVES);
            return wrong("leaves", self.leaves, allowed);
        }
        if !(1..=Self::LARGEST_BUCKET).contains(&self.bucket_bytes) {
            return wrong("bucket_bytes", self.bucket_bytes, format!("1 to {}", Self::LARGEST_BUCKET));
        }
        Ok(())
    }
}
