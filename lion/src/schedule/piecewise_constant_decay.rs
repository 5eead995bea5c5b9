use serde_json::{Map, Value};

use super::{ScheduleImpl, single};
use crate::json::{self, ObjectReader};
use crate::{Error, check};

/// Keras's `PiecewiseConstantDecay`: one value up to each boundary, and a last one after the last boundary.
///
/// `values[0]` while `step <= boundaries[0]`, then `values[i]` while `step <= boundaries[i]`, then the last.
///
#[doc = include_str!("../../docs/schedules/piecewise_constant_decay.svg")]
#[derive(Clone, Debug, PartialEq)]
pub struct PiecewiseConstantDecay {
    boundaries: Vec<f64>,
    values: Vec<f64>,
}

impl PiecewiseConstantDecay {
    /// Creates a schedule from boundaries, which are steps, and one value more than boundaries.
    ///
    /// # Errors
    /// [`Error::Argument`] if `values` does not have one element more than `boundaries`, if a boundary or a value is outside
    /// [0, inf), or if a boundary is below the one before it.
    pub fn new(boundaries: impl Into<Vec<f64>>, values: impl Into<Vec<f64>>) -> Result<Self, Error> {
        let (boundaries, values) = (boundaries.into(), values.into());
        if values.len().checked_sub(1) != Some(boundaries.len()) {
            let found = format!("a list of {}", values.len());
            let expected = format!("one longer than boundaries, a list of {}", boundaries.len());
            return Err(Error::argument("values", found, expected));
        }
        let mut least = 0.0;
        for (index, &boundary) in boundaries.iter().enumerate() {
            let name = format!("boundaries[{index}]");
            check::not_negative(&name, boundary)?;
            if boundary < least {
                return Err(Error::argument(
                    name,
                    boundary,
                    format!("in [{least}, inf), from the one before"),
                ));
            }
            least = boundary;
        }
        for (index, &value) in values.iter().enumerate() {
            check::not_negative(&format!("values[{index}]"), value)?;
        }
        Ok(PiecewiseConstantDecay { boundaries, values })
    }
}

impl ScheduleImpl for PiecewiseConstantDecay {
    fn at(&self, step: u64) -> f64 {
        // Keras compares integers here: the boundary loses its fraction, and the step is not rounded to f32. The cast
        // saturates.
        let passed = self.boundaries.partition_point(|&boundary| (boundary as u64) < step);
        self.values.get(passed).copied().map_or(0.0, single)
    }

    fn write(&self, config: &mut Map<String, Value>) -> Result<(), Error> {
        config.insert("boundaries".into(), self.boundaries.iter().copied().map(json::steps).collect());
        config.insert("values".into(), self.values.iter().copied().map(json::float).collect());
        Ok(())
    }

    fn read(config: &mut ObjectReader) -> Result<Self, Error> {
        let boundaries = config.numbers("boundaries")?;
        Self::new(boundaries, config.numbers("values")?)
    }
}
