//! A plan in a file, and the checks of its values.

use lion_kernels::{Backend, Plan, Prefetch, STATISTICS_BLOCK};
use serde::{Deserialize, Serialize};

use crate::candidate::MAX_THREADS;
use crate::text::excerpt;

/// The maximum chunk in a profile, in elements.
const MAX_CHUNK: u64 = 1 << 30;

/// The keys of a plan in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanEntry {
    /// The backend's name.
    pub backend: String,
    /// The maximum number of threads; all threads if missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<u64>,
    /// The elements of a chunk.
    pub chunk: u64,
    /// A call with fewer bytes stays on one thread. If missing, the kernels decide at each call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parallel_from: Option<u64>,
    /// `auto`, `on` or `off`.
    pub prefetch: String,
}

/// A value that no tuner writes: the key, the value, and the allowed values.
pub(crate) type InvalidValue = (&'static str, String, String);

impl PlanEntry {
    pub(crate) fn plan(&self) -> Result<Plan, InvalidValue> {
        let backend = Backend::ALL.iter().copied().find(|backend| backend.name() == self.backend);
        let backend = backend.filter(|backend| backend.is_available()).ok_or_else(|| {
            let allowed = format!("one of {}", Backend::available_names());
            ("backend", format!("{:?}", excerpt(&self.backend)), allowed)
        })?;
        let prefetch = match self.prefetch.as_str() {
            "auto" => Prefetch::Auto,
            "on" => Prefetch::On,
            "off" => Prefetch::Off,
            other => return Err(("prefetch", format!("{:?}", excerpt(other)), "auto, on or off".into())),
        };
        if self.chunk < STATISTICS_BLOCK as u64
            || self.chunk > MAX_CHUNK
            || !self.chunk.is_multiple_of(STATISTICS_BLOCK as u64)
        {
            let allowed = format!("a multiple of {STATISTICS_BLOCK} from {STATISTICS_BLOCK} to {MAX_CHUNK}");
            return Err(("chunk", self.chunk.to_string(), allowed));
        }
        let plan = Plan::new(backend).chunk_elements(self.chunk as usize).prefetch(prefetch);
        let plan = match self.parallel_from {
            None => plan,
            Some(bytes) => plan.parallel_threshold(usize::try_from(bytes).unwrap_or(usize::MAX)),
        };
        match self.threads {
            None => Ok(plan),
            Some(threads) if (1..=MAX_THREADS as u64).contains(&threads) => {
                Ok(plan.threads(threads as usize))
            }
            Some(threads) => Err((
                "threads",
                threads.to_string(),
                format!("a number from 1 to {MAX_THREADS}, or no value"),
            )),
        }
    }
}

impl From<Plan> for PlanEntry {
    fn from(plan: Plan) -> Self {
        PlanEntry {
            backend: plan.backend.name().into(),
            threads: plan.threads.map(|threads| threads.get() as u64),
            chunk: plan.chunk_elements as u64,
            // TOML's integers are signed.
            parallel_from: plan.parallel_threshold.map(|bytes| (bytes as u64).min(i64::MAX as u64)),
            prefetch: match plan.prefetch {
                Prefetch::Auto => "auto",
                Prefetch::On => "on",
                Prefetch::Off => "off",
            }
            .into(),
        }
    }
}
