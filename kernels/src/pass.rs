//! The passes and the tensors that each needs: what the checks, the engine and the tasks have in common.
//!
//! A [`Pass`] is what is done, with its settings. [`Columns`] are the tensors that it is done to, by role and without
//! their types. [`check`](Pass::check) holds the one against the other.

use core::ptr::null_mut;

use crate::column::{Column, advanced};
use crate::error::Error;
use crate::format::{Dtype, MAX_STREAMS};
use crate::role::{Role, RoleSet};
use crate::settings::{Ema, GradientTransform, LionStep};
use crate::statistics::GradientStatistics;

/// What a task does, with its settings.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pass {
    Step(LionStep),
    Accumulate(GradientTransform),
    Ema(Ema),
    Convert,
    /// One place for each block.
    Statistics(GradientTransform, *mut GradientStatistics),
    /// Moves the bytes of a pass, to measure how fast they can be moved.
    Bandwidth,
}

/// The roles of a pass that must be given, and those that may be.
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

/// The tensors of a task by role, as addresses.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns {
    first: [*mut u8; Role::COUNT],
    second: [*mut u8; Role::SECONDS],
    dtypes: [Dtype; Role::COUNT],
    given: RoleSet,
}

impl Columns {
    #[inline(always)]
    pub(crate) fn none() -> Self {
        Columns {
            first: [null_mut(); Role::COUNT],
            second: [null_mut(); Role::SECONDS],
            dtypes: [Dtype::F32; Role::COUNT],
            given: RoleSet::default(),
        }
    }

    #[inline(always)]
    pub(crate) fn insert(&mut self, role: Role, column: Column) {
        let index = role as usize;
        (self.first[index], self.dtypes[index]) = (column.streams[0], column.dtype);
        if let Some(second) = role.second() {
            self.second[second] = column.streams[1];
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

    /// The streams of a tensor from the element `start` on, which begins a block of its format.
    #[inline(always)]
    pub(crate) fn streams(&self, role: Role, start: usize) -> [*mut u8; MAX_STREAMS] {
        let second = role.second().map_or(null_mut(), |second| self.second[second]);
        advanced(self.dtype(role), [self.first(role), second], start)
    }

    /// The tensors from the element `start` on, which begins a block.
    pub(crate) fn from(&self, start: usize) -> Self {
        let mut moved = *self;
        for role in self.given.roles() {
            let [first, second] = self.streams(role, start);
            moved.first[role as usize] = first;
            if let Some(place) = role.second() {
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
    /// Whether the tensors are those that the pass needs.
    #[inline(always)]
    pub(crate) fn check(&self, columns: &Columns) -> Result<(), Error> {
        check_roles(self, columns.given)?;
        check_formats(self, columns)
    }
}

#[inline(always)]
fn check_roles(pass: &Pass, given: RoleSet) -> Result<(), Error> {
    let needs = pass.needs();
    if let Some(role) = needs.required.first_beyond(given) {
        return Err(Error::MissingTensor { tensor: role.name() });
    }
    match given.first_beyond(needs.allowed) {
        Some(role) => Err(Error::UnusedTensor { tensor: role.name() }),
        None => Ok(()),
    }
}

/// Whether each format is one that its role takes.
#[inline(always)]
fn check_formats(pass: &Pass, columns: &Columns) -> Result<(), Error> {
    let (source, parameter) = (columns.dtype(Role::Source), columns.dtype(Role::Parameter));
    let both = columns.given.has(Role::Source) && columns.given.has(Role::Parameter);
    if both && source != parameter {
        return Err(Error::SourceDtype { found: source, expected: parameter });
    }
    // A tensor that is not given is entered as f32, which fits.
    for &role in Role::ALL {
        let found = columns.dtype(role);
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
    let allowed = Dtype::list(Dtype::of_role(role));
    let several = allowed.contains(',');
    let expected = if several { alloc::format!("one of {allowed}") } else { allowed };
    Error::Format { tensor: role.name(), found, expected }
}
