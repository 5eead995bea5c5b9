//! Kernel selection for a step: a fused kernel if the table has a row for its formats, otherwise tiles.
//!
//! A row adds code size and pays off if tiles are slower. From memory, steps with only bf16 or only f16 tensors take
//! 1.2 to 1.7 times as long in tiles. Steps in f32 with bf16 gradients take the same time.

use core::marker::PhantomData;

use half::{bf16, f16};

use super::coded::CodedStep;
use super::fused::{Bare, Formats, Full, Nearest, Optional, Rounding, Stochastic, TypedTensors};
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

/// The format combinations with fused kernels: parameter / gradient / momentum.
macro_rules! fused {
    ($($p:ident / $g:ident / $m:ident: $formats:ty;)+) => {
        /// Runs a step on one thread.
        #[inline(always)]
        pub(super) fn run(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
            let formats = (view.dtype(Role::Parameter), view.dtype(Role::Gradient), view.dtype(Role::Momentum));
            if view.tensors.given().has(Role::Direction) {
                return backend.run(tiles::Step { step, view });
            }
            if step.stochastic_rounding.is_some() {
                return stochastic(backend, step, view);
            }
            match formats {
                $((Dtype::$p, Dtype::$g, Dtype::$m) => choose::<$formats>(backend, step, view),)+
                (_, _, Dtype::Q8) => with_q8_momentum(backend, step, view),
                _ => backend.run(tiles::Step { step, view }),
            }
        }
    };
}

/// Runs a step with 8-bit momentum. Parameter and gradient use the fused kernel of a row.
fn with_q8_momentum(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
    match (view.dtype(Role::Parameter), view.dtype(Role::Gradient)) {
        (Dtype::F32, Dtype::F32) => choose_q8::<(f32, f32, f32), Nearest>(backend, step, view),
        (Dtype::F32, Dtype::BF16) => choose_q8::<(f32, bf16, f32), Nearest>(backend, step, view),
        (Dtype::BF16, Dtype::BF16) => choose_q8::<(bf16, bf16, f32), Nearest>(backend, step, view),
        _ => backend.run(tiles::Step { step, view }),
    }
}

fn choose_q8<T: Formats<M = f32>, R: Rounding<T::P>>(
    backend: Backend,
    step: &LionStep,
    view: &View,
) -> Result<(), Error> {
    if has_optional_parts(step, view) {
        return backend.run(tiles::Step { step, view });
    }
    with_decay!(step, D => backend.run(CodedStep::<T, D, Unscaled, R> { step, view, row: PhantomData }))
}

/// Returns whether a step does more than the rule.
fn has_optional_parts(step: &LionStep, view: &View) -> bool {
    step.gradient != GradientTransform::default()
        || step.ema.is_some()
        || view.tensors.given().has(Role::Copy)
}

fused! {
    F32 / F32 / F32: (f32, f32, f32);
    F32 / BF16 / F32: (f32, bf16, f32);
    BF16 / BF16 / BF16: (bf16, bf16, bf16);
    F16 / F16 / F16: (f16, f16, f16);
    BF16 / BF16 / F32: (bf16, bf16, f32);
    Split / BF16 / BF16: (Split, bf16, bf16);
}

/// Runs the kernel of a row that matches the settings.
#[inline(always)]
fn choose<T: Formats>(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
    let given = view.tensors.given();
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

/// Runs a step with stochastic rounding of a bf16 parameter. Fused if the gradient is bf16, the momentum bf16 or 8 bits,
/// and no optional part is on.
fn stochastic(backend: Backend, step: &LionStep, view: &View) -> Result<(), Error> {
    match (view.dtype(Role::Gradient), view.dtype(Role::Momentum)) {
        (Dtype::BF16, Dtype::Q8) => choose_q8::<(bf16, bf16, f32), Stochastic>(backend, step, view),
        (Dtype::BF16, Dtype::BF16) if !has_optional_parts(step, view) => with_decay!(step, D => {
            backend.run(BareRow::<(bf16, bf16, bf16), D, Unscaled, Stochastic> { step, view, row: PhantomData })
        }),
        _ => backend.run(tiles::Step { step, view }),
    }
}

/// The kernel that runs [`Bare`], or tiles if the instruction set has no vectors and tiles are faster.
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
            Bare::<T, D, S, R> { step, tensors: TypedTensors::of(view), variant: PhantomData }.call(isa);
        } else {
            isa.vectorize(tiles::Step { step, view });
        }
    }
}

/// The kernel that runs [`Full`], or tiles if the instruction set has no vectors or the copy's format has no lane
/// codec.
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
            let (tensors, optional) = (TypedTensors::of(view), Optional::of(view));
            Full::<T, D> { step, tensors, optional, variant: PhantomData }.call(isa);
        } else {
            isa.vectorize(tiles::Step { step, view });
        }
    }
}
