//! Steps in parts, and the statistics before them.

use std::ptr;

use lion_c::*;

use crate::{Driver, LONGEST, SHAPES};

impl Driver {
    pub(crate) fn parts(&mut self) {
        let optimizer = self.optimizer();
        let begin = LionBegin {
            struct_size: 0,
            only_overwrites: self.one_in(8).into(),
            elsewhere: self.one_in(4).into(),
        };
        let mut begin = self.structs(vec![begin]);
        let gradients = (0..self.rng.usize(..4)).map(|index| {
            let right = !self.one_in(3);
            LionGradient {
                struct_size: 0,
                variable: index as u64,
                gradient: self.tensor(),
                len: if right { SHAPES[index].iter().product() } else { self.len() },
                gradient_dtype: self.dtype(),
                reserved: 0,
                range_start: 0,
                range_end: if right { 0 } else { self.number(LONGEST) },
            }
        });
        let gradients = gradients.take(SHAPES.len()).collect();
        let mut gradients = self.structs(gradients);
        let count = gradients.count;
        let mut ranges = 0;
        let kind = self.rng.u32(..7);
        let index = self.number(3);
        let (first, n) = (self.number(3), self.number(3));
        let mut blocks = [self.block(), self.block()];
        let blocks = match self.rng.u32(..20) {
            0 => ptr::null_mut(),
            1 => blocks.as_mut_ptr().wrapping_byte_add(4),
            _ => blocks.as_mut_ptr(),
        };
        // SAFETY: as in `step`. No variable has more than two blocks from one on, and as many there is memory for.
        self.call("lion_begin", || unsafe {
            match kind {
                0 => lion_measure(optimizer, gradients.address(), count),
                1 => lion_begin(optimizer, begin.address()),
                2 => lion_finish(optimizer),
                3 => lion_abandon(optimizer, &raw mut ranges),
                4 => lion_statistics(optimizer, index as u64, first, blocks, n),
                5 => lion_add_statistics(optimizer, index as u64, first, blocks, n),
                _ => {
                    let mut range =
                        LionRange { struct_size: size_of::<LionRange>(), variable: 0, start: 0, end: 0 };
                    lion_abandoned_range(optimizer, index, &raw mut range)
                }
            }
        });
    }

    /// Statistics of a block, mostly ones that a gradient could have.
    fn block(&mut self) -> LionBlock {
        LionBlock {
            sum_of_squares: self.float(),
            non_finite: self.number(3) as u64,
            max_abs: self.float() as f32,
            measured: if self.one_in(10) { self.rng.u32(..) } else { self.rng.u32(..2) },
        }
    }
}
