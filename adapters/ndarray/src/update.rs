//! `Update`: one variable's arrays, passed to `apply`.

use lion::VariableId;
use ndarray::{ArrayRef, Dimension};

use crate::format::{Format, View, ViewMut};

/// A variable's arrays in one step: the parameter, which the step updates, and its gradient, of any dtype and layout.
#[derive(Debug)]
#[must_use]
pub struct Update<'a> {
    pub(crate) variable: VariableId,
    pub(crate) parameter: ViewMut<'a>,
    pub(crate) gradient: Option<View<'a>>,
}

impl<'a> Update<'a> {
    /// Updates `parameter`, an array or a view, in place.
    pub fn new<P: Format, G: Format, D: Dimension, E: Dimension>(
        variable: VariableId,
        parameter: &'a mut ArrayRef<P, D>,
        gradient: &'a ArrayRef<G, E>,
    ) -> Self {
        let gradient = Some(G::view(gradient.view().into_dyn()));
        Update { gradient, ..Self::without_gradient(variable, parameter) }
    }

    /// Names a variable without a gradient in this step. Only its moving average is updated.
    pub fn without_gradient<P: Format, D: Dimension>(
        variable: VariableId,
        parameter: &'a mut ArrayRef<P, D>,
    ) -> Self {
        Update { variable, parameter: P::view_mut(parameter.view_mut().into_dyn()), gradient: None }
    }
}
