//! Conversion of arrays of each dtype to the optimizer's slices.

use lion::{Dtype, TensorBuf, TensorMut, TensorRef};
use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::order::Order;

mod sealed {
    pub trait Sealed {}
}

/// An element type of arrays that the optimizer updates: f32, [`f16`](half::f16) and [`bf16`](half::bf16).
pub trait Format: sealed::Sealed + Copy {
    /// The dtype of the element type.
    const DTYPE: Dtype;
    #[doc(hidden)]
    fn view(view: ArrayViewD<'_, Self>) -> View<'_>;
    #[doc(hidden)]
    fn view_mut(view: ArrayViewMutD<'_, Self>) -> ViewMut<'_>;
}

macro_rules! formats {
    ($($variant:ident $type:ty;)+) => {
        /// A read-only array of any dtype.
        #[derive(Debug)]
        pub enum View<'a> {
            $(#[doc(hidden)] $variant(ArrayViewD<'a, $type>),)+
        }

        /// A writable array of any dtype.
        #[derive(Debug)]
        pub enum ViewMut<'a> {
            $(#[doc(hidden)] $variant(ArrayViewMutD<'a, $type>),)+
        }

        $(
            impl sealed::Sealed for $type {}
            impl Format for $type {
                const DTYPE: Dtype = Dtype::$variant;

                fn view(view: ArrayViewD<'_, Self>) -> View<'_> {
                    View::$variant(view)
                }

                fn view_mut(view: ArrayViewMutD<'_, Self>) -> ViewMut<'_> {
                    ViewMut::$variant(view)
                }
            }
        )+

        impl<'a> View<'a> {
            pub(crate) fn dtype(&self) -> Dtype {
                match self { $(View::$variant(_) => Dtype::$variant,)+ }
            }

            pub(crate) fn shape(&self) -> &[usize] {
                match self { $(View::$variant(view) => view.shape(),)+ }
            }

            /// Returns the elements in memory order, if the array has the variable's order and no gaps.
            pub(crate) fn slice(&self, order: &Order) -> Option<TensorRef<'_>> {
                match self { $(View::$variant(view) => order.slice(view).map(TensorRef::from),)+ }
            }

            /// Copies the elements in the variable's order. Requires `values` of the same dtype and number of elements.
            pub(crate) fn gather(&self, order: &Order, values: &mut TensorBuf) {
                match self {
                    $(View::$variant(view) => {
                        let Some(values) = values.to_mut().into_slice::<$type>() else { return };
                        let view = order.of(view.view());
                        if let Ok(mut to) = ArrayViewMutD::from_shape(view.raw_dim(), values) {
                            to.assign(&view);
                        }
                    })+
                }
            }
        }

        impl ViewMut<'_> {
            pub(crate) fn dtype(&self) -> Dtype {
                match self { $(ViewMut::$variant(_) => Dtype::$variant,)+ }
            }

            pub(crate) fn shape(&self) -> &[usize] {
                match self { $(ViewMut::$variant(view) => view.shape(),)+ }
            }

            /// Returns whether the elements are in the variable's order in memory, without gaps.
            pub(crate) fn lies_in(&self, order: &Order) -> bool {
                match self { $(ViewMut::$variant(view) => order.is_of(view),)+ }
            }

            pub(crate) fn view(&self) -> View<'_> {
                match self { $(ViewMut::$variant(view) => View::$variant(view.view()),)+ }
            }

            /// As [`View::slice`], but mutable.
            pub(crate) fn slice_mut(&mut self, order: &Order) -> Option<TensorMut<'_>> {
                match self { $(ViewMut::$variant(view) => order.slice_mut(view).map(TensorMut::from),)+ }
            }

            /// Writes the elements back that [`View::gather`] copied.
            pub(crate) fn scatter(&mut self, order: &Order, values: &TensorBuf) {
                match self {
                    $(ViewMut::$variant(view) => {
                        let Some(values) = values.to_ref().as_slice::<$type>() else { return };
                        let mut view = order.of_mut(view.view_mut());
                        if let Ok(from) = ArrayViewD::from_shape(view.raw_dim(), values) {
                            view.assign(&from);
                        }
                    })+
                }
            }
        }
    };
}

formats! {
    F32 f32;
    F16 half::f16;
    BF16 half::bf16;
}
