//! The file of a profile.
//!
//! ```toml
//! schema = 1
//! level = "quick"                    # how much was measured
//!
//! [kernels]                          # the kernels that were measured; another revision makes the profile stale
//! version = "0.1.0"
//! revision = 1
//! candidates = "c0ffee0123456789"    # a checksum of all plans that were tried
//!
//! [machine]                          # the machine: architecture, processor, ISA, caches, cores, memory, system
//! vendor = "AuthenticAMD"
//! # ...
//!
//! [[entry]]
//! operation = "step"                 # step, statistics, accumulate, average, convert
//! dtypes = "f32/bf16/f32"            # parameter/gradient/momentum
//! size = "4 MiB"                     # bytes of a call's tensors: from half to twice this
//! backend = "avx512"
//! threads = 8                        # the maximum; default: all threads
//! chunk = 32768                      # elements, a multiple of 4,096
//! parallel_from = 1048576            # smaller calls, in bytes, stay on one thread; default: decided at each call
//! prefetch = "auto"                  # auto, on or off
//! nanoseconds = 151000.0             # time of a call: geometric mean over warm and cold caches
//! interval = [149800.0, 152100.0]    # its 95 % confidence interval
//! default_nanoseconds = 173000.0     # time of the plan that runs without a profile
//! ```

use std::path::Path;

use lion_kernels::Plan;
use serde::{Deserialize, Serialize};

use super::plan_entry::PlanEntry;
use crate::Error;
use crate::candidate::{KERNELS_REVISION, checksum};
use crate::case::{Case, Dtypes, Operation, SizeClass};
use crate::machine::Machine;
use crate::regular;
use crate::text::{excerpt_of, known, known_bytes};

/// The version of the schema that this library reads and writes.
pub(super) const SCHEMA: u32 = 1;

/// The maximum bytes of a file: more than twice the profile of a tuning of everything. It protects against hostile
/// files, for which the parser allocates hundreds of bytes per byte.
pub(super) const MAX_BYTES: u64 = 512 << 10;

/// A profile as a file. The example in the module's head lists keys and units.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The version of the schema: 1.
    pub schema: u32,
    /// How much was measured.
    pub level: String,
    /// The kernels that were measured.
    pub kernels: Kernels,
    /// The machine that was measured.
    pub machine: Machine,
    /// The plans.
    #[serde(rename = "entry", default)]
    pub entries: Vec<Entry>,
}

/// The kernels that were measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernels {
    /// The library's version, for information only.
    pub version: String,
    /// The value of [`KERNELS_REVISION`].
    pub revision: u32,
    /// A checksum of all plans that were tried.
    pub candidates: String,
}

/// The plan for one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Entry {
    pub operation: Operation,
    pub dtypes: Dtypes,
    pub size: SizeClass,
    #[serde(flatten)]
    pub plan: PlanEntry,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nanoseconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_nanoseconds: Option<f64>,
}

impl Entry {
    /// Returns the case of the entry.
    pub fn case(&self) -> Case {
        Case::new(self.operation, self.dtypes, self.size)
    }
}

impl Document {
    /// Reads a file and checks its plans. [`fit`](Self::fit) checks whether it is for this machine.
    ///
    /// # Errors
    /// Returns [`Error::File`] if the file cannot be read, and the errors of [`parse`](Self::parse).
    pub fn read(path: &Path) -> Result<Self, Error> {
        let failed = |action| move |reason| Error::File { path: path.into(), action, reason };
        let file = regular::open(path).map_err(failed("open"))?;
        let bytes = regular::read(file, MAX_BYTES).map_err(failed("read"))?;
        let text = String::from_utf8(bytes).map_err(|error| Error::Syntax { reason: error.to_string() })?;
        Self::parse(&text)
    }

    /// Parses a profile and checks its plans.
    ///
    /// # Errors
    /// Returns [`Error::Syntax`] if the text is not a profile, [`Error::Value`] if no tuner would write one of its plans, and
    /// [`Error::Mismatch`] if its schema has another version.
    pub fn parse(text: &str) -> Result<Self, Error> {
        if text.len() as u64 > MAX_BYTES {
            return Err(Error::Syntax { reason: format!("it has more than {MAX_BYTES} bytes") });
        }
        let document: Document = toml::from_str(text).map_err(|error| syntax(text, &error))?;
        same("the schema", &document.schema, &SCHEMA)?;
        document.plans()?;
        Ok(document)
    }

    /// Returns the plan of each entry.
    ///
    /// # Errors
    /// Returns [`Error::Value`] if no tuner would write a plan, or if this machine lacks its backend.
    pub fn plans(&self) -> Result<Vec<(Case, Plan)>, Error> {
        let plan = |(index, entry): (usize, &Entry)| {
            let invalid = |(key, found, expected)| Error::Value { entry: index + 1, key, found, expected };
            Ok((entry.case(), entry.plan.plan().map_err(invalid)?))
        };
        self.entries.iter().enumerate().map(plan).collect()
    }

    /// Checks that the profile is for this machine and these kernels. Returns the differences that do not prevent its use.
    ///
    /// # Errors
    /// Returns [`Error::Mismatch`] if the processor, the instruction sets, the kernels or the candidates differ.
    pub fn fit(&self, here: &Machine) -> Result<Vec<String>, Error> {
        let there = &self.machine;
        same("the revision of the kernels", &self.kernels.revision, &KERNELS_REVISION)?;
        same("the checksum of the candidates", &self.kernels.candidates, &checksum(there))?;
        same("the architecture", &there.arch, &here.arch)?;
        let processor =
            |it: &Machine| format!("{} family {} model {}", known(&it.vendor), it.family, it.model);
        same("the processor", &processor(there), &processor(here))?;
        let extensions = |it: &Machine| known(&it.isa.join(", ")).to_owned();
        same("the ISA", &extensions(there), &extensions(here))?;
        let mut differences = Vec::new();
        let mut compare = |what: &str, there: &dyn ToString, here: &dyn ToString| {
            let (there, here) = (there.to_string(), here.to_string());
            if there != here {
                differences
                    .push(format!("{what}: {} in the profile and {here} here", excerpt_of(&there, 40)));
            }
        };
        compare("cores", &there.cores, &here.cores);
        compare("hardware threads of a core", &there.smt, &here.smt);
        compare("NUMA nodes", &there.numa_nodes, &here.numa_nodes);
        compare("last-level caches", &known_bytes(there.last_level()), &known_bytes(here.last_level()));
        compare("huge pages", &known(&there.huge_pages), &known(&here.huge_pages));
        compare("system", &there.os, &here.os);
        Ok(differences)
    }
}

fn same<T: PartialEq + ToString>(what: &'static str, found: &T, expected: &T) -> Result<(), Error> {
    if found == expected {
        return Ok(());
    }
    let found = excerpt_of(&found.to_string(), 120);
    Err(Error::Mismatch { what, found, expected: expected.to_string() })
}

/// Returns TOML's message in one line, with the line number.
fn syntax(text: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start));
    let line = before.map(|before| format!("line {}: ", before.matches('\n').count() + 1));
    let message = excerpt_of(error.message(), 200).replace('\n', ", ");
    Error::Syntax { reason: format!("{}{message}", line.unwrap_or_default()) }
}
