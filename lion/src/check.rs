//! Range checks of options. Numbers are f64 in Python and in JSON, and f32 in the kernels. A number must be in its range
//! as both.

use std::borrow::Cow;

use lion_kernels::with_ieee_state;

use crate::options::Value;
use crate::{Error, pattern};

/// The values of its type that an option allows.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Range {
    /// Every value.
    Any,
    /// Numbers in an interval, given as text and as a test.
    Numbers(&'static str, fn(f64) -> bool),
    /// Whole numbers, both ends included.
    Whole(u64, u64),
    /// Regular expressions.
    Patterns,
}

impl Range {
    pub(crate) const POSITIVE: Self = Range::Numbers("in (0, inf)", |x| x > 0.0 && x.is_finite());
    pub(crate) const NOT_NEGATIVE: Self = Range::Numbers("in [0, inf)", |x| x >= 0.0 && x.is_finite());
    pub(crate) const AT_LEAST_ONE: Self = Range::Numbers("in [1, inf)", |x| x >= 1.0 && x.is_finite());
    pub(crate) const FRACTION: Self = Range::Numbers("in [0, 1]", |x| (0.0..=1.0).contains(&x));
    pub(crate) const POSITIVE_FRACTION: Self = Range::Numbers("in (0, 1]", |x| x > 0.0 && x <= 1.0);

    /// Returns the range in words, or `None` if every value of the type is allowed.
    pub(crate) fn text(self) -> Option<Cow<'static, str>> {
        match self {
            Range::Any => None,
            Range::Numbers(interval, _) => Some(interval.into()),
            Range::Whole(least, most) => Some(format!("a whole number in [{least}, {most}]").into()),
            Range::Patterns => {
                Some(format!("a list of at most {}; | joins several in one", pattern::MOST).into())
            }
        }
    }

    /// Checks an option's value, which has the right type. A schedule's values are checked in each step.
    pub(crate) fn check(self, name: &str, value: &Value) -> Result<(), Error> {
        match (self, value) {
            (Range::Numbers(interval, within), &Value::Float(number)) => {
                check(name, number, interval, within).map(drop)
            }
            (Range::Whole(least, most), &Value::Integer(number))
                if !(i128::from(least)..=i128::from(most)).contains(&number) =>
            {
                Err(Error::argument(name, number, self.text().unwrap_or_default()))
            }
            (Range::Patterns, Value::List(patterns)) if patterns.len() > pattern::MOST => {
                Err(Error::argument(name, value, self.text().unwrap_or_default()))
            }
            (Range::Patterns, Value::List(patterns)) => {
                patterns.iter().try_for_each(|text| pattern::compile(text).map(drop))
            }
            _ => Ok(()),
        }
    }

    fn number(self, name: &str, value: f64) -> Result<f64, Error> {
        self.check(name, &Value::Float(value)).map(|()| value)
    }
}

/// Rounds to the nearest f32, ties to even, whatever rounding mode the host has set.
pub(crate) fn single(value: f64) -> f32 {
    with_ieee_state(|| value as f32)
}

pub(crate) fn positive(name: &str, value: f64) -> Result<f64, Error> {
    Range::POSITIVE.number(name, value)
}

pub(crate) fn not_negative(name: &str, value: f64) -> Result<f64, Error> {
    Range::NOT_NEGATIVE.number(name, value)
}

pub(crate) fn at_least_one(name: &str, value: f64) -> Result<f64, Error> {
    Range::AT_LEAST_ONE.number(name, value)
}

pub(crate) fn fraction(name: &str, value: f64) -> Result<f64, Error> {
    Range::FRACTION.number(name, value)
}

pub(crate) fn positive_fraction(name: &str, value: f64) -> Result<f64, Error> {
    Range::POSITIVE_FRACTION.number(name, value)
}

fn check(name: &str, value: f64, interval: &'static str, within: fn(f64) -> bool) -> Result<f64, Error> {
    // Both conversions run in the IEEE state: a host may have set the processor to flush subnormals to zero.
    let (single, widened) = with_ieee_state(|| (value as f32, f64::from(value as f32)));
    if !within(value) {
        Err(Error::argument(name, value, interval))
    } else if !within(widened) {
        Err(Error::argument(name, format_args!("{value:e}, which is {single} as f32"), interval))
    } else {
        Ok(value)
    }
}
