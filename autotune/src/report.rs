//! Reports of measurements: an HTML page with figures, and Markdown tables.
//!
//! The page is one self-contained HTML file without scripts. Its figures are SVG. Its colours follow the reader's light or
//! dark mode. Every text from a file is escaped.

mod chart;
mod doctor;
mod heatmap;
mod page;
mod table;

pub use doctor::doctor;
pub use page::html;
pub use table::{nanoseconds, plans, regrets};
