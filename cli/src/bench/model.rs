//! The tensors of a benchmark: one, many of the same length, or those of a network.

use std::fmt;

/// Tensor lengths, with a name for the table.
#[derive(Clone, Debug)]
pub(crate) struct Tensors {
    name: String,
    lengths: Vec<usize>,
}

impl Tensors {
    pub(super) fn one(len: usize) -> Self {
        Tensors { name: rounded(len), lengths: vec![len] }
    }

    pub(super) fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    pub(super) fn elements(&self) -> usize {
        self.lengths.iter().sum()
    }
}

impl fmt::Display for Tensors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// Writes a length with the unit K or M if that is exact, such as `16 K`.
fn rounded(len: usize) -> String {
    match len {
        _ if len.is_multiple_of(1 << 20) => format!("{} M", len >> 20),
        _ if len.is_multiple_of(1 << 10) => format!("{} K", len >> 10),
        _ => len.to_string(),
    }
}

/// Parses `2000x4096` or `2000×4096`.
pub(super) fn many(text: &str) -> Result<Tensors, String> {
    const RANGE: &str =
        "expected a number of tensors and their length, such as 2000x4096, at most 4096M elements";
    let numbers = text.split_once(['x', '×']).map(|(count, len)| (count.parse::<usize>(), super::size(len)));
    match numbers {
        Some((Ok(count @ 1..=1_000_000), Ok(len))) if count.saturating_mul(len) <= 4096 << 20 => {
            Ok(Tensors { name: format!("{count} × {len}"), lengths: vec![len; count] })
        }
        _ => Err(RANGE.into()),
    }
}

/// A network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Model {
    /// GPT-2 small: 148 tensors, 124,439,808 elements
    Gpt2,
    /// ResNet-50: 161 tensors, 25,557,032 elements
    Resnet50,
}

impl Model {
    pub(super) fn tensors(self) -> Tensors {
        match self {
            Model::Gpt2 => Tensors { name: "gpt2".into(), lengths: gpt2() },
            Model::Resnet50 => Tensors { name: "resnet50".into(), lengths: resnet50() },
        }
    }
}

/// Token and position embeddings, twelve blocks, a last normalisation. The output layer shares the token embedding.
fn gpt2() -> Vec<usize> {
    const WIDTH: usize = 768;
    let dense = |from: usize, to: usize| [from * to, to];
    let norm = [WIDTH; 2];
    let block = [
        norm,
        dense(WIDTH, 3 * WIDTH),
        dense(WIDTH, WIDTH),
        norm,
        dense(WIDTH, 4 * WIDTH),
        dense(4 * WIDTH, WIDTH),
    ];
    let mut lengths = vec![50_257 * WIDTH, 1024 * WIDTH];
    for _ in 0..12 {
        lengths.extend(block.as_flattened());
    }
    lengths.extend(norm);
    lengths
}

/// Convolutions without bias, each followed by a normalisation's scale and offset, and a dense layer. There are four stages
/// of bottlenecks; the first bottleneck of each stage has a projection.
fn resnet50() -> Vec<usize> {
    let mut lengths = Vec::new();
    let mut convolution =
        |side: usize, from: usize, to: usize| lengths.extend([side * side * from * to, to, to]);
    convolution(7, 3, 64);
    let mut from = 64;
    for (width, blocks) in [(64, 3), (128, 4), (256, 6), (512, 3)] {
        let to = 4 * width;
        for block in 0..blocks {
            convolution(1, from, width);
            convolution(3, width, width);
            convolution(1, width, to);
            if block == 0 {
                convolution(1, from, to);
            }
            from = to;
        }
    }
    lengths.extend([2048 * 1000, 1000]);
    lengths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_have_their_published_sizes() {
        let size = |model: Model| (model.tensors().lengths().len(), model.tensors().elements());
        assert_eq!(size(Model::Gpt2), (148, 124_439_808));
        assert_eq!(size(Model::Resnet50), (161, 25_557_032));
    }
}
