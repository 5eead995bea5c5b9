//! The formats of arrays: from element types to the optimizer's slices.

use lion::{Dtype, TensorBuf, TensorMut, TensorRef};
use ndarray::{ArrayViewD, ArrayViewMutD};

use crate::order::Order;

mod sealed {
    pub trait Sealed {}
}

/// An element type of arrays that the optimizer moves: f32, [`f16`](half::f16) and [`bf16`](half::bf16).
pub trait Format: sealed::Sealed + Copy {
    /// The format.
    const DTYPE: Dtype;
    #[doc(hidden)]
    fn view(view: ArrayViewD<'_, Self>) -> View<'_>;
    #[doc(hidden)]
    fn view_mut(view: ArrayViewMutD<'_, Self>) -> ViewMut<'_>;
}

macro_rules! formats {
    ($($variant:ident $type:ty;)+) => {
        /// An array of any format, for reading.
        #[derive(Debug)]
        pub enum View<'a> {
            $(#[doc(hidden)] $variant(ArrayViewD<'a, $type>),)+
        }

        /// An array of any format, for writing.
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

            /// The elements as they lie in memory, where that is the order of a variable without a gap.
            pub(crate) fn slice(&self, order: &Order) -> Option<TensorRef<'_>> {
                match self { $(View::$variant(view) => order.slice(view).map(TensorRef::from),)+ }
            }

            /// Copies the elements in the order of a variable. `values` has the format and as many elements.
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

            /// Whether the elements lie in memory as those of a variable, without a gap.
            pub(crate) fn lies_in(&self, order: &Order) -> bool {
                match self { $(ViewMut::$variant(view) => order.is_of(view),)+ }
            }

            pub(crate) fn view(&self) -> View<'_> {
                match self { $(ViewMut::$variant(view) => View::$variant(view.view()),)+ }
            }

            /// As [`View::slice`].
            pub(crate) fn slice_mut(&mut self, order: &Order) -> Option<TensorMut<'_>> {
                match self { $(ViewMut::$variant(view) => order.slice_mut(view).map(TensorMut::from),)+ }
            }

            /// Takes the elements back that [`View::gather`] copied.
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
