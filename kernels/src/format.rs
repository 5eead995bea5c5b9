//! Storage formats: how the elements of a tensor are stored, and how they become f32 and back.
//!
//! A format is one file in `format/` and one row of the table below. The file holds two loops: `decode` turns stored
//! elements into f32 exactly, `encode` rounds f32 once into the stored form. The row gives the name, the streams and the
//! dtypes in a safetensors file. [`Dtype`], the checks, the byte counts and the engine's dispatch follow from the row.
//!
//! A stream is an array that a tensor lies in. Most formats have one. A format may have two, such as a high and a low
//! half, and a stream may hold one number for a block of elements, such as a scale. The engine decodes and encodes
//! pieces that start at a multiple of [`TILE`](crate::engine::TILE), which every block divides.
//!
//! The loops are plain Rust that the compiler vectorises for each instruction set. They get the instruction set's token,
//! for the formats that need an instruction which the compiler does not choose (f16).

mod bf16;
mod f16;
mod f32;
#[cfg(test)]
pub(crate) mod testing;

use alloc::string::String;
use alloc::vec::Vec;

use crate::buffer::LINE;
use crate::error::Error;
use crate::float_state::with_ieee_state;
use crate::isa::Isa;
use crate::isa::scalar::Scalar;

/// A type whose slices are tensors of one stream: `f32`, [`half::f16`] or [`half::bf16`].
///
/// Sealed: a type is an element only if its format is in the table. All-zero bytes are a valid element, zero.
pub trait Element: Copy + Default + Send + Sync + core::fmt::Debug + sealed::Sealed + 'static {
    /// The name of the format.
    const DTYPE: Dtype;
}

pub(crate) mod sealed {
    pub trait Sealed {}
}

/// One stream of a format: `bytes` for every `per` elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stream {
    /// Bytes of one entry.
    pub bytes: usize,
    /// Elements that share an entry. It divides 512.
    pub per: usize,
}

impl Stream {
    const fn of<T>(per: usize) -> Self {
        assert!(512 % per == 0, "a tile holds whole blocks");
        Stream { bytes: size_of::<T>(), per }
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
    ($d:tt $($(#[$attribute:meta])* $variant:ident, $format:ty, $name:literal, $streams:tt, $files:expr, $what:literal;)+) => {
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

            /// The dtype of each stream in a safetensors file.
            pub const fn safetensors(self) -> &'static [&'static str] {
                match self { $($(#[$attribute])* Dtype::$variant => &$files,)+ }
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

formats! { $
    F32, core::primitive::f32, "f32", { F32 }, ["F32"], "IEEE binary32.";
    F16, half::f16, "f16", { F16 }, ["F16"], "IEEE binary16.";
    BF16, half::bf16, "bf16", { Bf16 }, ["BF16"], "The upper half of an IEEE binary32.";
    #[cfg(test)] Halves, crate::format::testing::Halves, "halves", { u16, u16 }, ["U16", "U16"], "Two streams.";
    #[cfg(test)] Scaled, crate::format::testing::Scaled, "scaled", { i8, F32 / 64 }, ["I8", "F32"], "A scale for each block.";
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

    /// Every format's name.
    pub(crate) fn list() -> String {
        Dtype::ALL.iter().copied().map(Dtype::name).collect::<Vec<_>>().join(", ")
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
