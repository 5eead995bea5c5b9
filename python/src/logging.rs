//! The core's warnings, in Python's logger `lion_cpu`.

use log::{LevelFilter, Log, Metadata, Record};
use pyo3::prelude::*;

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::Level::Info
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let method = match record.level() {
            log::Level::Error => "error",
            log::Level::Warn => "warning",
            _ => "info",
        };
        // Nobody to tell where the interpreter is shutting down, and an error in a handler is the handler's.
        let _ = Python::try_attach(|py| {
            let logger = py.import("logging")?.call_method1("getLogger", ("lion_cpu",))?;
            logger.call_method1(method, ("%s", record.args().to_string())).map(drop)
        });
    }

    fn flush(&self) {}
}

/// Sends warnings to Python, unless something else in the process has them already.
pub(crate) fn start() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
    }
}
