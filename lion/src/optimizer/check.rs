//! Checks the updates of a step before anything is written.

use super::Lion;
use crate::{Error, Update};

/// Whether the updates are a whole step, or one part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Completeness {
    /// A whole step, in which the moving average needs every variable.
    Whole,
    /// A part of a step.
    Part,
}

/// A position in the sequence of all elements of all variables.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Position {
    variable: usize,
    element: usize,
}

impl Lion {
    /// Checks the updates, which are sorted by variable and element.
    pub(super) fn check(&mut self, updates: &[Update<'_>], completeness: Completeness) -> Result<(), Error> {
        let mut next = Position::default();
        for update in updates.iter() {
            let (index, registered) = (update.variable.0, self.variables.len());
            let Some(variable) = self.variables.get(index) else {
                return Err(Error::UnknownVariable { index, registered });
            };
            update.check(variable)?;
            let elements = update.elements();
            if index < next.variable {
                return Err(Error::RepeatedVariable { name: variable.name.clone() });
            }
            if index == next.variable && elements.start < next.element {
                let given = elements.start..next.element;
                return Err(Error::RepeatedElements { name: variable.name.clone(), range: elements, given });
            }
            self.scratch.constraint.reserve(variable, elements.len())?;
            let place = Position { variable: index, element: elements.start };
            if place != next && completeness == Completeness::Whole {
                self.require_unaveraged(next, place)?;
            }
            next = match update.range {
                None => Position { variable: index + 1, element: 0 },
                Some(_) => Position { variable: index, element: elements.end },
            };
        }
        let end = Position { variable: self.variables.len(), element: 0 };
        match completeness {
            Completeness::Whole if next != end => self.require_unaveraged(next, end),
            _ => Ok(()),
        }
    }

    /// Returns an error if a variable with a moving average has elements between two positions, which the step leaves out.
    fn require_unaveraged(&self, from: Position, to: Position) -> Result<(), Error> {
        if self.ema.is_none() || from.variable >= self.variables.len() {
            return Ok(());
        }
        let last = to.variable.min(self.variables.len() - 1);
        for (index, variable) in self.variables.iter().enumerate().take(last + 1).skip(from.variable) {
            let begun = if index == from.variable { from.element } else { 0 };
            let start = begun.max(variable.held.start);
            let end = if index == to.variable { to.element } else { variable.held.end };
            if variable.averaged && start < end {
                return Err(variable.missing(start..end));
            }
        }
        Ok(())
    }
}
