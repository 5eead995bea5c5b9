//! Chooses how a step runs: by a fused kernel if its formats are a row of the table, else through tiles.
//!
//! A row is worth its size where tiles are slower. From memory, bf16 and f16 throughout take 1.2 to 1.7 times as long in
//! tiles; f32 with bf16 gradients takes as long.

use core::marker::PhantomData;

use half::{bf16, f16};

use super::fused::{Bare, Formats, Full, Nearest, Optional, Rounding, Stochastic, Tensors};
use super::lanes::with_lanes;
use super::{View, tiles};
use crate::dispatch::Backend;
use crate::error::Error;
use crate::format::Dtype;
use crate::format::split::Split;
use crate::isa::{Isa, Kernel};
use crate::role::Role;
use crate::rule::{Decay, Scale, Scaled, Unscaled, with_decay};
use crate::settings::{GradientTransform, LionStep};

/// The combinations that have fused kernels: parameter / gradient / momentum.
macro_rules! fused {
    ($($p:ident / $g:ident / $m:ident: $formats:ty;)+) => {
        /// Runs a step on one thread.
        #[inline(always)]
        pub(super) fn run(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
            let formats = (view.dtype(Role::Parameter), view.dtype(Role::Gradient), view.dtype(Role::Momentum));
            if view.columns.given().has(Role::Direction) {
                return backend.run(tiles::Step { step, view });
            }
            if step.stochastic_rounding.is_some() {
                return stochastic(backend, step, view);
            }
            match formats {
                $((Dtype::$p, Dtype::$g, Dtype::$m) => choose::<$formats>(backend, step, view),)+
                (_, _, Dtype::Q8) => with_coded_momentum(backend, step, view),
                _ => backend.run(tiles::Step { step, view }),
            }
        }
    };
}

/// The same for a momentum in 8 bits, which goes through a tile, beside the fused kernel of a row.
fn with_coded_momentum(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
    match (view.dtype(Role::Parameter), view.dtype(Role::Gradient)) {
        (Dtype::F32, Dtype::F32) => choose_coded::<(f32, f32, f32)>(backend, step, view),
        (Dtype::F32, Dtype::BF16) => choose_coded::<(f32, bf16, f32)>(backend, step, view),
        (Dtype::BF16, Dtype::BF16) => choose_coded::<(bf16, bf16, f32)>(backend, step, view),
        _ => backend.run(tiles::Step { step, view }),
    }
}

fn choose_coded<T: Formats<M = f32>>(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
    if step.gradient != GradientTransform::default()
        || step.ema.is_some()
        || view.columns.given().has(Role::Copy)
    {
        return backend.run(tiles::Step { step, view });
    }
    with_decay!(step, D => backend.run(tiles::MomentumStep::<T, D, Unscaled> { step, view, row: PhantomData }))
}

fused! {
    F32 / F32 / F32: (f32, f32, f32);
    F32 / BF16 / F32: (f32, bf16, f32);
    BF16 / BF16 / BF16: (bf16, bf16, bf16);
    F16 / F16 / F16: (f16, f16, f16);
    BF16 / BF16 / F32: (bf16, bf16, f32);
    Split / BF16 / BF16: (Split, bf16, bf16);
}

/// Chooses the kernel of a row.
#[inline(always)]
fn choose<T: Formats>(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
    let given = view.columns.given();
    let scaled = step.gradient.factor().is_some();
    let transforms = step.gradient != GradientTransform::default() && !scaled;
    if transforms || step.ema.is_some() || given.has(Role::Copy) {
        return with_decay!(step, D => backend.run(FullRow::<T, D> { step, view, row: PhantomData }));
    }
    with_decay!(step, D => match scaled {
        false => backend.run(BareRow::<T, D, Unscaled, Nearest> { step, view, row: PhantomData }),
        true => backend.run(BareRow::<T, D, Scaled, Nearest> { step, view, row: PhantomData }),
    })
}

/// The step whose parameter is rounded at random, which is bf16: fused for bf16 throughout and nothing but the rule.
fn stochastic(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
    let is_bf16 = |role| view.dtype(role) == Dtype::BF16;
    let fits = is_bf16(Role::Gradient) && is_bf16(Role::Momentum) && !view.columns.given().has(Role::Copy);
    if !fits || step.gradient != GradientTransform::default() || step.ema.is_some() {
        return backend.run(tiles::Step { step, view });
    }
    with_decay!(step, D => {
        backend.run(BareRow::<(bf16, bf16, bf16), D, Unscaled, Stochastic> { step, view, row: PhantomData })
    })
}

/// [`Bare`] where the instruction set has vectors, tiles where it has none and they are faster.
struct BareRow<'a, T, D, S, R> {
    step: &'a LionStep,
    view: &'a View,
    row: PhantomData<(T, D, S, R)>,
}

impl<T: Formats, D: Decay, S: Scale, R: Rounding<T::P>> Kernel for BareRow<'_, T, D, S, R> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let BareRow { step, view, .. } = self;
        if const { I::FUSED || T::SCALAR_LANES } {
            Bare::<T, D, S, R> { step, tensors: Tensors::of(view), variant: PhantomData }.call(isa);
        } else {
            isa.vectorize(tiles::Step { step, view });
        }
    }
}

/// [`Full`] where the instruction set has vectors, else tiles; tiles also if the copy's format has no lanes.
struct FullRow<'a, T, D> {
    step: &'a LionStep,
    view: &'a View,
    row: PhantomData<(T, D)>,
}

impl<T: Formats, D: Decay> Kernel for FullRow<'_, T, D> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let FullRow { step, view, .. } = self;
        let copies_in_lanes = with_lanes!(view.dtype(Role::Copy), _C => true, else false);
        if const { I::FUSED } && copies_in_lanes {
            let (tensors, optional) = (Tensors::of(view), Optional::of(view));
            Full::<T, D> { step, tensors, optional, variant: PhantomData }.call(isa);
        } else {
            isa.vectorize(tiles::Step { step, view });
        }
    }
}
