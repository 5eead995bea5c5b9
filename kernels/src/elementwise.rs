//! The passes beside the step: accumulating a gradient, the moving average alone, conversion between formats.
//!
//! The public functions take anything that is a slice, and are thin: what a caller instantiates is the conversion of
//! the arguments, never the kernels.

use core::marker::PhantomData;

use crate::dispatch::Backend;
use crate::element::{Slice, SliceMut, Storage, with_dtype};
use crate::error::{Error, same_length};
use crate::isa::{Isa, Kernel};
use crate::rule::{EmaRule, GradientRule, accumulated};
use crate::settings::{Ema, Gradient};
use crate::sweep::{Visit, Window, both, sweep};

/// Adds a gradient to its accumulator: `accumulator = gradient / unscale + accumulator`.
///
/// Of `settings` only [`Gradient::unscale`] has a meaning here; averaging and clipping belong to the step.
///
/// # Errors
/// [`Error::Length`] where the lengths differ, [`Error::UnavailableBackend`]. Nothing is written then.
pub fn accumulate<'a>(
    backend: Backend,
    settings: &Gradient,
    accumulator: &mut [f32],
    gradient: impl Into<Slice<'a>>,
) -> Result<(), Error> {
    accumulate_slice(backend, settings, accumulator, gradient.into())
}

fn accumulate_slice(
    backend: Backend,
    settings: &Gradient,
    accumulator: &mut [f32],
    gradient: Slice<'_>,
) -> Result<(), Error> {
    same_length("gradient", gradient.len(), "accumulator", accumulator.len())?;
    let (len, to, from) = (accumulator.len(), accumulator.as_mut_ptr(), gradient.as_ptr());
    with_dtype!(gradient.dtype(), G => {
        backend.run(Accumulate { settings, to, from: from.cast::<G>(), len })
    })
}

struct Accumulate<'a, G> {
    settings: &'a Gradient,
    to: *mut f32,
    from: *const G,
    len: usize,
}

impl<G: Storage> Kernel for Accumulate<'_, G> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let rule = GradientRule::new(isa, self.settings);
        // SAFETY: both tensors have `len` elements.
        unsafe { sweep(isa, 0..self.len, &mut AccumulateVisitor { isa, rule, to: self.to, from: self.from }) }
    }
}

struct AccumulateVisitor<I: Isa, G> {
    isa: I,
    rule: GradientRule<I>,
    to: *mut f32,
    from: *const G,
}

impl<I: Isa, G: Storage> Visit<I> for AccumulateVisitor<I, G> {
    #[inline(always)]
    unsafe fn visit<const WHOLE: bool>(&mut self, window: Window<I, WHOLE>) {
        // SAFETY: the window lies within both tensors by this function's contract.
        unsafe {
            let g = window.load(self.from, false);
            let sum = window.load(self.to, false);
            let sum = both!(i => accumulated(self.isa, self.rule.unscaled(g[i]), sum[i]));
            window.store(self.to, false, sum);
        }
    }
}

/// Updates the moving average of a parameter, and writes it back to the parameter where `ema` overwrites.
///
/// # Errors
/// [`Error::Length`] where the lengths differ, [`Error::UnavailableBackend`]. Nothing is written then.
pub fn average<'a>(
    backend: Backend,
    ema: &Ema,
    average: &mut [f32],
    parameter: impl Into<SliceMut<'a>>,
) -> Result<(), Error> {
    average_slice(backend, ema, average, parameter.into())
}

fn average_slice(
    backend: Backend,
    ema: &Ema,
    average: &mut [f32],
    mut parameter: SliceMut<'_>,
) -> Result<(), Error> {
    same_length("EMA", average.len(), "parameter", parameter.len())?;
    let (len, average, dtype) = (average.len(), average.as_mut_ptr(), parameter.dtype());
    let parameter = parameter.as_mut_ptr();
    with_dtype!(dtype, P => backend.run(Average { ema, average, parameter: parameter.cast::<P>(), len }))
}

struct Average<'a, P> {
    ema: &'a Ema,
    average: *mut f32,
    parameter: *mut P,
    len: usize,
}

impl<P: Storage> Kernel for Average<'_, P> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        let mut visitor = AverageVisitor {
            isa,
            rule: EmaRule::new(isa, self.ema),
            overwrite: self.ema.overwrite,
            average: self.average,
            parameter: self.parameter,
        };
        // SAFETY: both tensors have `len` elements.
        unsafe { sweep(isa, 0..self.len, &mut visitor) }
    }
}

struct AverageVisitor<I: Isa, P> {
    isa: I,
    rule: EmaRule<I>,
    overwrite: bool,
    average: *mut f32,
    parameter: *mut P,
}

impl<I: Isa, P: Storage> Visit<I> for AverageVisitor<I, P> {
    #[inline(always)]
    unsafe fn visit<const WHOLE: bool>(&mut self, window: Window<I, WHOLE>) {
        // SAFETY: the window lies within both tensors by this function's contract.
        unsafe {
            let p = window.load(self.parameter, false);
            let average = window.load(self.average, false);
            let average = both!(i => self.rule.averaged(average[i], p[i]));
            window.store(self.average, false, average);
            if self.overwrite {
                window.store(self.parameter, false, P::rounded(self.isa, average));
            }
        }
    }
}

/// Converts a tensor from one format to another: exact where the target holds the value, else to nearest even.
///
/// # Errors
/// [`Error::Length`] where the lengths differ, [`Error::UnavailableBackend`]. Nothing is written then.
pub fn convert<'a, 'b>(
    backend: Backend,
    source: impl Into<Slice<'a>>,
    target: impl Into<SliceMut<'b>>,
) -> Result<(), Error> {
    convert_slices(backend, source.into(), target.into())
}

fn convert_slices(backend: Backend, source: Slice<'_>, mut target: SliceMut<'_>) -> Result<(), Error> {
    same_length("target", target.len(), "source", source.len())?;
    let (len, dtype) = (target.len(), target.dtype());
    let (from, to) = (source.as_ptr(), target.as_mut_ptr());
    with_dtype!(source.dtype(), S => with_dtype!(dtype, T => {
        backend.run(Convert { from: from.cast::<S>(), to: to.cast::<T>(), len, types: PhantomData })
    }))
}

struct Convert<S, T> {
    from: *const S,
    to: *mut T,
    len: usize,
    types: PhantomData<(S, T)>,
}

impl<S: Storage, T: Storage> Kernel for Convert<S, T> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(mut self, isa: I) {
        // SAFETY: both tensors have `len` elements.
        unsafe { sweep(isa, 0..self.len, &mut self) }
    }
}

impl<I: Isa, S: Storage, T: Storage> Visit<I> for Convert<S, T> {
    #[inline(always)]
    unsafe fn visit<const WHOLE: bool>(&mut self, window: Window<I, WHOLE>) {
        // SAFETY: the window lies within both tensors by this function's contract.
        unsafe { window.store(self.to, false, window.load(self.from, false)) }
    }
}
