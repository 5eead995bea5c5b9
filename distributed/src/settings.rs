//! The arguments of a sharded optimizer: its variables, and how gradients and parameters travel.

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
    /// Its options. It can be neither overwritten with its gradient nor have a constraint other than
    /// [`Constraint::non_negative`](lion::Constraint::non_negative). The layout sets its shard.
    pub options: VariableOptions,
}

impl Variable {
    /// A variable with default options.
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
    /// In f32: the same bits for any number of ranks.
    #[default]
    F32,
    /// Rounded to bf16, including the sums that a rank keeps: half the bytes, and the same bits for the same number of ranks
    /// only.
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

/// How parameters come back to all ranks after a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Gather {
    /// As they are stored.
    #[default]
    Parameters,
    /// As the direction of each element's step, in two bits: every rank makes the same move on its own copy, so the bits are
    /// the same. Of a NaN the sign and payload may differ between ranks.
    ///
    /// All ranks must begin with the same parameters, and change nothing in them between calls. Variables with low halves
    /// (`split_master`) and averages that overwrite parameters are refused.
    Directions {
        /// Every so many calls, from the first on, the ranks compare digests of all parameters of the call before
        /// anything is written. A difference is an error on all ranks, which names the variable. At least 1.
        check_every: u64,
    },
}

/// How gradients and parameters travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// The number of micro-batches of all ranks together, whose gradients are averaged: a multiple of the number of ranks,
    /// at most 2^24. Part of the result.
    pub leaves: usize,
    /// The format of sums in transit. Part of the result.
    pub wire: Wire,
    /// The approximate bytes that a rank sends or receives in one operation, from 1 to 2^30 - 1. Changes no bit.
    pub bucket_bytes: usize,
    /// How parameters come back to all ranks. Changes no bit.
    pub gather: Gather,
}

impl Settings {
    /// Below 1 GiB, as MPI counts in 32 bits.
    pub(crate) const LARGEST_BUCKET: usize = (1 << 30) - 1;

    /// Settings for this many leaves: f32 on the wire, buckets of 32 MiB, parameters gathered as they are stored.
    pub fn new(leaves: usize) -> Self {
        Settings { leaves, wire: Wire::F32, bucket_bytes: 32 << 20, gather: Gather::Parameters }
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

    /// The same with another way back for parameters.
    #[must_use]
    pub fn gather(self, gather: Gather) -> Self {
        Settings { gather, ..self }
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
        if self.gather == (Gather::Directions { check_every: 0 }) {
            return wrong("check_every", 0, "at least 1".into());
        }
        Ok(())
    }
}
