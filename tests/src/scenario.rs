//! Random trainings: options, variables, and the gradients of each step. They are drawn from arbitrary bytes, so
//! fuzzers and property tests share them.

use arbitrary::{Arbitrary, Result, Unstructured};
use lion::schedule::PiecewiseConstantDecay;
use lion::{
    Axes, Builder, Config, Constraint, DecayScale, Dtype, DynamicLossScale, EmaCadence, Error, Group,
    GroupId, Hyperparameter, Lion, TensorBuf, TensorRef, Update, VariableId, VariableOptions,
};
use lion_kernels::{Backend, Plan, STATISTICS_BLOCK};

use crate::model::{self, Clip, Model, Options, Rule, Scale, Storage};
use crate::{Rng, bits, fill, widened};

/// A training at random.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Scenario {
    pub options: Options,
    pub momentum_dtype: Option<Dtype>,
    /// The seed by which bf16 variables are rounded at random.
    pub stochastic_rounding: Option<u64>,
    /// Whether bf16 variables have low halves.
    pub split_master: bool,
    /// How many threads may share a call, however small it is; 0 where small calls are one thread's.
    pub threads: usize,
    /// Sorted by name.
    pub variables: Vec<Variable>,
    /// By call and by variable. Each call has one at least.
    pub gradients: Vec<Vec<Option<TensorBuf>>>,
}

/// A variable of a training.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Variable {
    pub name: String,
    pub shape: Vec<usize>,
    pub values: TensorBuf,
    pub excluded_from_weight_decay: bool,
    pub overwritten: bool,
    pub rule: Option<Rule>,
    /// In a group of its own, with this multiplier of the learning rate.
    pub multiplier: Option<f32>,
}

impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let options = any_options(u)?;
        let momentum_dtype = if u.ratio(1, 4)? { Some(*u.choose(PLAIN)?) } else { None };
        let threads = u.int_in_range(0..=3)?;
        let count = u.int_in_range(1..=4)?;
        let variables: Vec<_> = (0..count).map(|i| any_variable(u, i)).collect::<Result<_>>()?;
        let calls = u.int_in_range(1..=7)?;
        let gradients = (0..calls).map(|call| any_gradients(u, call, &variables)).collect::<Result<_>>()?;
        let mut scenario = Scenario {
            options,
            momentum_dtype,
            stochastic_rounding: None,
            split_master: false,
            threads,
            variables,
            gradients,
        };
        scenario.draw_narrow(u)?;
        Ok(scenario)
    }
}

/// Formats of a tensor that any role takes.
const PLAIN: &[Dtype] = &[Dtype::F32, Dtype::F16, Dtype::BF16];

fn any_options(u: &mut Unstructured<'_>) -> Result<Options> {
    const RATES: [f32; 9] = [1e-3, 0.03, 0.5, 1.0, 0.0, -0.0, 1e-30, 1e-42, 1e38];
    const BETAS: [f32; 6] = [0.9, 0.99, 0.5, 1.0, 1e-20, 0.3];
    const LIMITS: [f64; 7] = [1.0, 0.3, 5.0, 1e-6, 1e30, 1e-44, 0.1];
    const FACTORS: [f64; 7] = [1024.0, 3.0, 0.1, 32768.0, 1e38, 1e-40, 1.0];
    let count = u.int_in_range(1..=4)?;
    let limit = *u.choose(&LIMITS)?;
    let factor = *u.choose(&FACTORS)?;
    Ok(Options {
        learning_rates: (0..count).map(|_| u.choose(&RATES).copied()).collect::<Result<_>>()?,
        beta_1: *u.choose(&BETAS)?,
        beta_2: if u.ratio(1, 8)? { 0.0 } else { *u.choose(&BETAS)? },
        weight_decay: if u.arbitrary()? { Some(*u.choose(&[0.1, 0.0, 1.0, 1e-8, 7.5])?) } else { None },
        cautious_decay: false,
        decay_scale: model::DecayScale::LearningRate,
        clip: *u.choose(&[Clip::Off, Clip::Norm(limit), Clip::GlobalNorm(limit), Clip::Value(limit)])?,
        ema_momentum: if u.arbitrary()? { Some(*u.choose(&[0.99, 0.5, 0.0, 1.0])?) } else { None },
        ema_overwrite_frequency: if u.arbitrary()? { Some(u.int_in_range(1..=3)?) } else { None },
        ema_every_update: u.ratio(1, 4)?,
        scale: match u.int_in_range(0..=2)? {
            0 => Scale::Off,
            1 => Scale::Static(factor),
            _ => Scale::Dynamic { initial: factor, growth: u.int_in_range(0..=3)? },
        },
        accumulation_steps: if u.arbitrary()? { Some(u.int_in_range(2..=4)?) } else { None },
    })
}

fn any_variable(u: &mut Unstructured<'_>, index: usize) -> Result<Variable> {
    const SHAPES: [&[usize]; 10] =
        [&[], &[1], &[3], &[2, 3], &[17], &[5, 13], &[0], &[4, 0], &[4100], &[2, 6151]];
    let shape = u.choose(&SHAPES)?.to_vec();
    let dtype = *u.choose(PLAIN)?;
    let values = any_values(u, dtype, shape.iter().product(), true)?;
    Ok(Variable {
        // The order of registration is that of the bytes of the names, as in a recorded run.
        name: format!("{}.{index}/w", char::from(b'a' + index as u8)),
        shape,
        values,
        excluded_from_weight_decay: u.ratio(1, 4)?,
        overwritten: u.ratio(1, 6)?,
        rule: match u.int_in_range(0..=7)? {
            0 => Some(Rule::NonNegative),
            1 => Some(Rule::MaxNorm(1.5)),
            2 => Some(Rule::Halved),
            _ => None,
        },
        multiplier: if u.ratio(1, 4)? { Some(*u.choose(&[0.5, 0.0, 3.0])?) } else { None },
    })
}

fn any_gradients(
    u: &mut Unstructured<'_>,
    call: usize,
    variables: &[Variable],
) -> Result<Vec<Option<TensorBuf>>> {
    // In most calls all are finite: a call with others is skipped where the loss scale is dynamic.
    let wild = u.ratio(1, 3)?;
    let mut gradients = Vec::new();
    for (index, variable) in variables.iter().enumerate() {
        // One that is always there.
        let there = index == call % variables.len() || u.ratio(4, 5)?;
        let dtype = *u.choose(PLAIN)?;
        let len = variable.values.len();
        gradients.push(if there { Some(any_values(u, dtype, len, wild)?) } else { None });
    }
    Ok(gradients)
}

/// `len` elements: numbers in (-1, 1), or of every class where they may be wild.
fn any_values(u: &mut Unstructured<'_>, dtype: Dtype, len: usize, wild: bool) -> Result<TensorBuf> {
    let mut rng = Rng::with_seed(u.arbitrary::<u16>()?.into());
    let wild = wild && u.arbitrary()?;
    let mut made = TensorBuf::zeroed(dtype, len).map_err(|_| arbitrary::Error::IncorrectFormat)?;
    fill(&mut rng, &mut made.to_mut(), wild);
    Ok(made)
}

fn storage(dtype: Dtype) -> Storage {
    match dtype {
        Dtype::F16 => Storage::F16,
        Dtype::BF16 => Storage::BF16,
        Dtype::Q8 => Storage::Q8,
        _ => Storage::F32,
    }
}

impl Scenario {
    /// The formats that move fewer bytes, and the decay beyond Keras's. Drawn last, and off where the bytes are at
    /// their end, so that older bytes keep their meaning.
    fn draw_narrow(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        if u.int_in_range(0..=2)? == 2 {
            self.momentum_dtype = Some(Dtype::Q8);
        }
        match u.int_in_range(0..=3)? {
            2 => self.stochastic_rounding = Some(u.arbitrary()?),
            3 => self.split_master = true,
            _ => {}
        }
        self.options.cautious_decay = u.int_in_range(0..=1)? == 1;
        let to = *u.choose(&[1.0, 1e-3, 0.3])?;
        // The scale of a decay by the largest rates is infinite, which is refused.
        let finite = self.options.learning_rates.iter().all(|rate| *rate <= 1.0);
        self.options.decay_scale = match u.int_in_range(0..=3)? {
            _ if !finite => model::DecayScale::LearningRate,
            2 => model::DecayScale::Relative(to),
            3 => model::DecayScale::Corrected(to),
            _ => model::DecayScale::LearningRate,
        };
        Ok(())
    }

    /// The multiples at which variables can be cut.
    pub fn unit(&self) -> usize {
        if self.momentum_dtype == Some(Dtype::Q8) || self.stochastic_rounding.is_some() { 64 } else { 1 }
    }

    /// A training from any bytes, or none where they are too few.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Scenario::arbitrary(&mut Unstructured::new(bytes)).ok()
    }

    /// The options as the optimizer has them.
    pub fn config(&self) -> std::result::Result<Config, Error> {
        let options = &self.options;
        let mut config = Config::default();
        config.learning_rate = learning_rate(&options.learning_rates)?;
        config.beta_1 = options.beta_1.into();
        config.beta_2 = options.beta_2.into();
        config.weight_decay = options.weight_decay.map(Into::into);
        match options.clip {
            Clip::Off => {}
            Clip::Norm(limit) => config.clipnorm = Some(limit),
            Clip::GlobalNorm(limit) => config.global_clipnorm = Some(limit),
            Clip::Value(limit) => config.clipvalue = Some(limit),
        }
        config.use_ema = options.ema_momentum.is_some();
        config.ema_momentum = options.ema_momentum.unwrap_or(0.99).into();
        config.ema_overwrite_frequency = options.ema_overwrite_frequency;
        match options.scale {
            Scale::Off => {}
            Scale::Static(factor) => config.loss_scale_factor = Some(factor),
            Scale::Dynamic { initial, growth } => {
                let mut scale = DynamicLossScale::default();
                scale.initial_scale = initial;
                scale.dynamic_growth_steps = growth;
                config.dynamic_loss_scale = Some(scale);
            }
        }
        config.gradient_accumulation_steps = options.accumulation_steps;
        config.stochastic_rounding = self.stochastic_rounding;
        config.split_master = self.split_master;
        config.cautious_decay = options.cautious_decay;
        config.decay_scale = match options.decay_scale {
            model::DecayScale::LearningRate => DecayScale::LearningRate,
            model::DecayScale::Relative(to) => DecayScale::Relative(to.into()),
            model::DecayScale::Corrected(to) => DecayScale::Corrected(to.into()),
        };
        Ok(config)
    }

    /// An optimizer of this config with nothing registered, and the rest of the options.
    ///
    /// # Errors
    /// A config outside its ranges.
    pub fn optimizer(&self, config: Config, backend: Backend) -> std::result::Result<Lion, Error> {
        let cadence =
            if self.options.ema_every_update { EmaCadence::EveryUpdate } else { EmaCadence::EveryCall };
        let plan = match self.threads {
            0 => Plan::new(backend),
            threads => {
                Plan::new(backend).threads(threads).chunk_elements(STATISTICS_BLOCK).parallel_threshold(0)
            }
        };
        let mut builder = Builder::from(config).ema_cadence(cadence).plan(plan);
        if let Some(dtype) = self.momentum_dtype {
            builder = builder.momentum_dtype(dtype);
        }
        builder.build()
    }

    /// Adds the variables, in their order.
    ///
    /// # Errors
    /// Those of the optimizer.
    pub fn register(&self, optimizer: &mut Lion) -> std::result::Result<Vec<VariableId>, Error> {
        self.variables.iter().map(|it| it.register(optimizer, &it.name, &it.shape)).collect()
    }

    /// The model before the first call.
    pub fn model(&self) -> Model {
        let variable = |it: &Variable| {
            let zeros = vec![0.0; it.values.len()];
            model::Variable {
                values: widened(it.values.to_ref()),
                storage: match it.values.dtype() {
                    Dtype::BF16 if self.split_master => Storage::F32,
                    dtype => storage(dtype),
                },
                stochastic: match it.values.dtype() {
                    Dtype::BF16 => self.stochastic_rounding.map(|seed| (seed, it.name.clone())),
                    _ => None,
                },
                momentum_storage: storage(self.momentum_dtype.unwrap_or(it.values.dtype())),
                excluded_from_weight_decay: it.excluded_from_weight_decay,
                overwritten: it.overwritten,
                rule: it.rule,
                learning_rate_multiplier: it.multiplier.unwrap_or(1.0),
                momentum: zeros.clone(),
                average: zeros.clone(),
                accumulator: zeros,
            }
        };
        Model::new(self.options.clone(), self.variables.iter().map(variable).collect())
    }

    /// The updates of a call. Where there is no average, every second variable without a gradient is left out.
    pub fn updates<'a>(
        &'a self,
        call: usize,
        ids: &[VariableId],
        parameters: &'a mut [TensorBuf],
    ) -> Vec<Update<'a>> {
        let mut updates = Vec::new();
        for (index, (parameter, gradient)) in parameters.iter_mut().zip(&self.gradients[call]).enumerate() {
            let parameter = parameter.to_mut();
            match gradient {
                Some(gradient) => updates.push(Update::new(ids[index], parameter, gradient.to_ref())),
                None if self.options.ema_momentum.is_none() && (index + call).is_multiple_of(2) => {}
                None => updates.push(Update::without_gradient(ids[index], parameter)),
            }
        }
        updates
    }
}

impl Variable {
    /// Adds the variable, or a part of it, to an optimizer.
    ///
    /// # Errors
    /// Those of the optimizer.
    pub fn register(
        &self,
        optimizer: &mut Lion,
        name: &str,
        shape: &[usize],
    ) -> std::result::Result<VariableId, Error> {
        let options = self.options(optimizer)?;
        optimizer.register_with(name, shape, self.values.dtype(), options)
    }

    /// The variable's options, for an optimizer that gets a group for it.
    ///
    /// # Errors
    /// Those of the optimizer.
    pub fn options(&self, optimizer: &mut Lion) -> std::result::Result<VariableOptions, Error> {
        let group = match self.multiplier {
            None => GroupId::default(),
            Some(multiplier) => {
                optimizer.add_group(Group::new().learning_rate_multiplier(multiplier.into()))?
            }
        };
        let constraint = match self.rule {
            None => None,
            Some(Rule::NonNegative) => Some(Constraint::non_negative()),
            Some(Rule::MaxNorm(max)) => Some(Constraint::max_norm(max, Axes::All)?),
            Some(Rule::Halved) => {
                Some(Constraint::from_fn(|_, values| values.iter_mut().for_each(|it| *it *= 0.5)))
            }
        };
        Ok(VariableOptions {
            exclude_from_weight_decay: self.excluded_from_weight_decay,
            overwrite_with_gradient: self.overwritten,
            constraint,
            group,
            nearest_rounding: self.values.dtype() != Dtype::BF16,
            ..VariableOptions::default()
        })
    }
}

/// The first at call 0, the second at call 1, and so on, and then the last.
fn learning_rate(rates: &[f32]) -> std::result::Result<Hyperparameter, Error> {
    let rates: Vec<f64> = rates.iter().copied().map(f64::from).collect();
    match rates.as_slice() {
        [rate] => Ok((*rate).into()),
        rates => {
            let boundaries: Vec<f64> = (0..rates.len() - 1).map(|call| call as f64).collect();
            Ok(PiecewiseConstantDecay::new(boundaries, rates.to_vec())?.into())
        }
    }
}

/// Fails unless the optimizer does in every call what the model does, bit for bit, where any NaN is any NaN.
pub fn agrees_with_the_model(scenario: &Scenario, backend: Backend) {
    let config = scenario.config().expect("a config in its ranges");
    let mut optimizer = scenario.optimizer(config, backend).expect("a config in its ranges");
    let ids = scenario.register(&mut optimizer).expect("variables that can be");
    let mut parameters: Vec<_> = scenario.variables.iter().map(|it| it.values.clone()).collect();
    let mut model = scenario.model();
    for (call, gradients) in scenario.gradients.iter().enumerate() {
        let gradients: Vec<_> =
            gradients.iter().map(|it| it.as_ref().map(|it| widened(it.to_ref()))).collect();
        let expected = model.apply(&gradients);
        let metrics = optimizer.apply(&mut scenario.updates(call, &ids, &mut parameters)).expect("applied");
        assert_eq!(format!("{:?}", metrics.outcome), format!("{expected:?}"), "call {call}");
        assert_eq!(optimizer.iterations(), model.iteration, "call {call}");
        if let Some((scale, counter)) = optimizer.dynamic_loss_scale() {
            assert_eq!((scale.to_bits(), counter), (model.dynamic_scale.to_bits(), model.counter));
        }
        for (index, expected) in model.variables.iter().enumerate() {
            let what = |tensor: &str| {
                format!("{tensor} of variable {index} on {backend}, call {call} of {scenario:?}")
            };
            let same = |found: TensorRef<'_>, expected: &[f32]| bits(&widened(found)) == bits(expected);
            let mut values = vec![0.0; expected.values.len()];
            let parameter = parameters[index].to_ref();
            optimizer.parameter_to_f32(ids[index], parameter, &mut values).expect("its length");
            assert!(bits(&values) == bits(&expected.values), "{}", what("parameter"));
            let state = optimizer.view(ids[index]).expect("registered");
            for (tensor, found, expected) in [
                ("momentum", state.momentum, &expected.momentum),
                ("average", state.ema.map(TensorRef::from), &expected.average),
                ("accumulator", state.accumulator.map(TensorRef::from), &expected.accumulator),
            ] {
                assert!(found.is_none_or(|found| same(found, expected)), "{}", what(tensor));
            }
        }
    }
}
