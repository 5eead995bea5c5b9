//! Storage formats: how tensors store their elements, and the conversions to and from f32.
//!
//! A format is one file in `format/` and one row of the table below. The file holds two loops: `decode` converts stored
//! elements to f32 exactly, `encode` rounds f32 values once. The row lists the name, the streams, and the roles that a
//! tensor of the format may have. [`Dtype`], the checks, the byte counts and the engine's dispatch follow from the row.
//!
//! A stream is one array of a tensor. Most formats have one stream. A format may have two, such as high and low halves.
//! A stream may hold one entry for a block of elements, such as a scale. Each stream is itself a tensor of a one-stream
//! format: [`TensorRef::stream`](crate::TensorRef::stream) returns it, and a checkpoint stores it. The engine decodes
//! and encodes ranges that start at a multiple of [`TILE`](crate::engine::TILE) elements; every block size divides it.
//!
//! The loops are plain Rust, which the compiler vectorises for each instruction set. They receive the instruction set's
//! token, because f16 needs conversion instructions that the compiler does not choose.

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

/// An element type, whose slices are one-stream tensors: `f32`, [`half::f16`], [`half::bf16`], `i8` and `i16`. The
/// integers occur only as streams of other formats.
///
/// The trait is sealed: only types in the table of formats are elements. All-zero bytes are a valid element, zero.
pub trait Element: Copy + Default + Send + Sync + core::fmt::Debug + sealed::Sealed + 'static {
    /// The dtype of a tensor of such elements.
    const DTYPE: Dtype;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// One stream of a format, with one entry for every `per` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// The dtype of an entry.
    pub dtype: Dtype,
    /// The number of bytes in an entry.
    pub bytes: usize,
    /// The number of elements that share an entry, a divisor of 512.
    pub per: usize,
}

impl Stream {
    const fn of<T: Element>(per: usize) -> Self {
        assert!(512 % per == 0, "a tile holds whole blocks");
        Stream { dtype: T::DTYPE, bytes: size_of::<T>(), per }
    }

    /// Returns the number of bytes in the stream of `len` elements.
    #[inline(always)]
    pub const fn bytes_of(self, len: usize) -> usize {
        self.entries(len) * self.bytes
    }

    /// Returns the number of entries in the stream of `len` elements.
    #[inline(always)]
    pub(crate) const fn entries(self, len: usize) -> usize {
        // `per` is a power of two. A shift, because a division is noticeable in a step over a small tensor.
        (len >> self.per.trailing_zeros()) + (len & (self.per - 1) != 0) as usize
    }
}

/// The largest number of streams of a format.
pub(crate) const MAX_STREAMS: usize = 2;

/// The entry types of a format's streams. The table generates the implementations.
pub(crate) trait Layout {
    /// An entry of the first stream.
    type First: Copy + Default;
    /// An entry of the second stream; `()` for formats with one stream.
    type Second: Copy + Default;
    const STREAMS: &'static [Stream];
}

/// The two conversion loops of a format. Both must be `#[inline(always)]`.
pub(crate) trait Format: Layout {
    /// Converts the elements to f32, exactly. `to` has the length of the tensor.
    fn decode<I: Isa>(isa: I, first: &[Self::First], second: &[Self::Second], to: &mut [f32]);

    /// Stores the values. Rounds once, to nearest even. Keeps subnormals and infinities; a NaN stays a NaN.
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

/// Generates everything that follows from the table of formats. `$d` is a dollar sign, for the generated macro.
macro_rules! formats {
    ($d:tt $($(#[$attribute:meta])* $variant:ident, $format:ty, $name:literal, $streams:tt, $roles:expr, $what:literal;)+) => {
        /// A storage format, as a value.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Dtype {
            $($(#[$attribute])* #[doc = $what] $variant,)+
        }

        impl Dtype {
            /// Every format.
            pub const ALL: &'static [Dtype] = &[$($(#[$attribute])* Dtype::$variant),+];

            /// Returns the format's name, such as `"bf16"`.
            pub const fn name(self) -> &'static str {
                match self { $($(#[$attribute])* Dtype::$variant => $name,)+ }
            }

            /// Returns the streams of a tensor of this format.
            pub const fn streams(self) -> &'static [Stream] {
                match self { $($(#[$attribute])* Dtype::$variant => <$format as Layout>::STREAMS,)+ }
            }

            /// Returns the roles that a tensor of the format may have in a step, except the roles that require f32.
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

/// Formats for parameter, gradient and momentum.
const ANY: RoleSet = PARAMETER.with(MOMENTUM).with(Role::Gradient.set());
const PARAMETER: RoleSet = Role::Parameter.set();
const MOMENTUM: RoleSet = Role::Momentum.set();
/// Formats that only occur as streams of other formats.
const STREAM: RoleSet = RoleSet::NONE;

formats! { $
    F32, core::primitive::f32, "f32", { F32 }, ANY, "IEEE binary32.";
    F16, half::f16, "f16", { F16 }, ANY, "IEEE binary16.";
    BF16, half::bf16, "bf16", { Bf16 }, ANY, "The upper half of an IEEE binary32.";
    Split, crate::format::split::Split, "split", { Bf16, i16 }, PARAMETER,
        "An f32 split into the nearest bfloat16 and a 16-bit remainder: a bf16 parameter with all bits of an f32.";
    Q8, crate::format::q8::Q8, "q8", { i8, F32 / 64 }, MOMENTUM,
        "An 8-bit code per element and an f32 scale per block of 64 elements: momentum of 8.5 bits an element.";
    I16, i16, "i16", { i16 }, STREAM, "16-bit integers: the low halves of a [`Split`](Self::Split) tensor.";
    I8, i8, "i8", { i8 }, STREAM, "8-bit integers: the codes of a [`Q8`](Self::Q8) tensor.";
    #[cfg(test)] Halves, crate::format::testing::Halves, "halves", { i16, i16 }, PARAMETER.with(MOMENTUM), "Two streams.";
    #[cfg(test)] Scaled, crate::format::testing::Scaled, "scaled", { i8, F32 / 64 }, PARAMETER.with(MOMENTUM),
        "A scale for each block.";
}

impl Dtype {
    /// Returns the bytes per element, rounded up. A shared scale counts as a fraction of a byte.
    pub const fn size(self) -> usize {
        self.bytes(512).div_ceil(512)
    }

    /// Returns the bytes of a tensor of `len` elements, over all streams.
    pub const fn bytes(self, len: usize) -> usize {
        let (streams, mut bytes, mut index) = (self.streams(), 0, 0);
        while index < streams.len() {
            bytes += streams[index].bytes_of(len);
            index += 1;
        }
        bytes
    }

    /// Returns the number of elements in a block. A tensor can be cut at multiples of it.
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

    /// Returns whether a tensor of the format may have a role. The EMA and the accumulator must be f32. Sources and
    /// copies may have any format.
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

    /// Returns the formats that a role allows.
    pub fn for_role(role: Role) -> impl Iterator<Item = Dtype> {
        Dtype::ALL.iter().copied().filter(move |dtype| dtype.fits(role))
    }

    /// Rounds each value to the value that a tensor of this format stores. Scalar and single-threaded: not for hot
    /// paths.
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
                    let (first_entries, second_entries) = (entries(0), entries(1));
                    F::encode(Scalar, part, &mut first[..first_entries], &mut second[..second_entries]);
                    F::decode(Scalar, &first[..first_entries], &second[..second_entries], part);
                }
            })
        });
    }

    /// Lays out the streams of a tensor one after the other, each at a multiple of 64 bytes. Returns the offsets and
    /// the total size, or `None` if the size overflows.
    pub(crate) fn stream_offsets(self, len: usize) -> Option<([usize; MAX_STREAMS], usize)> {
        let (mut offsets, mut end) = ([0; MAX_STREAMS], 0_usize);
        for (stream, offset) in self.streams().iter().zip(&mut offsets) {
            *offset = end.checked_next_multiple_of(LINE)?;
            end = offset.checked_add(stream.entries(len).checked_mul(stream.bytes)?)?;
        }
        Some((offsets, end))
    }

    /// Returns the names of formats, separated by commas.
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
