//! What the search for a case found, with every sample that it took.

use std::time::Duration;

use lion_kernels::Plan;
use serde::{Deserialize, Serialize};

use crate::case::Case;
use crate::measure::{Caches, midmean};

/// What was found for a case. Times are nanoseconds of a call, the geometric mean over warm and cold caches.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The work.
    pub case: Case,
    /// The plan to use.
    #[serde(with = "entry")]
    pub plan: Plan,
    /// What runs without a profile.
    #[serde(with = "entry")]
    pub default: Plan,
    /// The plan's time; `None` where nothing was timed.
    pub nanoseconds: Option<f64>,
    /// An interval that holds it with 95 % confidence.
    pub interval: Option<[f64; 2]>,
    /// The default's time, from the same rounds.
    pub default_nanoseconds: Option<f64>,
    /// The time of a pass that moves the same bytes, where the operation has one.
    pub limit_nanoseconds: Option<f64>,
    /// Everything that was timed.
    pub trials: Vec<Trial>,
}

impl Finding {
    /// Before, or without, any measurement.
    pub(crate) fn of_default(case: Case, default: Plan) -> Self {
        Finding {
            case,
            plan: default,
            default,
            nanoseconds: None,
            interval: None,
            default_nanoseconds: None,
            limit_nanoseconds: None,
            trials: Vec::new(),
        }
    }

    /// The share of the default's time that the plan saves.
    pub fn gain(&self) -> f64 {
        match (self.nanoseconds, self.default_nanoseconds) {
            (Some(time), Some(default)) if default > 0.0 && self.plan != self.default => 1.0 - time / default,
            _ => 0.0,
        }
    }
}

/// The samples of a plan, in nanoseconds of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// The plan.
    #[serde(with = "entry")]
    pub plan: Plan,
    /// With warm caches.
    pub warm: Vec<f64>,
    /// With cold caches.
    pub cold: Vec<f64>,
}

impl Trial {
    pub(crate) fn new(plan: Plan) -> Self {
        Trial { plan, warm: Vec::new(), cold: Vec::new() }
    }

    /// The plan's time with warm or cold caches; `None` without samples.
    pub fn nanoseconds(&self, caches: Caches) -> Option<f64> {
        let samples = match caches {
            Caches::Warm => &self.warm,
            Caches::Cold => &self.cold,
        };
        let mut logarithms: Vec<f64> = samples.iter().map(|ns| ns.ln()).collect();
        Some(midmean(&mut logarithms).exp()).filter(|ns| ns.is_finite())
    }

    /// The geometric mean over the states of the caches that were measured.
    pub fn typical(&self) -> Option<f64> {
        match (self.nanoseconds(Caches::Warm), self.nanoseconds(Caches::Cold)) {
            (Some(warm), Some(cold)) => Some((warm * cold).sqrt()),
            (warm, cold) => warm.or(cold),
        }
    }

    /// Calls that take about as long as a sample must.
    pub(crate) fn calls(&self, caches: Caches, floor: Duration) -> u32 {
        let one = self.nanoseconds(caches).unwrap_or(f64::INFINITY);
        (floor.as_nanos() as f64 / one).ceil().clamp(1.0, f64::from(1 << 24)) as u32
    }
}

/// A plan, written with the keys of a profile's entry.
mod entry {
    use lion_kernels::Plan;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use crate::profile::Written;

    pub(super) fn serialize<S: Serializer>(plan: &Plan, serializer: S) -> Result<S::Ok, S::Error> {
        Written::from(*plan).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Plan, D::Error> {
        let absurd = |(key, found, expected)| {
            serde::de::Error::custom(format_args!("{key} is {found}, and must be {expected}"))
        };
        Written::deserialize(deserializer)?.plan().map_err(absurd)
    }
}
