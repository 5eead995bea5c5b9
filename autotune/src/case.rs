//! A [`Case`] is the key of a plan: an operation, the formats of its tensors, and the bytes of a call.
//!
//! The key has bytes instead of elements because the best plan depends on the cache that holds the tensors. Each tensor of
//! a call counts once, whether the call reads it, writes it or both. A [`SizeClass`] spans a factor of four and is measured
//! at its middle.

use std::fmt;
use std::str::FromStr;

use lion_kernels::{Dtype, Role};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::text::excerpt;

/// A pass of the kernels, without the settings that a call gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Operation {
    /// The optimizer step.
    Step,
    /// Gradient statistics: the norm and the number of non-finite elements.
    Statistics,
    /// Gradient accumulation: adds a gradient to its accumulator.
    Accumulate,
    /// The moving average (EMA) of a parameter, outside the step.
    Average,
    /// Conversion of a tensor from the gradient's format to the parameter's.
    Convert,
}

impl Operation {
    /// All operations.
    pub const ALL: &'static [Operation] = &[
        Operation::Step,
        Operation::Statistics,
        Operation::Accumulate,
        Operation::Average,
        Operation::Convert,
    ];

    /// Returns the operation's name in a profile.
    pub const fn name(self) -> &'static str {
        match self {
            Operation::Step => "step",
            Operation::Statistics => "statistics",
            Operation::Accumulate => "accumulate",
            Operation::Average => "average",
            Operation::Convert => "convert",
        }
    }

    /// Replaces the formats that the operation does not use by one that it uses. A profile stores formats in this form.
    #[must_use]
    pub const fn relevant(self, dtypes: Dtypes) -> Dtypes {
        match self {
            Operation::Step => dtypes,
            Operation::Statistics | Operation::Accumulate => Dtypes::all(dtypes.gradient),
            Operation::Average => Dtypes::all(dtypes.parameter),
            Operation::Convert => Dtypes { momentum: dtypes.parameter, ..dtypes },
        }
    }

    /// Returns the bytes of all tensors of a call on `elements` elements.
    pub const fn bytes(self, dtypes: Dtypes, elements: usize) -> usize {
        let Dtypes { parameter, gradient, momentum } = dtypes;
        let [p, g, m] = [parameter.bytes(elements), gradient.bytes(elements), momentum.bytes(elements)];
        match self {
            Operation::Step => p + g + m,
            Operation::Statistics => g,
            Operation::Accumulate => Dtype::F32.bytes(elements) + g,
            Operation::Average => Dtype::F32.bytes(elements) + p,
            Operation::Convert => p + g,
        }
    }

    /// Returns the bytes that such a call moves between memory and registers. A tensor that is read and written counts
    /// twice.
    pub const fn traffic(self, dtypes: Dtypes, elements: usize) -> usize {
        let Dtypes { parameter, momentum, .. } = dtypes;
        let also_written = match self {
            Operation::Step => parameter.bytes(elements) + momentum.bytes(elements),
            Operation::Accumulate | Operation::Average => Dtype::F32.bytes(elements),
            Operation::Statistics | Operation::Convert => 0,
        };
        self.bytes(dtypes, elements) + also_written
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Operation {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Operation::ALL.iter().copied().find(|it| it.name() == name).ok_or_else(|| Error::Unknown {
            what: "operation",
            name: excerpt(name),
            known: Operation::ALL.iter().map(|it| it.name()).collect::<Vec<_>>().join(", "),
        })
    }
}

/// The formats of parameter, gradient and momentum, written like `f32/bf16/f32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[allow(missing_docs)]
pub struct Dtypes {
    pub parameter: Dtype,
    pub gradient: Dtype,
    pub momentum: Dtype,
}

impl Dtypes {
    /// The combinations that the tuner measures by default: one format for all tensors, and [`Dtype::BF16`] gradients for
    /// [`Dtype::F32`] parameters.
    pub const USUAL: &'static [Dtypes] = &[
        Dtypes::all(Dtype::F32),
        Dtypes::all(Dtype::BF16),
        Dtypes { gradient: Dtype::BF16, ..Dtypes::all(Dtype::F32) },
        Dtypes::all(Dtype::F16),
    ];

    /// One format for all tensors.
    pub const fn all(dtype: Dtype) -> Self {
        Dtypes { parameter: dtype, gradient: dtype, momentum: dtype }
    }

    /// Returns whether a step supports these formats.
    pub const fn fit(self) -> bool {
        self.parameter.fits(Role::Parameter)
            && self.gradient.fits(Role::Gradient)
            && self.momentum.fits(Role::Momentum)
    }
}

impl fmt::Display for Dtypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.parameter, self.gradient, self.momentum)
    }
}

impl FromStr for Dtypes {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let unknown = || Error::Unknown {
            what: "combination of dtypes",
            name: excerpt(text),
            known: format!(
                "{}, or parameter/gradient/momentum such as f32/bf16/f32, where the parameter may also be {} and the \
                 momentum {}",
                "f32, f16, bf16",
                Dtype::Split,
                Dtype::Q8
            ),
        };
        let mut names = text.split('/').map(|name| name.parse::<Dtype>().map_err(|_| unknown()));
        let parameter = names.next().ok_or_else(unknown)??;
        let dtypes = match names.next() {
            None => Dtypes::all(parameter),
            Some(gradient) => {
                Dtypes { parameter, gradient: gradient?, momentum: names.next().ok_or_else(unknown)?? }
            }
        };
        if names.next().is_some() || !dtypes.fit() { Err(unknown()) } else { Ok(dtypes) }
    }
}

/// A range of the bytes of a call: from half to twice 16 KiB, 64 KiB, ... 1 GiB. The first class has no lower bound and the
/// last no upper bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SizeClass(u8);

impl SizeClass {
    const NAMES: [&'static str; 9] =
        ["16 KiB", "64 KiB", "256 KiB", "1 MiB", "4 MiB", "16 MiB", "64 MiB", "256 MiB", "1 GiB"];

    /// The number of classes.
    pub const COUNT: usize = Self::NAMES.len();

    /// Returns all classes, from the smallest.
    pub fn all() -> impl DoubleEndedIterator<Item = SizeClass> {
        (0..Self::COUNT as u8).map(SizeClass)
    }

    /// Returns the class of a call of `bytes` bytes.
    #[inline]
    pub const fn of(bytes: usize) -> Self {
        let fours = ((bytes >> 13) | 1).ilog2() / 2;
        SizeClass(if fours >= Self::COUNT as u32 { Self::COUNT as u8 - 1 } else { fours as u8 })
    }

    /// Returns the middle of the class in bytes, at which it is measured.
    pub const fn bytes(self) -> usize {
        1 << (14 + 2 * self.0 as u32)
    }

    /// Returns the smallest number of bytes in the class.
    pub const fn min_bytes(self) -> usize {
        if self.0 == 0 { 0 } else { self.bytes() / 2 }
    }

    /// Returns the index of the class among all, from 0.
    #[inline]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for SizeClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(Self::NAMES.get(self.index()).copied().unwrap_or_default())
    }
}

impl FromStr for SizeClass {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        SizeClass::all().find(|class| class.to_string() == name).ok_or_else(|| Error::Unknown {
            what: "size class",
            name: excerpt(name),
            known: Self::NAMES.join(", "),
        })
    }
}

macro_rules! as_text {
    ($($type:ty),+) => {
        $(
            impl TryFrom<String> for $type {
                type Error = Error;

                fn try_from(text: String) -> Result<Self, Error> {
                    text.parse()
                }
            }

            impl From<$type> for String {
                fn from(value: $type) -> String {
                    value.to_string()
                }
            }
        )+
    };
}

as_text!(Operation, Dtypes, SizeClass);

/// A call to find a plan for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Case {
    /// The operation.
    pub operation: Operation,
    /// The formats of its tensors.
    pub dtypes: Dtypes,
    /// The bytes of all tensors of a call.
    pub bytes: usize,
}

impl Case {
    /// Returns the case in the middle of a size class.
    pub const fn new(operation: Operation, dtypes: Dtypes, class: SizeClass) -> Self {
        Case { operation, dtypes: operation.relevant(dtypes), bytes: class.bytes() }
    }

    /// Returns the size class.
    pub const fn size_class(&self) -> SizeClass {
        SizeClass::of(self.bytes)
    }

    /// Returns the number of elements of each tensor: a multiple of the blocks of their formats.
    pub const fn elements(&self) -> usize {
        // A multiple of the block of every format.
        const MANY: usize = 512;
        let elements = self.bytes as u128 * MANY as u128 / self.operation.bytes(self.dtypes, MANY) as u128;
        let Dtypes { parameter, gradient, momentum } = self.dtypes;
        let (mut block, blocks) = (parameter.block(), [gradient.block(), momentum.block()]);
        let mut index = 0;
        while index < blocks.len() {
            if blocks[index] > block {
                block = blocks[index];
            }
            index += 1;
        }
        elements as usize / block * block
    }

    /// Returns the bytes that a call moves.
    pub const fn traffic(&self) -> usize {
        self.operation.traffic(self.dtypes, self.elements())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.operation, self.dtypes, self.size_class())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_meet_without_gap() {
        for (class, next) in SizeClass::all().zip(SizeClass::all().skip(1)) {
            assert_eq!(SizeClass::of(class.bytes()), class);
            assert_eq!(SizeClass::of(next.min_bytes()), next);
            assert_eq!(SizeClass::of(next.min_bytes() - 1), class);
        }
        assert_eq!((SizeClass::of(0).index(), SizeClass::of(usize::MAX).index()), (0, SizeClass::COUNT - 1));
    }

    #[test]
    fn names_are_read_as_written() {
        for class in SizeClass::all() {
            assert_eq!(class.to_string().parse::<SizeClass>().expect("a class"), class);
        }
        for &operation in Operation::ALL {
            assert_eq!(operation.name().parse::<Operation>().expect("an operation"), operation);
        }
        for &dtypes in Dtypes::USUAL {
            assert_eq!(dtypes.to_string().parse::<Dtypes>().expect("dtypes"), dtypes);
        }
        let narrow = ["split/bf16/bf16", "bf16/bf16/q8", "split/f32/q8"];
        for right in narrow {
            assert_eq!(right.parse::<Dtypes>().expect("dtypes").to_string(), right);
        }
        for wrong in [
            "",
            "f64",
            "f32/f32",
            "f32/f32/f32/f32",
            "f32//f32",
            "q8",
            "split",
            "q8/f32/f32",
            "f32/f32/split",
        ] {
            assert!(wrong.parse::<Dtypes>().is_err(), "{wrong}");
        }
        assert_eq!("bf16".parse::<Dtypes>().expect("dtypes"), Dtypes::all(Dtype::BF16));
    }
}
