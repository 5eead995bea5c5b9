use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::ScheduleImpl;
use crate::Error;
use crate::json::ObjectReader;

/// A schedule that is a function; see [`Schedule::from_fn`](super::Schedule::from_fn). It cannot be written to a file. Two
/// are equal only if one is a clone of the other.
#[derive(Clone)]
pub struct ScheduleFn(Arc<dyn Fn(u64) -> f32 + Send + Sync>);

impl ScheduleFn {
    /// Creates a schedule from a function of the step. The optimizer checks a value when it uses it.
    pub fn new(function: impl Fn(u64) -> f32 + Send + Sync + 'static) -> Self {
        ScheduleFn(Arc::new(function))
    }
}

impl ScheduleImpl for ScheduleFn {
    fn at(&self, step: u64) -> f64 {
        f64::from((self.0)(step))
    }

    fn write(&self, _: &mut Map<String, Value>) -> Result<(), Error> {
        Err(Error::NotSerializable { name: String::new(), what: "a closure" })
    }

    fn read(_: &mut ObjectReader) -> Result<Self, Error> {
        Err(Error::argument("", "a closure", "a schedule that a file can hold"))
    }
}

impl PartialEq for ScheduleFn {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for ScheduleFn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScheduleFn(..)")
    }
}
