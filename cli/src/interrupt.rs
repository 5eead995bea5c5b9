//! Handles Ctrl-C: a measurement stops after the current case, so that its results are shown or kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::print_error;

/// Remembers whether the user has asked the command to stop.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. If the handler cannot be installed, Ctrl-C ends the process at once: that is a warning, not a
    /// reason not to measure.
    pub(crate) fn listen() -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        if let Err(error) = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)) {
            print_error(&format!("warning: Ctrl-C ends the measurement at once: {error}"));
        }
        Interrupt(asked)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
