//! [`Setting`]: converts the types of options to and from [`Value`].

use std::borrow::Cow;

use lion_kernels::Role;

use super::Value;
use crate::{DecayScale, Dtype, DynamicLossScale, EmaCadence, Hyperparameter};

/// A type that options have.
pub(crate) trait Setting: Sized {
    /// The argument of the builder's setter.
    type Given: Into<Self>;

    /// Describes the type in words.
    fn what() -> Cow<'static, str>;

    /// Converts a value, or returns `None` if it has another type.
    fn of(value: &Value) -> Option<Self>;

    fn to_value(&self) -> Value;

    /// Sets this to a value, or leaves it unchanged and returns `None` if the value has another type.
    fn assign(&mut self, value: &Value) -> Option<()> {
        *self = Self::of(value)?;
        Some(())
    }
}

/// Rows: a type, its description, and its conversions from a [`Value`].
macro_rules! settings {
    ($($type:ty: $what:expr, $($pattern:pat $(if $guard:expr)? => $taken:expr),+;)+) => {$(
        impl Setting for $type {
            type Given = Self;

            fn what() -> Cow<'static, str> {
                $what.into()
            }

            fn of(value: &Value) -> Option<Self> {
                match value {
                    $($pattern $(if $guard)? => $taken,)+
                    _ => None,
                }
            }

            fn to_value(&self) -> Value {
                self.clone().into()
            }
        }
    )+};
}

settings! {
    bool: "true or false", Value::Bool(on) => Some(*on);
    f64: "a number", Value::Float(number) => Some(*number), Value::Integer(number) => Some(*number as f64);
    u64: "a whole number that is not negative",
        Value::Integer(number) => (*number).try_into().ok(),
        // In Python 2.0 equals 2.
        Value::Float(number) if number.fract() == 0.0 && (0.0..TWO_64).contains(number) => Some(*number as u64);
    u32: "a whole number that is not negative", number @ (Value::Integer(_) | Value::Float(_)) => u64::of(number)?.try_into().ok();
    String: "a string", Value::Text(text) => Some(text.clone());
    Vec<String>: "a list of strings", Value::List(texts) => Some(texts.clone());
    Hyperparameter: "a number or a serialized schedule",
        Value::Schedule(schedule) => Some(schedule.clone().into()),
        number @ (Value::Integer(_) | Value::Float(_)) => f64::of(number).map(Hyperparameter::Constant);
    // The only option of this type is the momentum's dtype.
    Dtype: one_of(Dtype::for_role(Role::Momentum)), Value::Text(name) => find(Dtype::for_role(Role::Momentum), name);
    EmaCadence: one_of(cadences()), Value::Text(name) => find(cadences(), name);
    DecayScale: DecayScale::ALLOWED, Value::Text(text) => text.parse().ok();
}

const TWO_64: f64 = 18_446_744_073_709_551_616.0;

fn cadences() -> impl Iterator<Item = EmaCadence> {
    EmaCadence::ALL.iter().copied()
}

/// Lists the names of a type's values.
fn one_of(all: impl Iterator<Item: ToString>) -> String {
    let names: Vec<_> = all.map(|one| one.to_string()).collect();
    format!("one of {}", names.join(", "))
}

fn find<T: ToString>(mut all: impl Iterator<Item = T>, name: &str) -> Option<T> {
    all.find(|one| one.to_string() == name)
}

/// An option that can be off.
impl<T: Setting> Setting for Option<T> {
    type Given = T;

    fn what() -> Cow<'static, str> {
        T::what()
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            value => T::of(value).map(Some),
        }
    }

    fn to_value(&self) -> Value {
        self.as_ref().map_or(Value::None, T::to_value)
    }
}

/// On or off; its numbers are separate options.
impl Setting for Option<DynamicLossScale> {
    type Given = DynamicLossScale;

    fn what() -> Cow<'static, str> {
        bool::what()
    }

    fn of(value: &Value) -> Option<Self> {
        match value {
            Value::None => Some(None),
            value => bool::of(value).map(|on| on.then(DynamicLossScale::default)),
        }
    }

    fn to_value(&self) -> Value {
        self.is_some().into()
    }

    /// Keeps the numbers if it is on already.
    fn assign(&mut self, value: &Value) -> Option<()> {
        *self = Self::of(value)?.map(|default| self.take().unwrap_or(default));
        Some(())
    }
}

/// Sets a number of a dynamic loss scale, which switches the scale on. None sets the number's default.
pub(super) fn assign_part<T: Setting>(
    scale: &mut Option<DynamicLossScale>,
    value: &Value,
    part: impl Fn(&mut DynamicLossScale) -> &mut T,
) -> Option<()> {
    match (value, scale) {
        (Value::None, None) => {}
        (Value::None, Some(scale)) => std::mem::swap(part(scale), part(&mut DynamicLossScale::default())),
        (value, scale) => {
            let setting = T::of(value)?;
            *part(scale.get_or_insert_default()) = setting;
        }
    }
    Some(())
}
