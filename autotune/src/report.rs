//! What was measured, for people: a page of its own with pictures, and tables in Markdown.
//!
//! The page is one HTML file without a script and without anything from elsewhere; its pictures are SVG, its colours
//! follow the reader's choice of light or dark. Every text that comes from a file is escaped.

mod chart;
mod doctor;
mod heat;
mod page;
mod table;

pub use doctor::doctor;
pub use page::html;
pub use table::{nanoseconds, plans, regrets};

pub use crate::text::{bytes, known, known_bytes};
