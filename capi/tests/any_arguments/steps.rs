//! Whole steps, with an optimizer and without one.

use std::ptr;

use lion_c::*;

use crate::common::{METRICS, UPDATE, last_error, options};
use crate::values::Structs;
use crate::{DTYPES, Driver, LONGEST, SHAPES};

impl Driver {
    pub(crate) fn updates(&mut self) -> Structs {
        let count = self.rng.usize(..5);
        let updates = (0..count).map(|index| {
            let variable = if self.one_in(10) { self.number(6) } else { index };
            let (gradient, source, copy) = (self.one_in(8), !self.one_in(6), !self.one_in(6));
            let ranged = self.one_in(4);
            LionUpdate {
                struct_size: 0,
                variable: variable as u64,
                parameter: self.tensor(),
                gradient: if gradient { ptr::null() } else { self.tensor() },
                len: self.len(),
                parameter_dtype: self.dtype(),
                gradient_dtype: self.dtype(),
                range_start: if ranged { self.number(5000) } else { 0 },
                range_end: if ranged { self.number(LONGEST) } else { 0 },
                source: if source { ptr::null() } else { self.tensor() },
                copy: if copy { ptr::null_mut() } else { self.tensor() },
                copy_dtype: self.dtype(),
                reserved: self.one_in(40).into(),
            }
        });
        let updates = updates.collect();
        self.structs(updates)
    }

    /// What mostly fits the variables that `register` makes: variable i has `SHAPES[i]`, at a place of its own.
    pub(crate) fn right_updates(&mut self) -> Structs {
        let mut updates = Vec::new();
        for (index, shape) in SHAPES.iter().enumerate() {
            if self.one_in(8) {
                continue;
            }
            let (parameter, gradient) = (self.at(index * 20_000), self.at(60_000));
            updates.push(LionUpdate {
                struct_size: 0,
                variable: index as u64,
                parameter,
                gradient,
                len: shape.iter().product(),
                parameter_dtype: DTYPES[index],
                gradient_dtype: LION_BF16,
                ..UPDATE
            });
        }
        self.structs(updates)
    }

    pub(crate) fn step(&mut self) {
        let optimizer = self.optimizer();
        let mut updates = if self.one_in(3) { self.updates() } else { self.right_updates() };
        let count = updates.count;
        let kind = self.rng.u32(..7);
        let before = self.memory.clone();
        let whole = kind < 4;
        // SAFETY: as in `build`; tensors have memory wherever they begin.
        let status = self.call("lion_apply", || unsafe {
            let updates = updates.address();
            match kind {
                0..4 => lion_apply(optimizer, updates, count),
                4 => lion_finalize(optimizer, updates, count),
                _ => lion_part(optimizer, updates, count),
            }
        });
        if status != LION_OK {
            assert!(self.memory == before, "a failed step changed something: {}", last_error());
        } else if whole && !optimizer.is_null() {
            let mut metrics = METRICS;
            // SAFETY: a right struct.
            self.call("lion_metrics", || unsafe { lion_metrics(optimizer, &raw mut metrics) });
        }
    }

    pub(crate) fn alone(&mut self) {
        let tensors = (0..self.rng.usize(..4)).map(|index| {
            let right = !self.one_in(3);
            let (parameter, momentum) = (self.at(8192 * index), self.at(8192 * index + 4096));
            let gradient = self.at(32_768);
            LionStepTensors {
                struct_size: 0,
                parameter: if right { parameter } else { self.tensor() },
                gradient: if right { gradient } else { self.tensor() },
                momentum: if right { momentum } else { self.tensor() },
                len: if right { 100 } else { self.len() },
                parameter_dtype: self.dtype(),
                gradient_dtype: self.dtype(),
                momentum_dtype: self.dtype(),
                copy_dtype: self.dtype(),
                source: if self.one_in(8) { self.tensor() } else { ptr::null() },
                copy: if self.one_in(8) { self.tensor() } else { ptr::null_mut() },
            }
        });
        let tensors = tensors.collect();
        let mut tensors = self.structs(tensors);
        let count = tensors.count;
        let wanted = LionOptions { learning_rate: self.float(), beta_1: self.float(), ..options() };
        let mut wanted = self.structs(vec![wanted]);
        let default = !self.one_in(3);
        let before = self.memory.clone();
        // SAFETY: as in `step`.
        let status = self.call("lion_step", || unsafe {
            lion_step(if default { ptr::null() } else { wanted.address() }, tensors.address(), count)
        });
        assert!(status == LION_OK || self.memory == before, "a failed step changed something");
    }
}
