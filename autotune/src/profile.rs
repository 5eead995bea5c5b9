//! Profiles: the plan for each kind of call on this machine.
//!
//! [`Document`] is the file, [`Profile`] the look-up table made from it, and [`Environment`] selects the file. A profile
//! affects speed only, never results. A bad profile causes a warning, never an error of the optimizer.

mod document;
mod plan_entry;
mod source;
#[cfg(feature = "tuner")]
mod write;

use std::array;
use std::sync::Arc;

use lion_kernels::{Backend, Plan};

pub use document::{Document, Entry, Kernels};
pub use plan_entry::PlanEntry;
pub use source::{Environment, Source, system_path, user_path};
#[cfg(feature = "tuner")]
pub use write::{can_write, write, write_text};

use crate::Error;
use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::{Machine, Microarchitecture};

/// Plans by operation, formats and bytes of a call. Clones share the table.
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
    /// The plan of operations that were not measured.
    default: Plan,
    /// The measured operations and formats, in the order of the file.
    keys: Vec<(Operation, Dtypes)>,
    /// For each key, the plans of all size classes.
    plans: Vec<[Plan; SizeClass::COUNT]>,
}

/// Parts that replace those of every plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The instruction set.
    pub backend: Option<Backend>,
    /// The maximum number of threads.
    pub threads: Option<usize>,
    /// The elements of a chunk.
    pub chunk: Option<usize>,
}

impl Overrides {
    /// Returns a plan with these parts replaced.
    #[must_use]
    pub fn applied(&self, plan: Plan) -> Plan {
        let plan = self.backend.map_or(plan, |backend| plan.backend(backend));
        let plan = self.threads.map_or(plan, |threads| plan.threads(threads));
        self.chunk.map_or(plan, |chunk| plan.chunk_elements(chunk))
    }
}

impl Profile {
    /// Creates a profile with one plan for all calls.
    pub fn fixed(plan: Plan) -> Self {
        Self::new(Source::Api, plan, &[])
    }

    /// Parses a profile for this machine.
    ///
    /// # Errors
    /// Returns the errors of [`Document::parse`], and [`Error::Mismatch`] if it is for other hardware or other kernels.
    #[allow(clippy::should_implement_trait)]
    pub fn from_str(text: &str) -> Result<Self, Error> {
        let (profile, differences) = Self::of(&Document::parse(text)?, Source::Api, &Machine::detect())?;
        Ok(profile.with_warnings(differences))
    }

    /// Creates the profile of a document that fits a machine. Also returns the differences that do not prevent its use.
    pub(crate) fn of(
        document: &Document,
        source: Source,
        machine: &Machine,
    ) -> Result<(Self, Vec<String>), Error> {
        let differences = document.fit(machine)?;
        let default = default_plan(machine, Backend::best());
        Ok((Self::new(source, default, &document.plans()?), differences))
    }

    /// Returns the plan for a call of an operation on tensors of these formats, which have `bytes` bytes together.
    ///
    /// If the formats were not measured, the plan is that of the formats nearest in bytes. If the operation was not measured,
    /// it is the default plan.
    #[inline]
    pub fn plan(&self, operation: Operation, dtypes: Dtypes, bytes: usize) -> &Plan {
        let table = &*self.0;
        if table.keys.is_empty() {
            return &table.default;
        }
        let plans = table.row(operation, dtypes).and_then(|row| table.plans.get(row));
        plans.and_then(|plans| plans.get(SizeClass::of(bytes).index())).unwrap_or(&table.default)
    }

    /// Returns the source of the profile.
    pub fn source(&self) -> &Source {
        &self.0.source
    }

    /// Returns the warnings from loading it.
    pub fn warnings(&self) -> &[String] {
        &self.0.warnings
    }

    /// Returns the profile with parts of every plan replaced.
    #[must_use]
    pub fn overridden(&self, overrides: &Overrides) -> Self {
        let mut table = (*self.0).clone();
        table.default = overrides.applied(table.default);
        for plan in table.plans.as_flattened_mut() {
            *plan = overrides.applied(*plan);
        }
        Profile(Arc::new(table))
    }

    fn with_warnings(&self, warnings: Vec<String>) -> Self {
        Profile(Arc::new(Table { warnings, ..(*self.0).clone() }))
    }

    /// Creates a profile from measured cases. A size class that was not measured gets the plan of the nearest one.
    fn new(source: Source, default: Plan, found: &[(Case, Plan)]) -> Self {
        let mut keys = Vec::new();
        for (case, _) in found {
            let key = (case.operation, case.dtypes);
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let plans = keys.iter().map(|key| {
            array::from_fn(|class| {
                let measured = found.iter().filter(|(case, _)| (case.operation, case.dtypes) == *key);
                let nearest = measured.min_by_key(|(case, _)| case.size_class().index().abs_diff(class));
                nearest.map_or(default, |(_, plan)| *plan)
            })
        });
        let plans = plans.collect();
        Profile(Arc::new(Table { source, warnings: Vec::new(), default, keys, plans }))
    }
}

/// Two profiles are equal if they have the same plans, whatever their source.
impl PartialEq for Profile {
    fn eq(&self, other: &Self) -> bool {
        let (one, other) = (&*self.0, &*other.0);
        (one.default, &one.keys, &one.plans) == (other.default, &other.keys, &other.plans)
    }
}

impl Table {
    /// Returns the row of these formats, or else of the formats nearest in bytes.
    #[inline]
    fn row(&self, operation: Operation, dtypes: Dtypes) -> Option<usize> {
        let key = (operation, operation.relevant(dtypes));
        self.keys.iter().position(|it| *it == key).or_else(|| self.nearest_row(operation, dtypes))
    }

    fn nearest_row(&self, operation: Operation, dtypes: Dtypes) -> Option<usize> {
        let bytes = |dtypes| operation.bytes(dtypes, 512);
        let rows = self.keys.iter().enumerate().filter(|(_, (measured, _))| *measured == operation);
        let nearest = rows.min_by_key(|(_, (_, measured))| bytes(*measured).abs_diff(bytes(dtypes)));
        nearest.map(|(row, _)| row)
    }
}

/// Returns the plan of a machine without a profile.
///
/// It has no [`parallel_threshold`](Plan::parallel_threshold): at each call, the kernels compare the time of the work on one
/// thread with the time to wake other threads.
///
/// On Zen 4, software prefetch costs time and is off. On Intel's server cores from Sapphire Rapids on, it pays for large
/// calls; [`Prefetch::Auto`](lion_kernels::Prefetch::Auto) does that. Other processors use the defaults of [`Plan::new`].
pub fn default_plan(machine: &Machine, backend: Backend) -> Plan {
    let mut plan = Plan::new(backend);
    // The pool has a thread for each allowed processor. More threads than the quota allows would all be stopped in each
    // period.
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
