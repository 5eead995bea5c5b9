//! The data: real handwritten digits. A fixed fifth is held out for the test.

/// Pixels of an image, 8 rows of 8.
pub(crate) const PIXELS: usize = 64;
/// The digits 0 to 9.
pub(crate) const CLASSES: usize = 10;

/// A line is an image and its label. README.md in this folder names the source.
const TABLE: &str = include_str!("digits.csv");
/// The value of a black pixel.
const INK: u8 = 16;

/// An image and its label.
pub(crate) struct Digit {
    /// From 0 (paper) to 1 (ink).
    pub(crate) pixels: [f32; PIXELS],
    pub(crate) label: usize,
}

pub(crate) struct Digits {
    pub(crate) training: Vec<Digit>,
    /// Every fifth image, which training does not use.
    pub(crate) held_out: Vec<Digit>,
}

impl Digits {
    pub(crate) fn load() -> Result<Self, String> {
        let mut digits = Digits { training: Vec::new(), held_out: Vec::new() };
        for (number, line) in (1..).zip(TABLE.lines()) {
            let digit =
                parse(line).ok_or_else(|| format!("digits.csv, line {number}: not a digit: {line}"))?;
            let part = if number % 5 == 0 { &mut digits.held_out } else { &mut digits.training };
            part.push(digit);
        }
        Ok(digits)
    }
}

fn parse(line: &str) -> Option<Digit> {
    let (image, label) = line.rsplit_once(',')?;
    let mut pixels = [0.0; PIXELS];
    let mut values = image.split(',');
    for pixel in &mut pixels {
        let value: u8 = values.next()?.parse().ok()?;
        *pixel = f32::from(value) / f32::from(INK);
    }
    let label = label.parse().ok()?;
    (values.next().is_none() && label < CLASSES).then_some(Digit { pixels, label })
}
