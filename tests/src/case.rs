//! Test cases of f32, f16 and bf16 passes: each runs with the kernels and with the reference.

use lion_kernels::reference::Settings;
use lion_kernels::{
    Clip, Dtype, Ema, Error, GradientStatistics, GradientTransform, LionStep, StepTensors, TensorMut,
    TensorRef,
};

use crate::{Guarded, Rng, Sample, values, with_sample};

/// The settings of a step with Keras's defaults and no options.
pub const PLAIN: Settings = Settings {
    learning_rate: 1e-3,
    beta_1: 0.9,
    beta_2: 0.99,
    weight_decay: None,
    decay_rate: None,
    masked_decay: false,
    maximize: false,
    loss_scale: None,
    accumulation_steps: None,
    clip_value: None,
    clip_norm: None,
    global_clip_norm: None,
    ema_momentum: None,
    ema_overwrite: false,
};

/// Settings and tensors of a test case. Each check runs one pass with a given function of the kernels, on tensors
/// between canaries, and compares every tensor with the reference, bit for bit.
#[derive(Debug)]
#[allow(missing_docs)]
pub struct Case<P, G, M> {
    pub pass: Settings,
    pub copy: Option<Dtype>,
    pub parameter: Vec<P>,
    pub gradient: Vec<G>,
    pub momentum: Vec<M>,
    pub accumulator: Vec<f32>,
    pub average: Vec<f32>,
    /// The distance in elements from a 64-byte boundary to the start of parameter, gradient and momentum.
    pub misalignment: [usize; 3],
}

type Done = Result<(), Error>;

impl<P: Sample, G: Sample, M: Sample> Case<P, G, M> {
    /// Creates tensors of random values of every class.
    pub fn new(rng: &mut Rng, pass: Settings, copy: Option<Dtype>, len: usize) -> Self {
        Case {
            pass,
            copy,
            parameter: values(rng, len),
            gradient: values(rng, len),
            momentum: values(rng, len),
            accumulator: values(rng, len),
            average: values(rng, len),
            misalignment: [rng.usize(..64), rng.usize(..64), rng.usize(..64)],
        }
    }

    fn what(&self, tensor: &str) -> String {
        format!(
            "{tensor} of {}/{}/{} {:?} copy {:?}, misaligned by {:?}",
            P::DTYPE,
            G::DTYPE,
            M::DTYPE,
            self.pass,
            self.copy,
            self.misalignment
        )
    }

    /// Checks a step, in place or out of place.
    pub fn check_step(&self, in_place: bool, step: impl FnOnce(LionStep, StepTensors<'_>) -> Done) {
        with_sample!(self.copy.unwrap_or(Dtype::F32), C => self.check_step_with::<C>(in_place, step))
    }

    fn check_step_with<C: Sample>(
        &self,
        in_place: bool,
        step: impl FnOnce(LionStep, StepTensors<'_>) -> Done,
    ) {
        let zeros = vec![C::default(); self.parameter.len()];
        let (mut p, mut m) = (self.parameter.clone(), self.momentum.clone());
        let (mut sums, mut averages, mut copies) =
            (self.accumulator.clone(), self.average.clone(), zeros.clone());
        self.pass.step(
            &mut p,
            &self.gradient,
            &mut m,
            self.pass.accumulation_steps.map(|_| &mut sums[..]),
            self.pass.ema_momentum.map(|_| &mut averages[..]),
            self.copy.map(|_| &mut copies[..]),
        );

        let [at_p, at_g, at_m] = self.misalignment;
        let source = Guarded::new(&self.parameter, at_p);
        let mut parameter = Guarded::new(
            &if in_place { self.parameter.clone() } else { values(&mut Rng::with_seed(1), p.len()) },
            at_p + 3,
        );
        let gradient = Guarded::new(&self.gradient, at_g);
        let mut momentum = Guarded::new(&self.momentum, at_m);
        let mut accumulator = Guarded::new(&self.accumulator, at_p);
        let mut average = Guarded::new(&self.average, at_g);
        let mut copy = Guarded::new(&zeros, at_m);
        let mut tensors = if in_place {
            StepTensors::in_place(
                TensorMut::from(parameter.tensor_mut()),
                TensorRef::from(gradient.tensor()),
                TensorMut::from(momentum.tensor_mut()),
            )
        } else {
            StepTensors::out_of_place(
                TensorRef::from(source.tensor()),
                TensorMut::from(parameter.tensor_mut()),
                TensorRef::from(gradient.tensor()),
                TensorMut::from(momentum.tensor_mut()),
            )
        };
        if self.pass.accumulation_steps.is_some() {
            tensors = tensors.accumulator(accumulator.tensor_mut());
        }
        if self.pass.ema_momentum.is_some() {
            tensors = tensors.ema(average.tensor_mut());
        }
        if self.copy.is_some() {
            tensors = tensors.copy(copy.tensor_mut());
        }
        step(settings(&self.pass).expect("valid"), tensors).expect("a step of equal lengths");

        parameter.assert_holds(&p, &self.what("parameter"));
        momentum.assert_holds(&m, &self.what("momentum"));
        accumulator.assert_holds(&sums, &self.what("accumulator"));
        average.assert_holds(&averages, &self.what("EMA"));
        copy.assert_holds(&copies, &self.what("copy"));
        source.assert_holds(&self.parameter, &self.what("source"));
        gradient.assert_holds(&self.gradient, &self.what("gradient"));
    }

    /// Checks accumulation of the gradient.
    pub fn check_accumulate(
        &self,
        accumulate: impl FnOnce(&GradientTransform, &mut [f32], TensorRef<'_>) -> Done,
    ) {
        let mut expected = self.accumulator.clone();
        self.pass.accumulate(&mut expected, &self.gradient);

        let [at_p, at_g, _] = self.misalignment;
        let mut accumulator = Guarded::new(&self.accumulator, at_p);
        let gradient = Guarded::new(&self.gradient, at_g);
        let settings = gradient_settings(&self.pass).expect("valid");
        accumulate(&settings, accumulator.tensor_mut(), TensorRef::from(gradient.tensor()))
            .expect("equal lengths");
        accumulator.assert_holds(&expected, &self.what("accumulator alone"));
        gradient.assert_holds(&self.gradient, &self.what("gradient accumulated"));
    }

    /// Checks the update of the parameter's moving average.
    pub fn check_average(&self, average: impl FnOnce(&Ema, &mut [f32], TensorMut<'_>) -> Done) {
        let Some(momentum) = self.pass.ema_momentum else { return };
        let (mut expected, mut moved) = (self.average.clone(), self.parameter.clone());
        self.pass.update_ema(&mut expected, &mut moved);

        let [at_p, at_g, _] = self.misalignment;
        let mut averages = Guarded::new(&self.average, at_g);
        let mut parameter = Guarded::new(&self.parameter, at_p);
        let ema = Ema::new(momentum).expect("valid").overwrite(self.pass.ema_overwrite);
        average(&ema, averages.tensor_mut(), TensorMut::from(parameter.tensor_mut())).expect("equal lengths");
        averages.assert_holds(&expected, &self.what("EMA alone"));
        parameter.assert_holds(&moved, &self.what("parameter averaged"));
    }

    /// Checks the conversion of the parameter to the momentum's format.
    pub fn check_convert(&self, convert: impl FnOnce(TensorRef<'_>, TensorMut<'_>) -> Done) {
        let expected: Vec<M> = self.parameter.iter().map(|value| M::round(value.widen())).collect();

        let [at_p, _, at_m] = self.misalignment;
        let source = Guarded::new(&self.parameter, at_p);
        let mut target = Guarded::new(&self.momentum, at_m);
        convert(TensorRef::from(source.tensor()), TensorMut::from(target.tensor_mut()))
            .expect("equal lengths");
        target.assert_holds(&expected, &self.what("converted"));
        source.assert_holds(&self.parameter, &self.what("source of a conversion"));
    }

    /// Checks the statistics of the whole gradient.
    pub fn check_statistics(
        &self,
        statistics: impl FnOnce(
            &GradientTransform,
            TensorRef<'_>,
            Option<&[f32]>,
        ) -> Result<GradientStatistics, Error>,
    ) {
        let [at_p, at_g, _] = self.misalignment;
        let gradient = Guarded::new(&self.gradient, at_g);
        let accumulator = Guarded::new(&self.accumulator, at_p);
        let sums = self.pass.accumulation_steps.map(|_| accumulator.tensor());
        let settings = gradient_settings(&self.pass).expect("valid");
        let found = statistics(&settings, TensorRef::from(gradient.tensor()), sums).expect("equal lengths");
        let (squares, non_finite, largest) = self.pass.statistics(&self.gradient, sums);
        let of = |sum: f64| if sum.is_nan() { f64::NAN.to_bits() } else { sum.to_bits() };
        let what = self.what("statistics");
        assert_eq!(of(found.sum_of_squares), of(squares), "{what}: sum of squares");
        assert_eq!(found.non_finite, non_finite, "{what}: not finite");
        assert_eq!(found.max_abs.to_bits(), largest.to_bits(), "{what}: largest");
    }
}

/// Converts settings of the reference to settings of the kernels.
///
/// # Errors
/// If the kernels reject a number.
pub fn settings(pass: &Settings) -> Result<LionStep, Error> {
    let mut step = LionStep::new(pass.learning_rate, pass.beta_1, pass.beta_2)?;
    if let Some(weight_decay) = pass.weight_decay {
        step = step.weight_decay(weight_decay)?;
    }
    if let Some(momentum) = pass.ema_momentum {
        step = step.ema(Ema::new(momentum)?.overwrite(pass.ema_overwrite));
    }
    if let Some(rate) = pass.decay_rate {
        step = step.decay_rate(rate)?;
    }
    let step = step.masked_decay(pass.masked_decay).maximize(pass.maximize);
    Ok(step.gradient(gradient_settings(pass)?))
}

fn gradient_settings(pass: &Settings) -> Result<GradientTransform, Error> {
    let mut gradient = GradientTransform::new();
    if let Some(divisor) = pass.loss_scale {
        gradient = gradient.loss_scale(divisor)?;
    }
    if let Some(steps) = pass.accumulation_steps {
        gradient = gradient.average_over(steps)?;
    }
    if let Some(limit) = pass.clip_value {
        gradient = gradient.clip(Clip::Value(limit))?;
    }
    if let Some((limit, norm)) = pass.clip_norm {
        gradient = gradient.clip(Clip::Norm { limit, norm })?;
    }
    if let Some((limit, norm)) = pass.global_clip_norm {
        gradient = gradient.clip(Clip::global_norm(limit, norm))?;
    }
    Ok(gradient)
}
