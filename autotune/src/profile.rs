//! The profile: which plan for which work on this machine.
//!
//! [`Document`] is the file, [`Profile`] the look-up made of it, [`Environment`] what decides which file it is. A
//! profile changes the time that a call takes and never a bit of its result; a bad one is a warning, never an error
//! of the optimizer.

mod document;
mod source;
#[cfg(feature = "tuner")]
mod write;
mod written;

use std::sync::Arc;

use lion_kernels::{Backend, Dtype, Plan, Role};

pub use document::{Document, Entry, Kernels};
pub use source::{Environment, Source, system_path, user_path};
#[cfg(feature = "tuner")]
pub use write::{can_write, write, write_text};
pub use written::Written;

use crate::Error;
use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::{Machine, Microarchitecture};

/// Formats that tensors of a step have: the first of all. Another one's place is that of a plan for something else, which
/// changes the speed alone.
const FORMATS: usize = {
    let mut formats = 0;
    while formats < Dtype::ALL.len() && is_of_a_step(Dtype::ALL[formats]) {
        formats += 1;
    }
    formats
};
const PLACES: usize = Operation::ALL.len() * FORMATS * FORMATS * FORMATS * SizeClass::COUNT;

/// Plans by operation, formats and bytes of a call. A clone shares them.
///
/// ```
/// use lion_autotune::{Dtypes, Operation, Profile};
/// use lion_kernels::Dtype;
///
/// let profile = Profile::load();
/// let plan = profile.plan(Operation::Step, Dtypes::all(Dtype::F32), 4 << 20);
/// assert!(plan.backend.is_available());
/// ```
#[derive(Clone, Debug)]
pub struct Profile(Arc<Table>);

#[derive(Clone, Debug)]
struct Table {
    source: Source,
    warnings: Vec<String>,
    /// For each operation, formats and size class its place among the plans.
    index: Vec<u16>,
    plans: Vec<Plan>,
}

/// Parts of a plan that hold for every call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The instruction set.
    pub backend: Option<Backend>,
    /// The most threads.
    pub threads: Option<usize>,
    /// Elements of a piece of work.
    pub chunk: Option<usize>,
}

impl Overrides {
    /// A plan with these parts.
    #[must_use]
    pub fn applied(&self, plan: Plan) -> Plan {
        let plan = self.backend.map_or(plan, |backend| plan.backend(backend));
        let plan = self.threads.map_or(plan, |threads| plan.threads(threads));
        self.chunk.map_or(plan, |chunk| plan.chunk_elements(chunk))
    }
}

impl Profile {
    /// One plan for everything.
    pub fn fixed(plan: Plan) -> Self {
        Self::new(Source::Api, plan, &[])
    }

    /// The profile in a text, for the program to use on this machine.
    ///
    /// # Errors
    /// As [`Document::parse`], and [`Error::Mismatch`] where it is of other hardware or other kernels.
    #[allow(clippy::should_implement_trait)]
    pub fn from_str(text: &str) -> Result<Self, Error> {
        let (profile, differences) = Self::of(&Document::parse(text)?, Source::Api, &Machine::detect())?;
        Ok(profile.with_warnings(differences))
    }

    /// The plans of a document that fits a machine, and what is otherwise there than it was.
    pub(crate) fn of(
        document: &Document,
        source: Source,
        machine: &Machine,
    ) -> Result<(Self, Vec<String>), Error> {
        let differences = document.fit(machine)?;
        let default = default_plan(machine, Backend::best());
        Ok((Self::new(source, default, &document.plans()?), differences))
    }

    /// The plan for a call of an operation on tensors of these formats, with so many bytes together.
    #[inline]
    pub fn plan(&self, operation: Operation, dtypes: Dtypes, bytes: usize) -> &Plan {
        let table = &*self.0;
        let place = place(operation, dtypes, SizeClass::of(bytes));
        let plan = table.index.get(place).and_then(|plan| table.plans.get(usize::from(*plan)));
        plan.unwrap_or(const { &Plan::new(Backend::Scalar) })
    }

    /// Where it is from.
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// What was wrong on the way to it.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// The profile with parts of every plan replaced.
    #[must_use]
    pub fn overridden(&self, overrides: &Overrides) -> Self {
        let plans = self.0.plans.iter().map(|plan| overrides.applied(*plan)).collect();
        Profile(Arc::new(Table { plans, ..(*self.0).clone() }))
    }

    fn with_warnings(&self, warnings: Vec<String>) -> Self {
        Profile(Arc::new(Table { warnings, ..(*self.0).clone() }))
    }

    /// The plans that were found, and for what was not measured those nearest to it: of an operation the formats
    /// whose elements are nearest in bytes, of formats the nearest size class. An operation without any has `default`.
    fn new(source: Source, default: Plan, found: &[(Case, Plan)]) -> Self {
        let mut plans = vec![default];
        let mut index = vec![0; PLACES];
        for &operation in Operation::ALL {
            for dtypes in all_dtypes() {
                let Some(nearest) = nearest_dtypes(operation, dtypes, found) else { continue };
                for class in SizeClass::all() {
                    let of_class = found
                        .iter()
                        .filter(|(case, _)| (case.operation, case.dtypes) == (operation, nearest))
                        .min_by_key(|(case, _)| case.class().index().abs_diff(class.index()));
                    let Some((_, plan)) = of_class else { continue };
                    let known = plans.iter().position(|it| it == plan).unwrap_or_else(|| {
                        plans.push(*plan);
                        plans.len() - 1
                    });
                    if let (Some(entry), Ok(known)) =
                        (index.get_mut(place(operation, dtypes, class)), u16::try_from(known))
                    {
                        *entry = known;
                    }
                }
            }
        }
        Profile(Arc::new(Table { source, warnings: Vec::new(), index, plans }))
    }
}

/// Two profiles are equal where every call has the same plan.
impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        let plans = |it: &Table| {
            it.index.iter().map(|plan| it.plans.get(usize::from(*plan)).copied()).collect::<Vec<_>>()
        };
        Arc::ptr_eq(&self.0, &other.0) || plans(&self.0) == plans(&other.0)
    }
}

#[inline]
fn place(operation: Operation, dtypes: Dtypes, class: SizeClass) -> usize {
    let Dtypes { parameter, gradient, momentum } = dtypes;
    let formats = [parameter as usize, gradient as usize, momentum as usize];
    let row = formats.into_iter().fold(operation as usize, |row, format| row * FORMATS + format);
    row * SizeClass::COUNT + class.index()
}

const fn is_of_a_step(dtype: Dtype) -> bool {
    dtype.fits(Role::Parameter) || dtype.fits(Role::Momentum)
}

fn all_dtypes() -> impl Iterator<Item = Dtypes> {
    let format = |place: usize| Dtype::ALL[place % FORMATS];
    (0..FORMATS * FORMATS * FORMATS).map(move |place| Dtypes {
        parameter: format(place / (FORMATS * FORMATS)),
        gradient: format(place / FORMATS),
        momentum: format(place),
    })
}

fn nearest_dtypes(operation: Operation, wanted: Dtypes, found: &[(Case, Plan)]) -> Option<Dtypes> {
    let wanted = operation.relevant(wanted);
    let bytes = |dtypes| operation.bytes(dtypes, 512);
    let measured = found.iter().filter(|(case, _)| case.operation == operation).map(|(case, _)| case.dtypes);
    measured.min_by_key(|dtypes| (*dtypes != wanted, bytes(*dtypes).abs_diff(bytes(wanted))))
}

/// What an optimizer does on a machine without a profile.
///
/// From which size on threads share a call depends on neither processor nor operation here: without a
/// [`parallel_threshold`](Plan::parallel_threshold) the kernels compare, call by call, the time that the work takes alone
/// with the time that workers take to begin.
///
/// On Zen 4 software prefetching costs time, and is off. On Intel's server cores from Sapphire Rapids on it pays for
/// large calls, which is what [`Prefetch::Auto`](lion_kernels::Prefetch::Auto) knows. Of others nothing is known that
/// [`Plan::new`] does not do.
pub fn default_plan(machine: &Machine, backend: Backend) -> Plan {
    let mut plan = Plan::new(backend);
    // The pool has a thread for each processor; those beyond the quota would all be stopped in each of its periods.
    if machine.cores < machine.allowed {
        plan = plan.threads(machine.cores);
    }
    match machine.microarchitecture() {
        Microarchitecture::Zen4 => plan.prefetch(lion_kernels::Prefetch::Off),
        Microarchitecture::SapphireRapids
        | Microarchitecture::X86_64
        | Microarchitecture::Aarch64
        | Microarchitecture::Other => plan,
    }
}
