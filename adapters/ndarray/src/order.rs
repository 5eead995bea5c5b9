//! The order of axes that a variable's state has in memory.

use std::cmp::Reverse;

use ndarray::{ArrayRef, ArrayViewD, ArrayViewMutD, Dimension, IxDyn};

/// The axes of an array from the slowest in memory to the fastest; row-major where it is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Order(Option<Vec<usize>>);

impl Order {
    /// That of an array.
    pub(crate) fn new<A, D: Dimension>(array: &ArrayRef<A, D>) -> Self {
        if array.is_standard_layout() {
            return Order(None);
        }
        let mut axes: Vec<usize> = (0..array.ndim()).collect();
        let stride = |&axis: &usize| array.strides().get(axis).map(|stride| stride.unsigned_abs());
        axes.sort_by_key(|axis| Reverse(stride(axis)));
        Order(if axes.is_sorted() { None } else { Some(axes) })
    }

    pub(crate) fn is_row_major(&self) -> bool {
        self.0.is_none()
    }

    /// Whether it is one of this many axes.
    pub(crate) fn has_axes(&self, axes: usize) -> bool {
        self.0.as_ref().is_none_or(|order| order.len() == axes)
    }

    /// The way back: from the axes of the memory to those of the array.
    pub(crate) fn inverse(&self) -> Self {
        Order(self.0.as_ref().map(|axes| {
            let mut inverse: Vec<usize> = (0..axes.len()).collect();
            inverse.sort_by_key(|&axis| axes.get(axis).copied());
            inverse
        }))
    }

    /// The axes of an array of this many, in this order.
    pub(crate) fn axes(&self, axes: usize) -> Vec<usize> {
        self.0.clone().unwrap_or_else(|| (0..axes).collect())
    }

    /// An array's extents in the order of the memory.
    pub(crate) fn of_shape(&self, shape: &[usize]) -> Vec<usize> {
        match &self.0 {
            None => shape.into(),
            Some(axes) => axes.iter().filter_map(|&axis| shape.get(axis).copied()).collect(),
        }
    }

    /// Whether the array has these extents in the order of the memory.
    pub(crate) fn has_shape(&self, array: &[usize], memory: &[usize]) -> bool {
        match &self.0 {
            None => array == memory,
            Some(axes) => {
                self.has_axes(array.len())
                    && axes.iter().map(|&axis| array.get(axis)).eq(memory.iter().map(Some))
            }
        }
    }

    /// Whether an array's elements lie in this order without a gap.
    pub(crate) fn is_of<A>(&self, view: &ArrayViewMutD<'_, A>) -> bool {
        if self.is_row_major() {
            view.is_standard_layout()
        } else {
            self.of(view.view()).is_standard_layout()
        }
    }

    /// An array's elements as they lie in memory, where that is this order without a gap.
    pub(crate) fn slice<'a, A>(&self, view: &'a ArrayViewD<'_, A>) -> Option<&'a [A]> {
        if self.is_row_major() { view.as_slice() } else { self.of(view.view()).to_slice() }
    }

    /// As [`slice`](Self::slice).
    pub(crate) fn slice_mut<'a, A>(&self, view: &'a mut ArrayViewMutD<'_, A>) -> Option<&'a mut [A]> {
        if self.is_row_major() { view.as_slice_mut() } else { self.of_mut(view.view_mut()).into_slice() }
    }

    /// An array with its axes in the order of the memory. It has as many as the variable.
    pub(crate) fn of<'a, A>(&self, view: ArrayViewD<'a, A>) -> ArrayViewD<'a, A> {
        match &self.0 {
            None => view,
            Some(axes) => view.permuted_axes(IxDyn(axes)),
        }
    }

    /// As [`of`](Self::of).
    pub(crate) fn of_mut<'a, A>(&self, view: ArrayViewMutD<'a, A>) -> ArrayViewMutD<'a, A> {
        match &self.0 {
            None => view,
            Some(axes) => view.permuted_axes(IxDyn(axes)),
        }
    }
}
