//! Ctrl-C ends a measurement after the case that is being measured, so that what it has found is shown or kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::failure::say;

/// Whether the user has asked the command to stop.
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. Without a listener Ctrl-C ends the process at once: that is a warning, and no reason not to
    /// measure.
    pub(crate) fn listen() -> Self {
        let asked = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&asked);
        if let Err(error) = ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)) {
            say(&format!("warning: Ctrl-C ends the measurement at once: {error}"));
        }
        Interrupt(asked)
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
