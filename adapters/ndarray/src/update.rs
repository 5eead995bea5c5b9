//! How a call hands over the arrays of a variable.

use lion::VariableId;
use ndarray::{ArrayRef, Dimension};

use crate::format::{Format, View, ViewMut};

/// A variable's arrays in one call: the parameter, which the call moves, and its gradient, of any format and layout.
#[derive(Debug)]
#[must_use]
pub struct Update<'a> {
    pub(crate) variable: VariableId,
    pub(crate) parameter: ViewMut<'a>,
    pub(crate) gradient: Option<View<'a>>,
}

impl<'a> Update<'a> {
    /// Moves `parameter`, an array or a view.
    pub fn new<P: Format, G: Format, D: Dimension, E: Dimension>(
        variable: VariableId,
        parameter: &'a mut ArrayRef<P, D>,
        gradient: &'a ArrayRef<G, E>,
    ) -> Self {
        let gradient = Some(G::view(gradient.view().into_dyn()));
        Update { gradient, ..Self::without_gradient(variable, parameter) }
    }

    /// A variable that has no gradient in this call. Nothing is done to it, but that it takes part in the moving
    /// average.
    pub fn without_gradient<P: Format, D: Dimension>(
        variable: VariableId,
        parameter: &'a mut ArrayRef<P, D>,
    ) -> Self {
        Update { variable, parameter: P::view_mut(parameter.view_mut().into_dyn()), gradient: None }
    }
}
