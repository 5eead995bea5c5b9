//! The step with 8-bit momentum: decodes a block of momentum, applies the rule and encodes, block by block.
//!
//! In tiles each stage takes 512 elements, and memory is idle while they are encoded. Blocks are short enough for the
//! processor to load the next ones during its arithmetic.
//!
//! Blocks come in groups of four, because one search for the largest magnitudes of four blocks takes half of the
//! instructions of four searches. While a group is stepped, the previous one is encoded, block by block: so no block waits
//! for its scale, and the kernel reads memory evenly. The blocks after the last whole group go through the
//! format's loops.

use core::marker::PhantomData;
use core::mem::MaybeUninit;
use core::ptr::null_mut;

use super::View;
use super::chunk::{Chunk, both, for_each_chunk, prefetch_after};
use super::fused::{BareOp, Formats, Rounding, TypedTensors};
use super::lanes::LaneCodec;
use super::tiles::Step;
use crate::format::q8::{self, BLOCK, Q8};
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::{Decay, Scale};
use crate::settings::LionStep;
use crate::tensor::streams_of_mut;

/// The number of blocks in a group.
const GROUP: usize = 4;
const GROUP_LEN: usize = GROUP * BLOCK;

/// The decoded momentum of a group. The two vectors of a chunk are in the order in which the kernel loads parameter and
/// gradient; see [`LaneCodec::SPLITS`].
type Values = MaybeUninit<[[f32; BLOCK]; GROUP]>;

/// The kernel of a step without optional parts, with 8-bit momentum, and with the other tensors in place.
pub(super) struct CodedStep<'a, T, D, S, R> {
    pub(super) step: &'a LionStep,
    pub(super) view: &'a View,
    pub(super) row: PhantomData<(T, D, S, R)>,
}

impl<T: Formats<M = f32>, D: Decay, S: Scale, R: Rounding<T::P>> Kernel for CodedStep<'_, T, D, S, R> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let CodedStep { step, view, .. } = self;
        if !I::FUSED {
            return isa.vectorize(Step { step, view });
        }
        let [codes, scales] = view.tensors.streams(Role::Momentum, 0);
        // SAFETY: the momentum is given, is `q8` and has the view's length; nothing else accesses it.
        let (codes, scales) = unsafe { streams_of_mut::<Q8>(codes, scales, view.len) };
        // The kernel gets the address of the decoded momentum block by block.
        let tensors = TypedTensors::<T>::with_momentum(view, 0, view.len, null_mut());
        let mut op = BareOp::<I, T, D, S, R>::new(isa, step, tensors);

        let (groups, rest) = codes.as_chunks_mut();
        let Some((group_scales, rest_scales)) = scales.split_at_mut_checked(groups.len() * GROUP) else {
            return;
        };
        let (mut values, mut previous_values) = (&mut Values::uninit(), &mut Values::uninit());
        let (mut previous, mut start) = (None::<Stepped>, 0);
        for (codes, scales) in groups.iter_mut().zip(group_scales.as_chunks_mut().0) {
            let previous_group = (previous, &*previous_values);
            // SAFETY: the group lies within the view, and the last one has left its momentum in `previous_values`.
            previous = Some(unsafe { step_group(isa, &op, start, (codes, scales, values), previous_group) });
            (values, previous_values) = (previous_values, values);
            start += GROUP_LEN;
        }
        if let Some(mut last) = previous {
            for block in 0..GROUP {
                // SAFETY: the group has left its momentum in these values.
                unsafe { last.encode(isa, block, previous_values, const { splits::<T>() }) };
            }
        }
        let mut values = [0.0; BLOCK];
        for (codes, scale) in rest.chunks_mut(BLOCK).zip(rest_scales) {
            // SAFETY: the block lies within the view, or ends at its end.
            unsafe { step_block(isa, &mut op, start, codes, scale, &mut values) };
            start += BLOCK;
        }
    }
}

/// Whether parameter and gradient have the split order.
const fn splits<T: Formats>() -> bool {
    T::P::SPLITS && T::G::SPLITS
}

/// A group after its step, before its codes are written.
struct Stepped<'a> {
    codes: &'a mut [i8; GROUP_LEN],
    /// The inverses of the scales.
    inverses: [f32; GROUP],
    /// Whether the group has no NaN and no infinity.
    finite: bool,
}

impl Stepped<'_> {
    /// Encodes a block, whose chunks may have the split order.
    ///
    /// # Safety
    /// The values are initialised.
    #[inline(always)]
    unsafe fn encode<I: Isa>(&mut self, isa: I, block: usize, values: &Values, split: bool) {
        // SAFETY: by this function's contract.
        let values = unsafe { &values.assume_init_ref()[block] };
        let codes = &mut self.codes.as_chunks_mut::<BLOCK>().0[block];
        let inverse = isa.splat(self.inverses[block]);
        let mut at = 0;
        while at < BLOCK {
            // SAFETY: a block is a multiple of four vectors, for which it has a byte per lane.
            unsafe {
                let [a, b, c, d]: [I::F32; 4] = isa.load(values.as_ptr().add(at).cast());
                let [a, b] = both!(i => q8::encode_lanes(isa, [a, b][i], inverse, self.finite));
                let [c, d] = both!(i => q8::encode_lanes(isa, [c, d][i], inverse, self.finite));
                isa.store(codes.as_mut_ptr().add(at).cast(), isa.round_to_bytes([a, b, c, d], split));
            }
            at += 4 * I::LANES;
        }
    }
}

/// Steps a group, from element `start` on, and leaves its momentum in `values`. Encodes the previous group.
///
/// # Safety
/// The tensors have an element for each code. If there is a previous group, its values are initialised.
#[inline(always)]
unsafe fn step_group<'a, I: Isa, T: Formats<M = f32>, D: Decay, S: Scale, R: Rounding<T::P>>(
    isa: I,
    op: &BareOp<I, T, D, S, R>,
    start: usize,
    (codes, scales, values): (&'a mut [i8; GROUP_LEN], &mut [f32; GROUP], &mut Values),
    (mut previous, previous_values): (Option<Stepped>, &Values),
) -> Stepped<'a> {
    let split = const { splits::<T>() };
    let mut largest = [isa.splat_u32(0); GROUP];
    for block in 0..GROUP {
        let codes = &codes.as_chunks::<BLOCK>().0[block];
        if op.tensors.prefetch {
            // A block of codes is a cache line.
            prefetch_after(codes.as_ptr().addr());
        }
        let (scale, finite) = (isa.splat(scales[block]), q8::all_are_finite(codes));
        let mut at = 0;
        while at < BLOCK {
            let element = block * BLOCK + at;
            // SAFETY: a block is a multiple of two vectors, and the tensors have its elements.
            unsafe {
                let m = q8::decode_lanes(isa, isa.load(codes.as_ptr().add(at).cast()), scale, split, finite);
                let m = op.step(Chunk::full(isa, start + element), m, split);
                for m in m {
                    largest[block] = isa.max_u32(largest[block], q8::magnitudes(isa, m));
                }
                isa.store(values.as_mut_ptr().cast::<f32>().add(element).cast(), m);
            }
            at += 2 * I::LANES;
        }
        if let Some(previous) = &mut previous {
            // SAFETY: by this function's contract.
            unsafe { previous.encode(isa, block, previous_values, split) };
        }
    }
    let ([scale, inverse], finite) = q8::scales_and_inverses(isa, isa.largest_lanes(largest));
    let mut inverses = first_lanes(isa, inverse);
    *scales = first_lanes(isa, scale);
    if !finite {
        // SAFETY: each block is written.
        let values = unsafe { values.assume_init_ref() };
        for ((scale, inverse), values) in scales.iter_mut().zip(&mut inverses).zip(values) {
            (*scale, *inverse) = q8::scale_and_inverse(q8::largest_finite(values));
        }
    }
    Stepped { codes, inverses, finite }
}

/// Returns the first lanes of a vector.
#[inline(always)]
fn first_lanes<I: Isa>(isa: I, vector: I::F32) -> [f32; GROUP] {
    let mut lanes = [0.0; 16];
    // SAFETY: there is room for the lanes of the longest vectors.
    unsafe { isa.store(lanes.as_mut_ptr().cast(), vector) };
    [lanes[0], lanes[1], lanes[2], lanes[3]]
}

/// Steps one block, from element `start` on.
///
/// # Safety
/// The tensors have an element for each code.
#[inline(always)]
unsafe fn step_block<I: Isa, T: Formats<M = f32>, D: Decay, S: Scale, R: Rounding<T::P>>(
    isa: I,
    op: &mut BareOp<I, T, D, S, R>,
    start: usize,
    codes: &mut [i8],
    scale: &mut f32,
    values: &mut [f32; BLOCK],
) {
    let len = codes.len();
    let Some(values) = values.get_mut(..len) else { return };
    if op.tensors.prefetch {
        // A block of codes is a cache line.
        prefetch_after(codes.as_ptr().addr());
    }
    q8::decode_block(codes, *scale, values);
    // The kernel adds `start` to every address; `values` begins with that element.
    op.tensors.momentum = values.as_mut_ptr().wrapping_sub(start);
    // SAFETY: by this function's contract; `values` has an element for each code.
    unsafe { for_each_chunk(isa, start..start + len, op) };
    *scale = q8::encode_block(values, codes);
}
