//! A training as `lion replay` knows it: the parameters that it began with and the gradients of each of its steps.

use lion::replay::{self, Recording};
use lion::tensor_file::{self, Entry};
use lion::{Builder, Dtype, TensorBuf, TensorRef};

/// A tensor of the recording, by the name that it has there.
struct Recorded {
    name: String,
    shape: Vec<usize>,
    values: TensorBuf,
}

/// What a framework's training is recorded in.
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
    /// Records a parameter as it is before the first step.
    pub fn parameter<'a>(&mut self, name: &str, shape: &[usize], values: impl Into<TensorRef<'a>>) {
        self.record(format!("param/{name}"), shape, values.into());
    }

    /// Records a gradient of a step, which is counted from 0.
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

    /// The parameters by name that a replay of the recording ends with.
    ///
    /// # Panics
    /// Where the recording cannot be written, read or replayed: a test has failed then.
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

/// A copy of its own.
///
/// # Panics
/// Where there is no memory.
pub fn owned(values: TensorRef<'_>) -> TensorBuf {
    let mut copy = TensorBuf::zeroed(values.dtype(), values.len()).expect("memory");
    assert!(copy.to_mut().copy_from(values), "the copy has the format of the original");
    copy
}

/// The format and the bits of the elements, as bytes.
pub fn bits(values: TensorRef<'_>) -> (Dtype, Vec<u8>) {
    let streams = (0..).map_while(|stream| values.as_bytes(stream));
    (values.dtype(), streams.flatten().copied().collect())
}
