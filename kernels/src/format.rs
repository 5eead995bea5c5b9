//! Storage formats: how the elements of a tensor are stored, and how they become f32 and back.
//!
//! A format is one file in `format/` and one row of the table below. The file holds two loops: `decode` turns stored
//! elements into f32 exactly, `encode` rounds f32 once into the stored form. The row gives the name, the streams and the
//! roles that a tensor of the format may have. [`Dtype`], the checks, the byte counts and the engine's dispatch follow
//! from the row.
//!
//! A stream is an array that a tensor lies in. Most formats have one. A format may have two, such as a high and a low
//! half, and a stream may hold one number for a block of elements, such as a scale. Each stream is a tensor of a format
//! of one stream: [`TensorRef::stream`](crate::TensorRef::stream) gives it, and a file holds it. The engine decodes and
//! encodes pieces that start at a multiple of [`TILE`](crate::engine::TILE), which every block divides.
//!
//! The loops are plain Rust that the compiler vectorises for each instruction set. They get the instruction set's token,
//! for the formats that need an instruction which the compiler does not choose (f16).

pub(crate) mod bf16;
mod f16;
mod f32;
mod integer;
pub(crate) mod q8;
pub(crate) mod split;
#[cfg(test)]
pub(crate) mod testing;

use alloc::string::String;
use alloc::vec::Vec;

use crate::buffer::LINE;
use crate::error::Error;
use crate::float_state::with_ieee_state;
use crate::isa::Isa;
use crate::isa::scalar::Scalar;
use crate::role::{Role, RoleSet};

/// A type whose slices are tensors of one stream: `f32`, [`half::f16`], [`half::bf16`], and the integers that a stream
/// of another format may hold, `i8` and `i16`.
///
/// Sealed: a type is an element only if its format is in the table. All-zero bytes are a valid element, zero.
pub trait Element: Copy + Default + Send + Sync + core::fmt::Debug + sealed::Sealed + 'static {
    /// The name of the format.
    const DTYPE: Dtype;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// One stream of a format: an entry for every `per` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The format of an entry.
    pub dtype: Dtype,
    /// Bytes of one entry.
    pub bytes: usize,
    /// Elements that share an entry. It divides 512.
    pub per: usize,
}

impl Stream {
    const fn of<T: Element>(per: usize) -> Self {
        assert!(512 % per == 0, "a tile holds whole blocks");
        Stream { dtype: T::DTYPE, bytes: size_of::<T>(), per }
    }

    /// Bytes of the stream of `len` elements.
    #[inline(always)]
    pub const fn bytes_of(self, len: usize) -> usize {
        self.entries(len) * self.bytes
    }

    /// Entries of the stream of `len` elements.
    #[inline(always)]
    pub(crate) const fn entries(self, len: usize) -> usize {
        // `per` is a power of two: a division takes longer than a small pass can spare.
        (len >> self.per.trailing_zeros()) + (len & (self.per - 1) != 0) as usize
    }
}

/// The most streams that a format has.
pub(crate) const MAX_STREAMS: usize = 2;

/// The types of a format's streams. The table makes the implementations.
pub(crate) trait Layout {
    /// Entries of the first stream.
    type First: Copy + Default;
    /// Entries of the second stream; `()` if there is none.
    type Second: Copy + Default;
    const STREAMS: &'static [Stream];
}

/// The two loops of a format. Both must be `#[inline(always)]`.
pub(crate) trait Format: Layout {
    /// Writes the values of the elements to `to`, which has one place for each element. The value is exact.
    fn decode<I: Isa>(isa: I, first: &[Self::First], second: &[Self::Second], to: &mut [f32]);

    /// Stores the values. Rounds once, to nearest even; keeps subnormals and infinities; a NaN stays a NaN.
    fn encode<I: Isa>(isa: I, from: &[f32], first: &mut [Self::First], second: &mut [Self::Second]);
}

/// Implements [`Layout`] from the streams of a row: `{ T }`, `{ T, U }` or `{ T, U / elements per entry }`.
macro_rules! layout {
    ($format:ty, { $first:ident }) => {
        layout!($format, $first, (), [Stream::of::<$first>(1)]);
    };
    ($format:ty, { $first:ident, $second:ident }) => {
        layout!($format, $first, $second, [Stream::of::<$first>(1), Stream::of::<$second>(1)]);
    };
    ($format:ty, { $first:ident, $second:ident / $per:literal }) => {
        layout!($format, $first, $second, [Stream::of::<$first>(1), Stream::of::<$second>($per)]);
    };
    ($format:ty, $first:ty, $second:ty, $streams:expr) => {
        impl Layout for $format {
            type First = $first;
            type Second = $second;
            const STREAMS: &'static [Stream] = &$streams;
        }
    };
}

/// Makes all that follows from the list of formats; `$d` is a dollar sign, for the macro that it makes.
macro_rules! formats {
    ($d:tt $($(#[$attribute:meta])* $variant:ident, $format:ty, $name:literal, $streams:tt, $roles:expr, $what:literal;)+) => {
        /// The name of a storage format, known at run time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Dtype {
            $($(#[$attribute])* #[doc = $what] $variant,)+
        }

        impl Dtype {
            /// Every format.
            pub const ALL: &'static [Dtype] = &[$($(#[$attribute])* Dtype::$variant),+];

            /// The format's name, such as `"bf16"`.
            pub const fn name(self) -> &'static str {
                match self { $($(#[$attribute])* Dtype::$variant => $name,)+ }
            }

            /// The arrays that a tensor of this format lies in.
            pub const fn streams(self) -> &'static [Stream] {
                match self { $($(#[$attribute])* Dtype::$variant => <$format as Layout>::STREAMS,)+ }
            }

            /// The roles that a tensor of the format may have in a step, apart from those for f32 alone.
            const fn roles(self) -> RoleSet {
                match self { $($(#[$attribute])* Dtype::$variant => $roles,)+ }
            }
        }

        $($(#[$attribute])* layout!($format, $streams);)+

        /// Evaluates an expression with a type alias bound to the [`Format`] of a [`Dtype`].
        macro_rules! with_format {
            ($d dtype:expr, $d F:ident => $d body:expr) => {
                match $d dtype {
                    $($(#[$attribute])* $crate::format::Dtype::$variant => { type $d F = $format; $d body })+
                }
            };
        }
        pub(crate) use with_format;
    };
}

use half::{bf16 as Bf16, f16 as F16};
type F32 = core::primitive::f32;

/// Any tensor of a step.
const ANY: RoleSet = PARAMETER.with(MOMENTUM).with(Role::Gradient.set());
const PARAMETER: RoleSet = Role::Parameter.set();
const MOMENTUM: RoleSet = Role::Momentum.set();
/// No tensor of a step, but a stream of one.
const STREAM: RoleSet = RoleSet::NONE;

formats! { $
    F32, core::primitive::f32, "f32", { F32 }, ANY, "IEEE binary32.";
    F16, half::f16, "f16", { F16 }, ANY, "IEEE binary16.";
    BF16, half::bf16, "bf16", { Bf16 }, ANY, "The upper half of an IEEE binary32.";
    Split, crate::format::split::Split, "split", { Bf16, i16 }, PARAMETER,
        "An f32 as a bfloat16, which is the nearest, and the rest: a 16-bit parameter with f32's bits.";
    Q8, crate::format::q8::Q8, "q8", { i8, F32 / 64 }, MOMENTUM,
        "Eight bits an element, and an f32 scale for each block of 64: a momentum of 8.5 bits an element.";
    I16, i16, "i16", { i16 }, STREAM, "Integers, the low halves of a [`Split`](Self::Split) tensor.";
    I8, i8, "i8", { i8 }, STREAM, "Integers, the codes of a [`Q8`](Self::Q8) tensor.";
    #[cfg(test)] Halves, crate::format::testing::Halves, "halves", { i16, i16 }, PARAMETER.with(MOMENTUM), "Two streams.";
    #[cfg(test)] Scaled, crate::format::testing::Scaled, "scaled", { i8, F32 / 64 }, PARAMETER.with(MOMENTUM),
        "A scale for each block.";
}

impl Dtype {
    /// Bytes that one element adds to a tensor. A scale that many elements share counts as part of a byte: rounded up.
    pub const fn size(self) -> usize {
        self.bytes(512).div_ceil(512)
    }

    /// Bytes of a tensor of `len` elements, all streams together.
    pub const fn bytes(self, len: usize) -> usize {
        let (streams, mut bytes, mut index) = (self.streams(), 0, 0);
        while index < streams.len() {
            bytes += streams[index].bytes_of(len);
            index += 1;
        }
        bytes
    }

    /// The elements of a block: a tensor can be cut at multiples of this.
    pub const fn block(self) -> usize {
        let (streams, mut block, mut index) = (self.streams(), 1, 0);
        while index < streams.len() {
            if streams[index].per > block {
                block = streams[index].per;
            }
            index += 1;
        }
        block
    }

    /// Whether a tensor of the format may have a role. Averages and accumulators are f32; what a conversion reads and
    /// writes may be of any format.
    #[inline(always)]
    pub const fn fits(self, role: Role) -> bool {
        match role {
            Role::Parameter | Role::Gradient | Role::Momentum => self.roles().has(role),
            // A direction can be another step's gradient.
            Role::Direction => self.roles().has(Role::Gradient),
            Role::Accumulator | Role::Ema => matches!(self, Dtype::F32),
            Role::Source | Role::Copy => true,
        }
    }

    /// The formats that a role takes.
    pub fn of_role(role: Role) -> impl Iterator<Item = Dtype> {
        Dtype::ALL.iter().copied().filter(move |dtype| dtype.fits(role))
    }

    /// Rounds each value to what a tensor of this format would store. One thread, plain Rust: for what is not hot.
    ///
    /// ```
    /// let mut values = [1.0_f32, 1.001];
    /// lion_kernels::Dtype::BF16.round(&mut values);
    /// assert_eq!(values, [1.0, 1.0]);
    /// ```
    pub fn round(self, values: &mut [f32]) {
        with_ieee_state(|| {
            with_format!(self, F => {
                let mut first = [<F as Layout>::First::default(); 512];
                let mut second = [<F as Layout>::Second::default(); 512];
                for part in values.chunks_mut(512) {
                    let entries = |stream: usize| F::STREAMS.get(stream).map_or(0, |it: &Stream| it.entries(part.len()));
                    let (entries_of_first, entries_of_second) = (entries(0), entries(1));
                    F::encode(Scalar, part, &mut first[..entries_of_first], &mut second[..entries_of_second]);
                    F::decode(Scalar, &first[..entries_of_first], &second[..entries_of_second], part);
                }
            })
        });
    }

    /// Where the streams of a tensor lie behind each other, each at a multiple of 64 bytes, and where they end. `None`
    /// if that is more than the address space.
    pub(crate) fn placed(self, len: usize) -> Option<([usize; MAX_STREAMS], usize)> {
        let (mut offsets, mut end) = ([0; MAX_STREAMS], 0_usize);
        for (stream, offset) in self.streams().iter().zip(&mut offsets) {
            *offset = end.checked_next_multiple_of(LINE)?;
            end = offset.checked_add(stream.entries(len).checked_mul(stream.bytes)?)?;
        }
        Some((offsets, end))
    }

    /// The names of formats.
    pub(crate) fn list(dtypes: impl Iterator<Item = Dtype>) -> String {
        dtypes.map(Dtype::name).collect::<Vec<_>>().join(", ")
    }
}

impl core::fmt::Display for Dtype {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::str::FromStr for Dtype {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Dtype::ALL
            .iter()
            .copied()
            .find(|dtype| dtype.name() == name)
            .ok_or_else(|| Error::UnknownDtype { name: name.into() })
    }
}
