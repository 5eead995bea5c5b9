//! Passes and the tensors that each requires. The checks, the engine and the tasks share these types.
//!
//! A [`Pass`] is an operation with its settings. [`PassTensors`] holds the addresses of its tensors, by role.
//! [`Pass::check`] checks that the tensors are those that the pass requires.

use core::ptr::null_mut;

use crate::error::Error;
use crate::format::{Dtype, MAX_STREAMS};
use crate::role::{Role, RoleSet};
use crate::settings::{Ema, GradientTransform, LionStep};
use crate::statistics::GradientStatistics;
use crate::tensor::{RawTensor, offset_streams};

/// The operation of a task, with its settings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pass {
    Step(LionStep),
    Accumulate(GradientTransform),
    Ema(Ema),
    Convert,
    /// The pointer addresses one entry per block.
    Statistics(GradientTransform, *mut GradientStatistics),
    /// Moves the bytes of a pass, to measure memory bandwidth.
    Bandwidth,
}

/// The required and the allowed roles of a pass.
struct Needs {
    required: RoleSet,
    allowed: RoleSet,
}

impl Pass {
    #[inline(always)]
    fn needs(&self) -> Needs {
        let exactly = |required: RoleSet| Needs { required, allowed: required };
        match self {
            Pass::Step(step) if step.follows => exactly(Role::Parameter.set().with(Role::Direction.set())),
            Pass::Step(step) => {
                let required = Role::Parameter.set().with(Role::Gradient.set()).with(Role::Momentum.set());
                let required = required
                    .with_if(Role::Accumulator, step.gradient.average_over.is_some())
                    .with_if(Role::Ema, step.ema.is_some());
                let allowed =
                    required.with(Role::Source.set()).with(Role::Copy.set()).with(Role::Direction.set());
                Needs { required, allowed }
            }
            Pass::Accumulate(_) => exactly(Role::Accumulator.set().with(Role::Gradient.set())),
            Pass::Ema(_) => exactly(Role::Parameter.set().with(Role::Ema.set())),
            Pass::Convert => exactly(Role::Source.set().with(Role::Copy.set())),
            Pass::Statistics(transform, _) => {
                exactly(Role::Gradient.set().with_if(Role::Accumulator, transform.average_over.is_some()))
            }
            Pass::Bandwidth => {
                let all = Role::ALL.iter().fold(RoleSet::default(), |set, role| set.with(role.set()));
                Needs { required: RoleSet::default(), allowed: all }
            }
        }
    }
}

/// The addresses and dtypes of a task's tensors, by role.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PassTensors {
    first: [*mut u8; Role::COUNT],
    second: [*mut u8; Role::SECOND_STREAMS],
    dtypes: [Dtype; Role::COUNT],
    given: RoleSet,
}

impl PassTensors {
    #[inline(always)]
    pub(crate) fn none() -> Self {
        PassTensors {
            first: [null_mut(); Role::COUNT],
            second: [null_mut(); Role::SECOND_STREAMS],
            dtypes: [Dtype::F32; Role::COUNT],
            given: RoleSet::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn insert(&mut self, role: Role, raw: RawTensor) {
        let index = role as usize;
        (self.first[index], self.dtypes[index]) = (raw.streams[0], raw.dtype);
        if let Some(second) = role.second_stream() {
            self.second[second] = raw.streams[1];
        }
        self.given = self.given.with(role.set());
    }

    #[inline(always)]
    pub(crate) fn given(&self) -> RoleSet {
        self.given
    }

    #[inline(always)]
    pub(crate) fn dtype(&self, role: Role) -> Dtype {
        self.dtypes[role as usize]
    }

    #[inline(always)]
    pub(crate) fn first(&self, role: Role) -> *mut u8 {
        self.first[role as usize]
    }

    /// Returns the stream addresses of a tensor from element `start` on. Requires that `start` begins a block of its
    /// format.
    #[inline(always)]
    pub(crate) fn streams(&self, role: Role, start: usize) -> [*mut u8; MAX_STREAMS] {
        let second = role.second_stream().map_or(null_mut(), |second| self.second[second]);
        offset_streams(self.dtype(role), [self.first(role), second], start)
    }

    /// Returns the tensors from element `start` on. Requires that `start` begins a block of each format.
    pub(crate) fn from(&self, start: usize) -> Self {
        let mut moved = *self;
        for role in self.given.roles() {
            let [first, second] = self.streams(role, start);
            moved.first[role as usize] = first;
            if let Some(place) = role.second_stream() {
                moved.second[place] = second;
            }
        }
        moved
    }

    pub(crate) fn bytes(&self, len: usize) -> usize {
        self.given.roles().map(|role| self.dtype(role).bytes(len)).sum()
    }
}

impl Pass {
    /// Checks that the tensors are those that the pass requires.
    #[inline(always)]
    pub(crate) fn check(&self, tensors: &PassTensors) -> Result<(), Error> {
        check_roles(self, tensors.given)?;
        check_formats(self, tensors)
    }
}

#[inline(always)]
fn check_roles(pass: &Pass, given: RoleSet) -> Result<(), Error> {
    let needs = pass.needs();
    if let Some(role) = needs.required.first_not_in(given) {
        return Err(Error::MissingTensor { tensor: role.name() });
    }
    match given.first_not_in(needs.allowed) {
        Some(role) => Err(Error::UnusedTensor { tensor: role.name() }),
        None => Ok(()),
    }
}

/// Checks that each role allows the format of its tensor.
#[inline(always)]
fn check_formats(pass: &Pass, tensors: &PassTensors) -> Result<(), Error> {
    let (source, parameter) = (tensors.dtype(Role::Source), tensors.dtype(Role::Parameter));
    let both = tensors.given.has(Role::Source) && tensors.given.has(Role::Parameter);
    if both && source != parameter {
        return Err(Error::SourceDtype { found: source, expected: parameter });
    }
    // A missing tensor has the dtype f32, which every role allows.
    for &role in Role::ALL {
        let found = tensors.dtype(role);
        if !found.fits(role) {
            return Err(wrong_format(role, found));
        }
    }
    match pass {
        Pass::Step(step) if step.stochastic_rounding.is_some() && parameter != Dtype::BF16 => {
            let expected = "bf16, for stochastic rounding".into();
            Err(Error::Format { tensor: Role::Parameter.name(), found: parameter, expected })
        }
        _ => Ok(()),
    }
}

#[cold]
fn wrong_format(role: Role, found: Dtype) -> Error {
    let allowed = Dtype::list(Dtype::for_role(role));
    let several = allowed.contains(',');
    let expected = if several { alloc::format!("one of {allowed}") } else { allowed };
    Error::Format { tensor: role.name(), found, expected }
}
