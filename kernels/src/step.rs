//! The Lion step over one tensor, in place or from one tensor into another.
//!
//! All that a call of an optimizer does to an element happens in one pass, while the element is in a register:
//! unscaling, averaging with accumulated gradients, clipping, decay, the step, the parameter's moving average and
//! a copy of the parameter in a second format. [`Tensors`] says what the pass reads and writes,
//! [`Step`](crate::Step) what it does. Steps over many tensors of the same formats share one dispatch.
//!
//! A pass is compiled in three sizes ([`Part`]): bare, with decay, and with everything else decided by branches
//! that go the same way for every element. The bare ones cost what moving their bytes costs; in the full one a
//! part that is off costs a predicted branch per block.

use core::marker::PhantomData;
use core::slice;

use crate::dispatch::Backend;
use crate::element::{Dtype, Pair, Slice, SliceMut, Storage, with_dtype};
use crate::error::{Error, same_length};
use crate::isa::{Isa, Kernel};
use crate::plan::Prefetch;
use crate::rule::{EmaRule, GradientRule, StepRule};
use crate::settings::{Gradient, Step};
use crate::sweep::{Visit, Window, both, sweep};
use crate::task::Task;

/// The tensors of one step, all of the same length, each of any format.
///
/// ```
/// use half::bf16;
/// use lion_kernels::{Backend, Step, Tensors};
///
/// let mut parameter = vec![1.0_f32, 2.0, 3.0];
/// let gradient = vec![bf16::from_f32(0.5), bf16::ZERO, bf16::NEG_ONE];
/// let mut momentum = vec![0.0_f32; 3];
///
/// let step = Step::new(0.25, 0.9, 0.99)?;
/// step.apply(Backend::best(), Tensors::in_place(&mut parameter, &gradient, &mut momentum))?;
/// assert_eq!(parameter, [0.75, 2.0, 3.25]);
/// # Ok::<(), lion_kernels::Error>(())
/// ```
#[derive(Debug)]
pub struct Tensors<'a> {
    /// Where the parameter is read, if not where it is written.
    source: Option<Slice<'a>>,
    parameter: SliceMut<'a>,
    gradient: Slice<'a>,
    momentum: SliceMut<'a>,
    accumulator: Option<&'a mut [f32]>,
    ema: Option<&'a mut [f32]>,
    copy: Option<SliceMut<'a>>,
}

impl<'a> Tensors<'a> {
    /// A step that overwrites the parameter.
    pub fn in_place(
        parameter: impl Into<SliceMut<'a>>,
        gradient: impl Into<Slice<'a>>,
        momentum: impl Into<SliceMut<'a>>,
    ) -> Self {
        Tensors {
            source: None,
            parameter: parameter.into(),
            gradient: gradient.into(),
            momentum: momentum.into(),
            accumulator: None,
            ema: None,
            copy: None,
        }
    }

    /// A step that reads the parameter in one tensor and writes it to another of the same format.
    pub fn out_of_place(
        source: impl Into<Slice<'a>>,
        parameter: impl Into<SliceMut<'a>>,
        gradient: impl Into<Slice<'a>>,
        momentum: impl Into<SliceMut<'a>>,
    ) -> Self {
        Tensors { source: Some(source.into()), ..Self::in_place(parameter, gradient, momentum) }
    }

    /// The gradients accumulated so far, which [`Gradient::accumulated`](crate::Gradient::accumulated) calls for
    /// and the step clears.
    #[must_use]
    pub fn accumulator(self, accumulator: &'a mut [f32]) -> Self {
        Tensors { accumulator: Some(accumulator), ..self }
    }

    /// The moving average of the parameter, which [`Step::ema`] calls for.
    #[must_use]
    pub fn ema(self, ema: &'a mut [f32]) -> Self {
        Tensors { ema: Some(ema), ..self }
    }

    /// Takes a copy of the new parameter, as stored, in a format of its own: a 16-bit working copy of an f32
    /// master.
    #[must_use]
    pub fn copy(self, copy: impl Into<SliceMut<'a>>) -> Self {
        Tensors { copy: Some(copy.into()), ..self }
    }

    #[inline(always)]
    fn check(&self, step: &Step) -> Result<(), Error> {
        let expected = self.parameter.len();
        let length = |tensor, found| same_length(tensor, found, "parameter", expected);
        length("gradient", self.gradient.len())?;
        length("momentum", self.momentum.len())?;
        if let Some(source) = &self.source {
            length("source", source.len())?;
            if source.dtype() != self.parameter.dtype() {
                return Err(Error::SourceDtype { found: source.dtype(), expected: self.parameter.dtype() });
            }
        }
        if let Some(copy) = &self.copy {
            length("copy", copy.len())?;
        }
        let optional = |tensor, wanted: bool, given: Option<usize>| match given {
            Some(found) if wanted => length(tensor, found),
            Some(_) => Err(Error::UnusedTensor { tensor }),
            None if wanted => Err(Error::MissingTensor { tensor }),
            None => Ok(()),
        };
        let averages = step.gradient.accumulation_steps.is_some();
        optional("accumulator", averages, self.accumulator.as_deref().map(<[f32]>::len))?;
        optional("EMA", step.ema.is_some(), self.ema.as_deref().map(<[f32]>::len))
    }

    fn len(&self) -> usize {
        self.parameter.len()
    }

    /// Bytes that all tensors have for each element of the parameter.
    #[inline(always)]
    fn bytes_per_element(&self) -> usize {
        let sizes =
            self.parameter.dtype().size() + self.gradient.dtype().size() + self.momentum.dtype().size();
        let source = self.source.map_or(0, |source| source.dtype().size());
        let copy = self.copy.as_ref().map_or(0, |copy| copy.dtype().size());
        let single = usize::from(self.accumulator.is_some()) + usize::from(self.ema.is_some());
        sizes + source + copy + single * size_of::<f32>()
    }

    /// The first `middle` elements of each tensor, and the others.
    fn split_at(self, middle: usize) -> (Self, Self) {
        let (parameter, parameters) = self.parameter.split_at(middle);
        let (gradient, gradients) = self.gradient.split_at(middle);
        let (momentum, momenta) = self.momentum.split_at(middle);
        let (source, sources) = self.source.map(|source| source.split_at(middle)).unzip();
        let (accumulator, accumulators) = self.accumulator.map(|sum| sum.split_at_mut(middle)).unzip();
        let (ema, emas) = self.ema.map(|ema| ema.split_at_mut(middle)).unzip();
        let (copy, copies) = self.copy.map(|copy| copy.split_at(middle)).unzip();
        (
            Tensors { source, parameter, gradient, momentum, accumulator, ema, copy },
            Tensors {
                source: sources,
                parameter: parameters,
                gradient: gradients,
                momentum: momenta,
                accumulator: accumulators,
                ema: emas,
                copy: copies,
            },
        )
    }

    #[inline(always)]
    fn streams(&mut self, prefetch: bool) -> Streams {
        let to = self.parameter.as_mut_ptr();
        Streams {
            from: self.source.as_ref().map_or(to.cast_const(), Slice::as_ptr),
            to,
            gradient: self.gradient.as_ptr(),
            momentum: self.momentum.as_mut_ptr(),
            accumulator: self.accumulator.as_deref_mut().map_or(core::ptr::null_mut(), <[f32]>::as_mut_ptr),
            ema: self.ema.as_deref_mut().map_or(core::ptr::null_mut(), <[f32]>::as_mut_ptr),
            copy: self.copy.as_mut().map(|copy| (copy.dtype(), copy.as_mut_ptr())),
            prefetch,
        }
    }
}

impl Step {
    /// Makes the step on a backend.
    ///
    /// No tensors of length zero are touched, which is a success.
    ///
    /// # Errors
    /// [`Error::Length`], [`Error::SourceDtype`], [`Error::MissingTensor`] or [`Error::UnusedTensor`] where the
    /// tensors do not fit each other or the settings, [`Error::UnavailableBackend`] where this machine lacks the
    /// backend. Nothing is written then.
    #[inline]
    pub fn apply(&self, backend: Backend, mut tensors: Tensors<'_>) -> Result<(), Error> {
        let form = Form::of(self, &tensors)?;
        let prefetch = Prefetch::Auto.pays_for(tensors.len() * tensors.bytes_per_element());
        dispatch(backend, prefetch, form, &mut Steps::One(Some((self, &mut tensors))))
    }
}

/// A step and tensors that fit it.
#[derive(Debug)]
pub(crate) struct Stepping<'a> {
    step: Step,
    tensors: Tensors<'a>,
    form: Form,
}

/// Which compiled pass a step takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    part: Part,
    parameter: Dtype,
    gradient: Dtype,
    momentum: Dtype,
}

impl Form {
    /// That of a step over tensors, if they fit it.
    #[inline(always)]
    fn of(step: &Step, tensors: &Tensors<'_>) -> Result<Self, Error> {
        tensors.check(step)?;
        let part = match step.ema.is_none() && tensors.copy.is_none() && step.gradient == Gradient::default()
        {
            true if step.weight_decay.is_none() => Part::Bare,
            true => Part::Decay,
            false => Part::Full,
        };
        Ok(Form {
            part,
            parameter: tensors.parameter.dtype(),
            gradient: tensors.gradient.dtype(),
            momentum: tensors.momentum.dtype(),
        })
    }
}

/// The sizes in which the pass is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Bare,
    Decay,
    Full,
}

impl<'a> Stepping<'a> {
    #[inline(always)]
    pub(crate) fn new(step: Step, tensors: Tensors<'a>) -> Result<Self, Error> {
        let form = Form::of(&step, &tensors)?;
        Ok(Stepping { step, tensors, form })
    }

    #[inline(always)]
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    pub(crate) fn dtypes(&self) -> [Dtype; 3] {
        let Form { parameter, gradient, momentum, .. } = self.form;
        [parameter, gradient, momentum]
    }

    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.tensors.len()
    }

    #[inline(always)]
    pub(crate) fn bytes_per_element(&self) -> usize {
        self.tensors.bytes_per_element()
    }

    pub(crate) fn split_at(self, middle: usize) -> (Self, Self) {
        let (head, tail) = self.tensors.split_at(middle);
        (Stepping { tensors: head, ..self }, Stepping { tensors: tail, ..self })
    }
}

/// Makes the steps of a list, all of the form of the first, with one dispatch.
pub(crate) fn apply_all(backend: Backend, prefetch: bool, list: &mut [Task<'_>]) -> Result<(), Error> {
    let Some(Stepping { form, .. }) = list.first().and_then(Task::stepping) else { return Ok(()) };
    let form = *form;
    dispatch(backend, prefetch, form, &mut Steps::Many(list.iter_mut()))
}

fn dispatch(backend: Backend, prefetch: bool, form: Form, steps: &mut Steps<'_, '_>) -> Result<(), Error> {
    with_dtype!(form.parameter, P => with_dtype!(form.gradient, G => with_dtype!(form.momentum, M => {
        let types = PhantomData::<(P, G, M)>;
        match form.part {
            Part::Bare => backend.run(Bare::<_, false> { steps, prefetch, types }),
            Part::Decay => backend.run(Bare::<_, true> { steps, prefetch, types }),
            Part::Full => backend.run(Full { steps, prefetch, types }),
        }
    })))
}

/// Steps of one form. A single one is borrowed where its caller has it: to move it into a list first would cost more
/// than a step over a small tensor.
enum Steps<'l, 't> {
    One(Option<(&'l Step, &'l mut Tensors<'t>)>),
    Many(slice::IterMut<'l, Task<'t>>),
}

impl<'l, 't> Iterator for Steps<'l, 't> {
    type Item = (&'l Step, &'l mut Tensors<'t>);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Steps::One(one) => one.take(),
            Steps::Many(tasks) => {
                tasks.find_map(Task::stepping_mut).map(|Stepping { step, tensors, .. }| (&*step, tensors))
            }
        }
    }
}

/// The tensors without their types; the lengths have been checked.
#[derive(Clone, Copy)]
struct Streams {
    from: *const u8,
    to: *mut u8,
    gradient: *const u8,
    momentum: *mut u8,
    accumulator: *mut f32,
    ema: *mut f32,
    copy: Option<(Dtype, *mut u8)>,
    prefetch: bool,
}

/// The step alone, with or without decay.
struct Bare<'s, 'l, 't, Types, const DECAY: bool> {
    steps: &'s mut Steps<'l, 't>,
    prefetch: bool,
    types: PhantomData<Types>,
}

impl<P: Storage, G: Storage, M: Storage, const DECAY: bool> Kernel for Bare<'_, '_, '_, (P, G, M), DECAY> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        for (step, tensors) in self.steps {
            let mut visitor = BareVisitor::<I, _, DECAY> {
                rule: StepRule::new(isa, step),
                streams: tensors.streams(self.prefetch),
                types: self.types,
            };
            // SAFETY: the range is that of the tensors, whose lengths are equal.
            unsafe { sweep(isa, 0..tensors.len(), &mut visitor) }
        }
    }
}

struct BareVisitor<I: Isa, Types, const DECAY: bool> {
    rule: StepRule<I>,
    streams: Streams,
    types: PhantomData<Types>,
}

impl<I: Isa, P: Storage, G: Storage, M: Storage, const DECAY: bool> Visit<I>
    for BareVisitor<I, (P, G, M), DECAY>
{
    #[inline(always)]
    unsafe fn visit<const WHOLE: bool>(&mut self, window: Window<I, WHOLE>) {
        let split = P::SPLITS && G::SPLITS && M::SPLITS;
        let Streams { from, to, gradient, momentum, prefetch, .. } = self.streams;
        if WHOLE && prefetch {
            window.prefetch(from.cast::<P>());
            window.prefetch(gradient.cast::<G>());
            window.prefetch(momentum.cast::<M>());
        }
        // SAFETY: the window lies within the tensors by this function's contract, and they have these types.
        unsafe {
            let p = window.load(from.cast::<P>(), split);
            let g = window.load(gradient.cast::<G>(), split);
            let m = window.load(momentum.cast::<M>(), split);
            let (p, m) = step_pair::<I, DECAY>(&self.rule, p, g, m);
            window.store(momentum.cast::<M>(), split, m);
            window.store(to.cast::<P>(), split, p);
        }
    }
}

#[inline(always)]
fn step_pair<I: Isa, const DECAY: bool>(
    rule: &StepRule<I>,
    p: Pair<I>,
    g: Pair<I>,
    m: Pair<I>,
) -> (Pair<I>, Pair<I>) {
    let p = both!(i => if DECAY { rule.decayed(p[i]) } else { p[i] });
    let moved = both!(i => rule.moved(p[i], g[i], m[i]));
    let momentum = both!(i => rule.momentum(g[i], m[i]));
    (moved, momentum)
}

/// The step with every optional part, each behind a branch.
struct Full<'s, 'l, 't, Types> {
    steps: &'s mut Steps<'l, 't>,
    prefetch: bool,
    types: PhantomData<Types>,
}

impl<P: Storage, G: Storage, M: Storage> Kernel for Full<'_, '_, '_, (P, G, M)> {
    type Output = ();

    #[inline(always)]
    fn call<I: Isa>(self, isa: I) {
        for (step, tensors) in self.steps {
            let mut visitor = FullVisitor::<I, (P, G, M)> {
                isa,
                step,
                rule: StepRule::new(isa, step),
                gradient: GradientRule::new(isa, &step.gradient),
                streams: tensors.streams(self.prefetch),
                types: self.types,
            };
            // SAFETY: the range is that of the tensors, whose lengths are equal.
            unsafe { sweep(isa, 0..tensors.len(), &mut visitor) }
        }
    }
}

struct FullVisitor<'a, I: Isa, Types> {
    isa: I,
    step: &'a Step,
    rule: StepRule<I>,
    gradient: GradientRule<I>,
    streams: Streams,
    types: PhantomData<Types>,
}

impl<I: Isa, P: Storage, G: Storage, M: Storage> Visit<I> for FullVisitor<'_, I, (P, G, M)> {
    #[inline(always)]
    unsafe fn visit<const WHOLE: bool>(&mut self, window: Window<I, WHOLE>) {
        let isa = self.isa;
        let streams = self.streams;
        if WHOLE && streams.prefetch {
            window.prefetch(streams.from.cast::<P>());
            window.prefetch(streams.gradient.cast::<G>());
            window.prefetch(streams.momentum.cast::<M>());
            for optional in [streams.accumulator, streams.ema] {
                if !optional.is_null() {
                    window.prefetch(optional);
                }
            }
        }
        // SAFETY: the window lies within the tensors by this function's contract; they have these types, and the
        // optional ones are there where the settings call for them, as `Tensors::check` has seen.
        unsafe {
            let g = window.load(streams.gradient.cast::<G>(), false);
            let g = prepared(&self.gradient, window, g, streams.accumulator);
            if self.gradient.averages() {
                window.store(streams.accumulator, false, [isa.splat(0.0); 2]);
            }
            let g = both!(i => self.gradient.clipped(g[i]));
            let m = window.load(streams.momentum.cast::<M>(), false);
            let p = window.load(streams.from.cast::<P>(), false);
            let (p, m) = match self.step.weight_decay {
                Some(_) => step_pair::<I, true>(&self.rule, p, g, m),
                None => step_pair::<I, false>(&self.rule, p, g, m),
            };
            window.store(streams.momentum.cast::<M>(), false, m);

            let observed = self.step.ema.is_some() || streams.copy.is_some();
            let mut stored = if observed { P::rounded(isa, p) } else { p };
            if let Some(ema) = &self.step.ema {
                let rule = EmaRule::new(isa, ema);
                let average = window.load(streams.ema, false);
                let average = both!(i => rule.averaged(average[i], stored[i]));
                window.store(streams.ema, false, average);
                if ema.overwrite {
                    stored = P::rounded(isa, average);
                }
            }
            match observed {
                true => window.store_rounded(streams.to.cast::<P>(), stored),
                false => window.store(streams.to.cast::<P>(), false, stored),
            }
            if let Some((dtype, copy)) = streams.copy {
                with_dtype!(dtype, C => window.store(copy.cast::<C>(), false, stored));
            }
        }
    }
}

/// A gradient as loaded, unscaled and averaged with the accumulator but not clipped.
///
/// # Safety
/// Where the rule averages, the window lies within the accumulator.
#[inline(always)]
pub(crate) unsafe fn prepared<I: Isa, const WHOLE: bool>(
    rule: &GradientRule<I>,
    window: Window<I, WHOLE>,
    gradient: Pair<I>,
    accumulator: *const f32,
) -> Pair<I> {
    let g = both!(i => rule.unscaled(gradient[i]));
    if !rule.averages() {
        return g;
    }
    // SAFETY: the rule averages, so the accumulator is there.
    let sum = unsafe { window.load(accumulator, false) };
    both!(i => rule.averaged(g[i], sum[i]))
}
