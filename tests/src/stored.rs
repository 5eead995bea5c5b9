//! Tensors of any format between canaries, stored and read by the reference.

use half::{bf16, f16};
use lion_kernels::reference::{self, Float, Settings};
use lion_kernels::{Dtype, Error, LionStep, StepTensors, StochasticRounding, TensorMut, TensorRef};

use crate::{Guarded, settings};

/// A tensor of any format.
#[derive(Clone, Debug)]
pub struct Stored {
    dtype: Dtype,
    first: Stream,
    second: Option<Stream>,
}

#[derive(Clone, Debug)]
enum Stream {
    F32(Guarded<f32>),
    F16(Guarded<f16>),
    BF16(Guarded<bf16>),
    I16(Guarded<i16>),
    I8(Guarded<i8>),
}

/// Evaluates an expression with the guarded tensor of a stream.
macro_rules! with_stream {
    ($stream:expr, $tensor:ident => $body:expr) => {
        match $stream {
            Stream::F32($tensor) => $body,
            Stream::F16($tensor) => $body,
            Stream::BF16($tensor) => $body,
            Stream::I16($tensor) => $body,
            Stream::I8($tensor) => $body,
        }
    };
}

fn rounded<T: Float>(values: &[f32]) -> Vec<T> {
    values.iter().map(|&value| T::round(value)).collect()
}

impl Stored {
    /// Stores values in a format, at a distance in entries from a 64-byte boundary.
    pub fn new(dtype: Dtype, values: &[f32], misalignment: usize) -> Self {
        let one = |first| Stored { dtype, first, second: None };
        match dtype {
            Dtype::F32 => one(Stream::F32(Guarded::new(values, misalignment))),
            Dtype::F16 => one(Stream::F16(Guarded::new(&rounded(values), misalignment))),
            Dtype::BF16 => one(Stream::BF16(Guarded::new(&rounded(values), misalignment))),
            Dtype::Split => {
                let (high, low): (Vec<_>, Vec<_>) =
                    values.iter().map(|&value| reference::split(value)).unzip();
                let first = Stream::BF16(Guarded::new(&high, misalignment));
                Stored { dtype, first, second: Some(Stream::I16(Guarded::new(&low, misalignment + 5))) }
            }
            Dtype::Q8 => {
                let (codes, scales) = reference::q8_encode(values);
                let first = Stream::I8(Guarded::new(&codes, misalignment));
                Stored { dtype, first, second: Some(Stream::F32(Guarded::new(&scales, misalignment + 5))) }
            }
            other => panic!("no tensor of a step is {other}"),
        }
    }

    /// Borrows the tensor.
    pub fn tensor(&self) -> TensorRef<'_> {
        fn of(stream: &Stream) -> TensorRef<'_> {
            with_stream!(stream, tensor => TensorRef::from(tensor.tensor()))
        }
        match &self.second {
            None => of(&self.first),
            Some(second) => {
                TensorRef::from_streams(self.dtype, of(&self.first), of(second)).expect("its streams")
            }
        }
    }

    /// Borrows the tensor mutably.
    pub fn tensor_mut(&mut self) -> TensorMut<'_> {
        let first = with_stream!(&mut self.first, tensor => TensorMut::from(tensor.tensor_mut()));
        match &mut self.second {
            None => first,
            Some(second) => {
                let second = with_stream!(second, tensor => TensorMut::from(tensor.tensor_mut()));
                TensorMut::from_streams(self.dtype, first, second).expect("its streams")
            }
        }
    }

    /// Returns the values, decoded by the reference.
    pub fn values(&self) -> Vec<f32> {
        crate::widened(self.tensor())
    }

    /// Panics unless the tensor has the bits of another and all canaries are unchanged.
    #[track_caller]
    pub fn assert_same(&self, expected: &Self, what: &str) {
        let streams =
            |it: &Self| [Some(it.first.clone()), it.second.clone()].into_iter().flatten().collect::<Vec<_>>();
        for (index, (found, expected)) in streams(self).iter().zip(streams(expected)).enumerate() {
            let what = format!("{what}, stream {index}");
            match (found, &expected) {
                (Stream::F32(found), Stream::F32(expected)) => found.assert_holds(expected.tensor(), &what),
                (Stream::F16(found), Stream::F16(expected)) => found.assert_holds(expected.tensor(), &what),
                (Stream::BF16(found), Stream::BF16(expected)) => found.assert_holds(expected.tensor(), &what),
                (Stream::I16(found), Stream::I16(expected)) => found.assert_holds(expected.tensor(), &what),
                (Stream::I8(found), Stream::I8(expected)) => found.assert_holds(expected.tensor(), &what),
                _ => panic!("{what}: streams of two formats"),
            }
        }
    }
}

/// The settings of stochastic rounding in a step.
#[derive(Clone, Copy, Debug)]
#[allow(missing_docs)]
pub struct Draws {
    pub seed: u64,
    pub name: &'static str,
    pub call: u64,
    /// The index of the first element, a multiple of 4,096.
    pub first: u64,
}

/// A step on tensors of any formats, run by the kernels and by the reference.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct StoredCase {
    pub pass: Settings,
    /// The dtypes of parameter, gradient and momentum.
    pub dtypes: [Dtype; 3],
    pub copy: Option<Dtype>,
    pub draws: Option<Draws>,
    /// The values of parameter, gradient, momentum, accumulator and average, before they are stored.
    pub values: [Vec<f32>; 5],
    pub misalignment: [usize; 3],
}

impl StoredCase {
    /// Rounds a parameter as the step stores it.
    fn store(&self, values: &[f32], misalignment: usize) -> Stored {
        let Some(Draws { seed, name, call, first }) = self.draws else {
            return Stored::new(self.dtypes[0], values, misalignment);
        };
        let stochastic = |(index, value): (usize, &f32)| {
            reference::stochastic(*value, seed, name, call, first + index as u64)
        };
        let values: Vec<bf16> = values.iter().enumerate().map(stochastic).collect();
        let first = Stream::BF16(Guarded::new(&values, misalignment));
        Stored { dtype: Dtype::BF16, first, second: None }
    }

    /// Runs the step with the kernels and compares every tensor with the reference. `step` also receives the index of
    /// the first element.
    pub fn check(
        &self,
        in_place: bool,
        step: impl FnOnce(LionStep, StepTensors<'_>, u64) -> Result<(), Error>,
    ) {
        let Self { pass, dtypes: [of_p, of_g, of_m], copy, draws, values, misalignment } = self;
        let [at_p, at_g, at_m] = *misalignment;
        let what = |tensor: &str| {
            format!(
                "{tensor} of {of_p}/{of_g}/{of_m}, {} elements, {pass:?}, {draws:?}, copy {copy:?}",
                values[0].len()
            )
        };
        let source = Stored::new(*of_p, &values[0], at_p);
        let gradient = Stored::new(*of_g, &values[1], at_g);
        let mut momentum = Stored::new(*of_m, &values[2], at_m);
        let mut sums = Stored::new(Dtype::F32, &values[3], at_p);
        let mut average = Stored::new(Dtype::F32, &values[4], at_g);

        // The reference: the rule in f32, between loads and stores of the reference.
        let (mut p, g, mut m) = (source.values(), gradient.values(), momentum.values());
        let (mut expected_sums, mut expected_average) = (values[3].clone(), values[4].clone());
        let rule = Settings { ema_momentum: None, ..*pass };
        let given = pass.accumulation_steps.map(|_| &mut expected_sums[..]);
        rule.step(&mut p, &g, &mut m, given, None, None::<&mut [f32]>);
        let mut expected = self.store(&p, at_p);
        if pass.ema_momentum.is_some() {
            let mut stored = expected.values();
            pass.update_ema(&mut expected_average, &mut stored);
            if pass.ema_overwrite {
                expected = Stored::new(*of_p, &stored, at_p);
            }
        }
        let expected_momentum = Stored::new(*of_m, &m, at_m);

        let start = if in_place { values[0].clone() } else { vec![1.0; values[0].len()] };
        let mut parameter = Stored::new(*of_p, &start, at_p);
        let mut copied = Stored::new(copy.unwrap_or(Dtype::F32), &vec![0.0; values[0].len()], at_m);
        let untouched = copied.clone();
        let tensors = match in_place {
            true => StepTensors::in_place(parameter.tensor_mut(), gradient.tensor(), momentum.tensor_mut()),
            false => StepTensors::out_of_place(
                source.tensor(),
                parameter.tensor_mut(),
                gradient.tensor(),
                momentum.tensor_mut(),
            ),
        };
        let tensors =
            if pass.accumulation_steps.is_some() { tensors.accumulator(sums.tensor_mut()) } else { tensors };
        let tensors = if pass.ema_momentum.is_some() { tensors.ema(average.tensor_mut()) } else { tensors };
        let tensors = if copy.is_some() { tensors.copy(copied.tensor_mut()) } else { tensors };
        let mut settings = settings(pass).expect("valid");
        if let Some(Draws { seed, name, call, .. }) = *draws {
            settings = settings.stochastic_rounding(StochasticRounding::new(seed, name, call));
        }
        step(settings, tensors, draws.map_or(0, |draws| draws.first)).expect("a step that fits");

        parameter.assert_same(&expected, &what("parameter"));
        momentum.assert_same(&expected_momentum, &what("momentum"));
        sums.assert_same(&Stored::new(Dtype::F32, &expected_sums, at_p), &what("accumulator"));
        average.assert_same(&Stored::new(Dtype::F32, &expected_average, at_g), &what("EMA"));
        let expected_copy = copy.map(|dtype| Stored::new(dtype, &expected.values(), at_m));
        copied.assert_same(expected_copy.as_ref().unwrap_or(&untouched), &what("copy"));
    }
}
