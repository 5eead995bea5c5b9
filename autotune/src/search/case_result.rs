//! The result of the search for a case, with every sample.

use std::time::Duration;

use lion_kernels::Plan;
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::measure::{Caches, midmean};

/// The result for one case. Times are nanoseconds of a call, as the geometric mean over warm and cold caches.
///
/// In files, the baseline is called `default`, the bandwidth bound `limit`, and the measurements `trials`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    /// The case.
    pub case: Case,
    /// The chosen plan.
    #[serde(with = "entry")]
    pub plan: Plan,
    /// The plan that runs without a profile.
    #[serde(rename = "default", with = "entry")]
    pub baseline: Plan,
    /// The time of the plan; `None` if it was not timed.
    pub nanoseconds: Option<f64>,
    /// The 95 % confidence interval of that time.
    pub interval: Option<[f64; 2]>,
    /// The time of the baseline, from the same rounds.
    #[serde(rename = "default_nanoseconds")]
    pub baseline_nanoseconds: Option<f64>,
    /// The bandwidth bound: the time of a pass that only moves the same bytes. `None` if there is no such pass.
    #[serde(rename = "limit_nanoseconds")]
    pub bound_nanoseconds: Option<f64>,
    /// The samples of all timed plans.
    #[serde(rename = "trials")]
    pub measurements: Vec<Measurement>,
}

impl CaseResult {
    /// Returns the result before any measurement: the baseline.
    pub(crate) fn of_baseline(case: Case, baseline: Plan) -> Self {
        CaseResult {
            case,
            plan: baseline,
            baseline,
            nanoseconds: None,
            interval: None,
            baseline_nanoseconds: None,
            bound_nanoseconds: None,
            measurements: Vec::new(),
        }
    }

    /// Returns the share of the baseline's time that the plan saves.
    pub fn gain(&self) -> f64 {
        match (self.nanoseconds, self.baseline_nanoseconds) {
            (Some(time), Some(baseline)) if baseline > 0.0 && self.plan != self.baseline => {
                1.0 - time / baseline
            }
            _ => 0.0,
        }
    }
}

/// The samples of a plan, in nanoseconds of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The plan.
    #[serde(with = "entry")]
    pub plan: Plan,
    /// The samples with warm caches.
    pub warm: Vec<f64>,
    /// The samples with cold caches.
    pub cold: Vec<f64>,
}

impl Measurement {
    pub(crate) fn new(plan: Plan) -> Self {
        Measurement { plan, warm: Vec::new(), cold: Vec::new() }
    }

    /// Returns the time with warm or cold caches; `None` without samples.
    pub fn nanoseconds(&self, caches: Caches) -> Option<f64> {
        let samples = match caches {
            Caches::Warm => &self.warm,
            Caches::Cold => &self.cold,
        };
        let mut logarithms: Vec<f64> = samples.iter().map(|ns| ns.ln()).collect();
        Some(midmean(&mut logarithms).exp()).filter(|ns| ns.is_finite())
    }

    /// Returns the geometric mean over the measured states of the caches.
    pub fn typical(&self) -> Option<f64> {
        match (self.nanoseconds(Caches::Warm), self.nanoseconds(Caches::Cold)) {
            (Some(warm), Some(cold)) => Some((warm * cold).sqrt()),
            (warm, cold) => warm.or(cold),
        }
    }

    /// Returns the number of calls that takes about the minimum time of a sample.
    pub(crate) fn calls(&self, caches: Caches, min_time: Duration) -> u32 {
        let one = self.nanoseconds(caches).unwrap_or(f64::INFINITY);
        (min_time.as_nanos() as f64 / one).ceil().clamp(1.0, f64::from(1 << 24)) as u32
    }
}

/// Serializes a plan with the keys of a profile's entry.
mod entry {
    use lion_kernels::Plan;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::profile::PlanEntry;

    pub(super) fn serialize<S: Serializer>(plan: &Plan, serializer: S) -> Result<S::Ok, S::Error> {
        PlanEntry::from(*plan).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Plan, D::Error> {
        let invalid = |(key, found, expected)| {
            serde::de::Error::custom(format_args!("{key} is {found}; expected {expected}"))
        };
        PlanEntry::deserialize(deserializer)?.plan().map_err(invalid)
    }
}
