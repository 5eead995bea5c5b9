//! The example's output: lines on standard output, and a progress bar on standard error.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};

use indicatif::{ProgressBar, ProgressStyle};

use crate::data::Digit;

/// Pixels in a row of an image.
const SIDE: usize = 8;

pub(crate) struct Console {
    bar: ProgressBar,
}

impl Console {
    /// Creates the output. The bar is hidden if standard error is not a terminal.
    pub(crate) fn new(steps: usize) -> Result<Self, Box<dyn Error>> {
        let style =
            ProgressStyle::with_template("  {bar:40} {percent:>3} %  {msg}")?.progress_chars("█▉▊▋▌▍▎▏ ");
        Ok(Console { bar: ProgressBar::new(steps as u64).with_style(style) })
    }

    /// Writes a line above the bar.
    pub(crate) fn line(&self, text: impl Display) -> io::Result<()> {
        self.bar.suspend(|| writeln!(io::stdout(), "{text}"))
    }

    /// Sets the label of the next steps.
    pub(crate) fn begin(&self, what: String) {
        self.bar.set_message(what);
    }

    pub(crate) fn advance(&self) {
        self.bar.inc(1);
    }

    pub(crate) fn finish(&self) {
        self.bar.finish_and_clear();
    }

    /// Draws images beside each other.
    pub(crate) fn draw(&self, digits: &[Digit]) -> io::Result<()> {
        self.line("")?;
        for y in 0..SIDE {
            let rows: Vec<_> = digits.iter().map(|digit| row(&digit.pixels[y * SIDE..][..SIDE])).collect();
            self.line(format_args!("  {}", rows.join("  ").trim_end()))?;
        }
        Ok(())
    }
}

/// A row of pixels in two characters each, which together are about square.
fn row(pixels: &[f32]) -> String {
    let shade = |&ink: &f32| match ink {
        ..0.2 => "  ",
        ..0.4 => "░░",
        ..0.6 => "▒▒",
        ..0.8 => "▓▓",
        _ => "██",
    };
    pixels.iter().map(shade).collect()
}
