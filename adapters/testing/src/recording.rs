//! Recordings of a training for `lion replay`: the initial parameters, and the gradients of every step.

use lion::replay::{self, Recording};
use lion::tensor_file::{self, Entry};
use lion::{Builder, Dtype, TensorBuf, TensorRef};

/// A tensor, under its name in the recording.
struct Recorded {
    name: String,
    shape: Vec<usize>,
    values: TensorBuf,
}

/// Records a framework's training.
#[derive(Default)]
pub struct Recorder {
    tensors: Vec<Recorded>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.tensors.iter().map(|tensor| &tensor.name)).finish()
    }
}

impl Recorder {
    /// Records a parameter before the first step.
    pub fn parameter<'a>(&mut self, name: &str, shape: &[usize], values: impl Into<TensorRef<'a>>) {
        self.record(format!("param/{name}"), shape, values.into());
    }

    /// Records a gradient of a step. Steps count from 0.
    pub fn gradient<'a>(
        &mut self,
        step: usize,
        name: &str,
        shape: &[usize],
        values: impl Into<TensorRef<'a>>,
    ) {
        self.record(format!("grad/{step}/{name}"), shape, values.into());
    }

    fn record(&mut self, name: String, shape: &[usize], values: TensorRef<'_>) {
        self.tensors.push(Recorded { name, shape: shape.into(), values: owned(values) });
    }

    /// Replays the recording, and returns the final parameters with their names.
    ///
    /// # Panics
    /// If the recording cannot be written, read or replayed, which fails the test.
    pub fn replay(&self, builder: Builder) -> Vec<(String, TensorBuf)> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("run.safetensors");
        let tensors = self.tensors.iter();
        let entries: Vec<_> = tensors
            .map(|Recorded { name, shape, values }| Entry { name, shape, values: values.to_ref() })
            .collect();
        tensor_file::write(&path, &entries, &[]).expect("written");

        let recording = Recording::open(&path).expect("a recorded run");
        let mut optimizer = builder.build().expect("valid options");
        let ids = replay::register(&recording, &mut optimizer).expect("registered");
        let mut parameters = recording.parameters().expect("read");
        replay::run(&recording, &mut optimizer, &ids, &mut parameters, |_| {}).expect("replayed");
        let names = recording.variables().map(|(name, ..)| name.to_owned());
        names.zip(parameters).collect()
    }
}

/// Returns an owned copy.
///
/// # Panics
/// If the allocation fails.
pub fn owned(values: TensorRef<'_>) -> TensorBuf {
    let mut copy = TensorBuf::zeroed(values.dtype(), values.len()).expect("memory");
    assert!(copy.to_mut().copy_from(values), "the copy has the format of the original");
    copy
}

/// Returns the dtype, and the bits of the elements as bytes.
pub fn bits(values: TensorRef<'_>) -> (Dtype, Vec<u8>) {
    let streams = (0..).map_while(|stream| values.as_bytes(stream));
    (values.dtype(), streams.flatten().copied().collect())
}
