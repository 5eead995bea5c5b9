//! Storage formats. A format is a way to load f32 lanes and a way to store them; the arithmetic between is f32.
//!
//! Each format is one file in `element/` and one row of the table below, which makes [`Dtype`], [`Slice`],
//! [`SliceMut`], [`Values`] and the kernels' instantiations. A load is exact; a store rounds once, to nearest even, keeps
//! subnormals, overflows to infinity and keeps NaN as a quiet NaN.

mod bf16;
mod f16;
mod f32;

use alloc::string::String;
use alloc::vec::Vec;
use core::ptr::NonNull;
use core::slice::{from_raw_parts, from_raw_parts_mut};

use crate::buffer::Buffer;
use crate::error::Error;
use crate::isa::Isa;
use crate::sweep::Place;

/// Two vectors: the `2 * LANES` consecutive elements that a kernel handles at a time.
pub(crate) type Pair<I> = [<I as Isa>::F32; 2];

/// A type that tensors are stored in: `f32`, [`half::f16`] or [`half::bf16`].
///
/// Sealed: the kernels are instantiated for exactly these. All-zero bytes are a valid element, zero.
pub trait Element: Copy + Default + Send + Sync + core::fmt::Debug + sealed::Sealed + 'static {
    /// The format's run-time name.
    const DTYPE: Dtype;

    /// A tensor of this format as one of any.
    fn slice(tensor: &[Self]) -> Slice<'_>;

    /// A tensor of this format as one of any, for writing.
    fn slice_mut(tensor: &mut [Self]) -> SliceMut<'_>;

    /// The elements of a tensor of this format; `None` of another's.
    fn elements(tensor: Slice<'_>) -> Option<&[Self]>;

    /// The elements of a tensor of this format, for writing; `None` of another's.
    fn elements_mut(tensor: SliceMut<'_>) -> Option<&mut [Self]>;
}

mod sealed {
    pub trait Sealed {}
}

/// How a format's elements become f32 lanes and back.
pub(crate) trait Storage: Element {
    /// Whether the format knows an order of lanes that is cheaper than the order of the elements, even ones in the
    /// first vector of a pair and odd ones in the second. A kernel may ask for the split order only where every
    /// stream it touches has it.
    const SPLITS: bool = false;

    /// # Safety
    /// The place's elements are readable.
    unsafe fn load<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        from: *const Self,
        split: bool,
    ) -> Pair<I>;

    /// # Safety
    /// The place's elements are writable.
    unsafe fn store<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        to: *mut Self,
        split: bool,
        value: Pair<I>,
    );

    /// Stores values that [`rounded`](Self::rounded) gave, in the order of the elements.
    ///
    /// # Safety
    /// The place's elements are writable.
    #[inline(always)]
    unsafe fn store_rounded<I: Isa, const WHOLE: bool>(
        place: Place<I, WHOLE>,
        to: *mut Self,
        value: Pair<I>,
    ) {
        // SAFETY: by this function's contract.
        unsafe { Self::store(place, to, false, value) }
    }

    /// The values that storing and loading would give.
    fn rounded<I: Isa>(isa: I, value: Pair<I>) -> Pair<I>;
}

/// Makes all that follows from the list of formats; `$d` is a dollar sign, for the macro that it makes.
macro_rules! dtypes {
    ($d:tt $($variant:ident, $type:ty, $name:literal, $what:literal;)+) => {
        /// A storage format, known at run time.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Dtype {
            $(#[doc = $what] $variant,)+
        }

        impl Dtype {
            /// Every format.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant),+];

            /// The format's name, such as `"bf16"`.
            pub const fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name,)+ }
            }

            /// Bytes of one element.
            pub const fn size(self) -> usize {
                match self { $(Dtype::$variant => size_of::<$type>(),)+ }
            }
        }

        $(
            impl sealed::Sealed for $type {}
            impl Element for $type {
                const DTYPE: Dtype = Dtype::$variant;

                fn slice(tensor: &[Self]) -> Slice<'_> {
                    Slice::$variant(tensor)
                }

                fn slice_mut(tensor: &mut [Self]) -> SliceMut<'_> {
                    SliceMut::$variant(tensor)
                }

                #[inline]
                fn elements(tensor: Slice<'_>) -> Option<&[Self]> {
                    if let Slice::$variant(elements) = tensor { Some(elements) } else { None }
                }

                #[inline]
                fn elements_mut(tensor: SliceMut<'_>) -> Option<&mut [Self]> {
                    if let SliceMut::$variant(elements) = tensor { Some(elements) } else { None }
                }
            }
        )+

        /// A borrowed tensor of any format, as its elements in order.
        #[derive(Clone, Copy, Debug)]
        pub enum Slice<'a> {
            $(#[doc = $what] $variant(&'a [$type]),)+
        }

        /// A mutably borrowed tensor of any format, as its elements in order.
        #[derive(Debug)]
        pub enum SliceMut<'a> {
            $(#[doc = $what] $variant(&'a mut [$type]),)+
        }

        /// Owned elements of any format, in aligned memory.
        #[derive(Clone, Debug)]
        pub enum Values {
            $(#[doc = $what] $variant(Buffer<$type>),)+
        }

        impl Values {
            /// `len` zeros.
            ///
            /// # Errors
            /// [`Error::OutOfMemory`] where the memory cannot be had.
            pub fn zeroed(dtype: Dtype, len: usize) -> Result<Self, Error> {
                Ok(match dtype { $(Dtype::$variant => Values::$variant(Buffer::zeroed(len)?),)+ })
            }

            /// The elements, for reading.
            pub fn as_slice(&self) -> Slice<'_> {
                match self { $(Values::$variant(buffer) => Slice::$variant(buffer),)+ }
            }

            /// The elements, for writing.
            pub fn as_slice_mut(&mut self) -> SliceMut<'_> {
                match self { $(Values::$variant(buffer) => SliceMut::$variant(buffer),)+ }
            }
        }

        impl<'a> Slice<'a> {
            /// The format.
            #[inline]
            pub fn dtype(&self) -> Dtype {
                match self { $(Slice::$variant(_) => Dtype::$variant,)+ }
            }

            /// The number of elements.
            #[inline]
            pub fn len(&self) -> usize {
                match self { $(Slice::$variant(slice) => slice.len(),)+ }
            }

            /// # Safety
            /// `len` initialised elements of the format lie at `start`, aligned, and stay borrowed.
            #[inline]
            pub(crate) unsafe fn from_raw(dtype: Dtype, start: NonNull<u8>, len: usize) -> Self {
                let start = start.as_ptr();
                match dtype {
                    // SAFETY: by this function's contract.
                    $(Dtype::$variant => Slice::$variant(unsafe { from_raw_parts(start.cast(), len) }),)+
                }
            }

            pub(crate) fn as_ptr(&self) -> *const u8 {
                match self { $(Slice::$variant(slice) => slice.as_ptr().cast(),)+ }
            }

            /// The first `middle` elements, and the others.
            pub(crate) fn split_at(self, middle: usize) -> (Self, Self) {
                match self {
                    $(Slice::$variant(slice) => {
                        let (head, tail) = slice.split_at(middle);
                        (Slice::$variant(head), Slice::$variant(tail))
                    })+
                }
            }

            /// The elements of `range`, or `None` where the range does not lie within the tensor.
            pub fn get(self, range: core::ops::Range<usize>) -> Option<Slice<'a>> {
                match self { $(Slice::$variant(slice) => slice.get(range).map(Slice::$variant),)+ }
            }
        }

        impl<'a> SliceMut<'a> {
            /// The format.
            #[inline]
            pub fn dtype(&self) -> Dtype {
                match self { $(SliceMut::$variant(_) => Dtype::$variant,)+ }
            }

            /// The number of elements.
            #[inline]
            pub fn len(&self) -> usize {
                match self { $(SliceMut::$variant(slice) => slice.len(),)+ }
            }

            /// # Safety
            /// As for [`Slice::from_raw`], and borrowed exclusively.
            #[inline]
            pub(crate) unsafe fn from_raw(dtype: Dtype, start: NonNull<u8>, len: usize) -> Self {
                let start = start.as_ptr();
                match dtype {
                    // SAFETY: by this function's contract.
                    $(Dtype::$variant => SliceMut::$variant(unsafe { from_raw_parts_mut(start.cast(), len) }),)+
                }
            }

            pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
                match self { $(SliceMut::$variant(slice) => slice.as_mut_ptr().cast(),)+ }
            }

            /// The first `middle` elements, and the others.
            pub(crate) fn split_at(self, middle: usize) -> (Self, Self) {
                match self {
                    $(SliceMut::$variant(slice) => {
                        let (head, tail) = slice.split_at_mut(middle);
                        (SliceMut::$variant(head), SliceMut::$variant(tail))
                    })+
                }
            }

            /// The elements of `range`, or `None` where the range does not lie within the tensor.
            pub fn get(self, range: core::ops::Range<usize>) -> Option<SliceMut<'a>> {
                match self { $(SliceMut::$variant(slice) => slice.get_mut(range).map(SliceMut::$variant),)+ }
            }

            /// Writes the elements of another tensor of the same format and length over these; says whether it was one.
            #[must_use]
            pub fn copy_from(&mut self, other: Slice<'_>) -> bool {
                match (self, other) {
                    $((SliceMut::$variant(to), Slice::$variant(from)) if to.len() == from.len() => {
                        to.copy_from_slice(from);
                        true
                    })+
                    _ => false,
                }
            }

            /// The same tensor, for reading.
            pub fn as_slice(&self) -> Slice<'_> {
                match self { $(SliceMut::$variant(slice) => Slice::$variant(slice),)+ }
            }

            /// The same tensor, borrowed anew for a shorter time.
            #[inline]
            pub fn reborrow(&mut self) -> SliceMut<'_> {
                match self { $(SliceMut::$variant(slice) => SliceMut::$variant(slice),)+ }
            }
        }

        $(
            impl<'a> From<&'a [$type]> for Slice<'a> {
                fn from(slice: &'a [$type]) -> Self { Slice::$variant(slice) }
            }
            impl<'a> From<&'a mut [$type]> for SliceMut<'a> {
                fn from(slice: &'a mut [$type]) -> Self { SliceMut::$variant(slice) }
            }
            impl<'a> From<&'a Vec<$type>> for Slice<'a> {
                fn from(vec: &'a Vec<$type>) -> Self { Slice::$variant(vec) }
            }
            impl<'a> From<&'a mut Vec<$type>> for SliceMut<'a> {
                fn from(vec: &'a mut Vec<$type>) -> Self { SliceMut::$variant(vec) }
            }
        )+

        impl<'a> From<SliceMut<'a>> for Slice<'a> {
            fn from(tensor: SliceMut<'a>) -> Self {
                match tensor { $(SliceMut::$variant(slice) => Slice::$variant(slice),)+ }
            }
        }

        /// Evaluates an expression with a type alias bound to the element type of a [`Dtype`].
        macro_rules! with_dtype {
            ($d dtype:expr, $d T:ident => $d body:expr) => {
                match $d dtype {
                    $($crate::element::Dtype::$variant => { type $d T = $type; $d body })+
                }
            };
        }
        pub(crate) use with_dtype;
    };
}

dtypes! { $
    F32, core::primitive::f32, "f32", "IEEE binary32.";
    F16, half::f16, "f16", "IEEE binary16.";
    BF16, half::bf16, "bf16", "The upper half of an IEEE binary32.";
}

impl Dtype {
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

impl Slice<'_> {
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl SliceMut<'_> {
    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Values {
    /// The format.
    pub fn dtype(&self) -> Dtype {
        self.as_slice().dtype()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
