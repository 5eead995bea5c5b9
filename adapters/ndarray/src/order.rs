//! The order of axes of a variable's state in memory.

use std::cmp::Reverse;

use ndarray::{ArrayRef, ArrayViewD, ArrayViewMutD, Dimension, IxDyn};

/// The axes of an array from the slowest in memory to the fastest. `None` means row-major.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Order(Option<Vec<usize>>);

impl Order {
    /// Returns the order of an array.
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

    /// Returns whether the order fits an array with this many axes.
    pub(crate) fn has_axes(&self, axes: usize) -> bool {
        self.0.as_ref().is_none_or(|order| order.len() == axes)
    }

    /// Returns the inverse: from the axes of the memory to those of the array.
    pub(crate) fn inverse(&self) -> Self {
        Order(self.0.as_ref().map(|axes| {
            let mut inverse: Vec<usize> = (0..axes.len()).collect();
            inverse.sort_by_key(|&axis| axes.get(axis).copied());
            inverse
        }))
    }

    /// Returns the axes of an array with this many axes, in this order.
    pub(crate) fn axes(&self, axes: usize) -> Vec<usize> {
        self.0.clone().unwrap_or_else(|| (0..axes).collect())
    }

    /// Returns an array's shape in memory order.
    pub(crate) fn of_shape(&self, shape: &[usize]) -> Vec<usize> {
        match &self.0 {
            None => shape.into(),
            Some(axes) => axes.iter().filter_map(|&axis| shape.get(axis).copied()).collect(),
        }
    }

    /// Returns whether the array has this shape in memory order.
    pub(crate) fn has_shape(&self, array: &[usize], memory: &[usize]) -> bool {
        match &self.0 {
            None => array == memory,
            Some(axes) => {
                self.has_axes(array.len())
                    && axes.iter().map(|&axis| array.get(axis)).eq(memory.iter().map(Some))
            }
        }
    }

    /// Returns whether an array's elements are in this order in memory, without gaps.
    pub(crate) fn is_of<A>(&self, view: &ArrayViewMutD<'_, A>) -> bool {
        if self.is_row_major() {
            view.is_standard_layout()
        } else {
            self.of(view.view()).is_standard_layout()
        }
    }

    /// Returns an array's elements as a slice in memory order, if they are in this order without gaps.
    pub(crate) fn slice<'a, A>(&self, view: &'a ArrayViewD<'_, A>) -> Option<&'a [A]> {
        if self.is_row_major() { view.as_slice() } else { self.of(view.view()).to_slice() }
    }

    /// As [`slice`](Self::slice), but mutable.
    pub(crate) fn slice_mut<'a, A>(&self, view: &'a mut ArrayViewMutD<'_, A>) -> Option<&'a mut [A]> {
        if self.is_row_major() { view.as_slice_mut() } else { self.of_mut(view.view_mut()).into_slice() }
    }

    /// Returns an array with its axes in memory order. Requires as many axes as the variable has.
    pub(crate) fn of<'a, A>(&self, view: ArrayViewD<'a, A>) -> ArrayViewD<'a, A> {
        match &self.0 {
            None => view,
            Some(axes) => view.permuted_axes(IxDyn(axes)),
        }
    }

    /// As [`of`](Self::of), but mutable.
    pub(crate) fn of_mut<'a, A>(&self, view: ArrayViewMutD<'a, A>) -> ArrayViewMutD<'a, A> {
        match &self.0 {
            None => view,
            Some(axes) => view.permuted_axes(IxDyn(axes)),
        }
    }
}
