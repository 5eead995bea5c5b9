//! [`Sharded`]: the optimizer of one rank, and the calls that all ranks make together.

mod call;
mod checkpoint;
mod gathered;

use lion::options::Value;
use lion::{Group, GroupId, Lion, TensorMut, VariableId, VariableOptions};
use lion_kernels::Dtype;

use crate::agreement::{Field, agree};
use crate::reduction::Reduction;
use crate::{Communicator, Error, Layout, Settings, Variable};

/// The part of a sharded optimizer that one rank has: the state of its shard of the variables.
///
/// Its collective calls must be made by all ranks, in the same order. They check that, and that the ranks agree in all
/// that has an effect on the result.
#[derive(Debug)]
pub struct Sharded<C> {
    communicator: C,
    optimizer: Lion,
    settings: Settings,
    layout: Layout,
    variables: Vec<Registered>,
    /// Of the variables, in order.
    ids: Vec<VariableId>,
    reduction: Reduction,
    /// Why no call can be made any more.
    broken: Option<String>,
}

/// What a call needs to know of a variable.
#[derive(Debug)]
struct Registered {
    name: String,
    len: usize,
    dtype: Dtype,
    constrained: bool,
}

impl<C: Communicator> Sharded<C> {
    /// Makes the optimizer of this rank, of one that has no variables yet: with its options and groups. Collective.
    ///
    /// # Errors
    /// Another configuration on another rank; settings outside their ranges; an optimizer that has variables; more ranks
    /// than there are blocks of 4,096 elements; what [`Lion::register_with`] refuses.
    pub fn new(
        mut communicator: C,
        optimizer: Lion,
        variables: &[Variable],
        settings: Settings,
    ) -> Result<Self, Error> {
        let fields = start_fields(&optimizer, variables, &settings);
        let made = Parts::new(&communicator, optimizer, variables, settings);
        let made = agree(&mut communicator, "Sharded::new", made.map(|made| (made, fields)))?;
        let Parts { optimizer, layout, variables, ids, reduction } = made;
        Ok(Sharded { communicator, optimizer, settings, layout, variables, ids, reduction, broken: None })
    }

    /// The ids of the variables, in the order in which they were given.
    pub fn ids(&self) -> &[VariableId] {
        &self.ids
    }

    /// This rank's optimizer, which holds the state of its shard.
    pub fn optimizer(&self) -> &Lion {
        &self.optimizer
    }

    /// Which rank owns which elements.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// How gradients travel.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What connects the ranks.
    pub fn communicator(&self) -> &C {
        &self.communicator
    }

    /// What connects the ranks, for collective operations of the program's own between two calls.
    pub fn communicator_mut(&mut self) -> &mut C {
        &mut self.communicator
    }

    /// Sets an option that may change, from the next call on: [`Lion::set`]. All ranks must do the same before the next
    /// collective call, which compares the hyperparameters.
    ///
    /// # Errors
    /// Those of [`Lion::set`].
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Error> {
        Ok(self.optimizer.set(name, value)?)
    }

    /// Sets a group's hyperparameters, from the next call on: [`Lion::set_group`]. All ranks must do the same.
    ///
    /// # Errors
    /// Those of [`Lion::set_group`].
    pub fn set_group(&mut self, id: GroupId, group: Group) -> Result<(), Error> {
        Ok(self.optimizer.set_group(id, group)?)
    }

    /// Stores values as a parameter, both of the whole variable: [`Lion::parameter_from_f32`] on the elements that this rank
    /// owns. The other elements do not change; [`gather_parameters`](Self::gather_parameters) brings them. Not collective.
    ///
    /// # Errors
    /// A variable that is not this optimizer's; lengths or a dtype other than the variable's.
    pub fn parameter_from_f32<'a>(
        &mut self,
        variable: VariableId,
        values: &[f32],
        parameter: impl Into<TensorMut<'a>>,
    ) -> Result<(), Error> {
        let (index, found) = self.registered(variable)?;
        let wrong = |tensor, len| {
            Err(lion::Error::Length { name: found.name.clone(), tensor, found: len, expected: found.len }
                .into())
        };
        let parameter = parameter.into();
        if parameter.len() != found.len {
            return wrong("parameter", parameter.len());
        }
        let held = self.layout.held(self.communicator.rank(), index);
        let Some(own) = values.get(held.clone()).filter(|_| values.len() == found.len) else {
            return wrong("values", values.len());
        };
        Ok(self.optimizer.parameter_from_f32(variable, own, parameter.range(held)?)?)
    }

    /// A variable's number in the order of registration, and what is known of it.
    fn registered(&self, variable: VariableId) -> Result<(usize, &Registered), Error> {
        let found = self.ids.binary_search(&variable).ok();
        found.and_then(|index| Some((index, self.variables.get(index)?))).ok_or_else(|| Error::Setting {
            name: "a variable of the call",
            value: format!("{variable:?}"),
            allowed: "one of this optimizer's".into(),
        })
    }

    /// Goes on together, or not at all.
    fn agreed<T>(&mut self, what: &'static str, word: Result<(T, Vec<Field>), Error>) -> Result<T, Error> {
        let agreed = agree(&mut self.communicator, what, word);
        self.connected(agreed)
    }

    /// Notes an error of the connection, which ends all use of it.
    fn connected<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Communication(_)) = &result {
            self.broken = Some(error.to_string());
        }
        result
    }

    /// Ends the job if a call fails on this rank when others can no longer hear of it.
    fn or_abort<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        result.map_err(|error| {
            let reason = error.to_string();
            self.communicator.abort(&reason);
            self.broken = Some(reason.clone());
            Error::Aborted { reason }
        })
    }

    fn require_whole(&self) -> Result<(), Error> {
        match &self.broken {
            None => Ok(()),
            Some(reason) => Err(Error::Broken { reason: reason.clone() }),
        }
    }
}

/// What a rank makes before it has heard of the others.
struct Parts {
    optimizer: Lion,
    layout: Layout,
    variables: Vec<Registered>,
    ids: Vec<VariableId>,
    reduction: Reduction,
}

impl Parts {
    fn new(
        communicator: &impl Communicator,
        mut optimizer: Lion,
        variables: &[Variable],
        settings: Settings,
    ) -> Result<Self, Error> {
        let (rank, ranks) = (communicator.rank(), communicator.size());
        settings.check(ranks)?;
        if optimizer.variables().len() > 0 {
            return Err(Error::Setting {
                name: "the number of variables of the optimizer",
                value: optimizer.variables().len().to_string(),
                allowed: "0: a sharded optimizer registers its variables itself".into(),
            });
        }
        let registered = variables.iter().map(Registered::new).collect::<Result<Vec<_>, _>>()?;
        let lengths: Vec<_> = registered.iter().map(|variable| variable.len).collect();
        let layout = Layout::new(&lengths, ranks)?;
        let ids = variables.iter().enumerate().map(|(index, variable)| {
            let options =
                VariableOptions { shard: Some(layout.held(rank, index)), ..variable.options.clone() };
            optimizer.register_with(&variable.name, &variable.shape, variable.dtype, options)
        });
        let ids = ids.collect::<Result<_, _>>()?;
        let reduction = Reduction::new(&settings, rank, ranks, optimizer.backend())?;
        Ok(Parts { optimizer, layout, variables: registered, ids, reduction })
    }
}

impl Registered {
    fn new(variable: &Variable) -> Result<Self, Error> {
        let (name, shape, dtype) = (variable.name.clone(), variable.shape.clone(), variable.dtype);
        let elements = match shape.contains(&0) {
            true => Some(0),
            false => shape.iter().try_fold(1_usize, |all, &side| all.checked_mul(side)),
        };
        let Some(len) = elements else { return Err(lion::Error::ShapeTooLarge { name, shape }.into()) };
        if dtype.streams().len() > 1 {
            let (tensor, expected) = ("parameter", "a format of one stream".into());
            return Err(lion_kernels::Error::Format { tensor, found: dtype, expected }.into());
        }
        Ok(Registered { name, len, dtype, constrained: variable.options.constraint.is_some() })
    }
}

/// What must be equal on all ranks from the start.
fn start_fields(optimizer: &Lion, variables: &[Variable], settings: &Settings) -> Vec<Field> {
    let Settings { leaves, wire, bucket_bytes } = settings;
    let version = format!("{}, layout {}", env!("CARGO_PKG_VERSION"), Layout::REVISION);
    // A closure is in no file; what it gives is compared in each call.
    let mut config = optimizer.config().clone();
    let options = config.to_lion_json().or_else(|_| {
        let constant = || 0.0.into();
        (config.learning_rate, config.beta_1, config.beta_2) = (constant(), constant(), constant());
        config.weight_decay = config.weight_decay.as_ref().map(|_| constant());
        config.to_lion_json()
    });
    let groups: Vec<_> =
        optimizer.rates().enumerate().map(|(group, rates)| format!("group {group}: {rates:?}")).collect();
    let plain = format!("{:?}", VariableOptions::default());
    let variable = |Variable { name, shape, dtype, options }: &Variable| match format!("{options:?}") {
        options if options == plain => format!("{name:?} {shape:?} {dtype}"),
        options => format!("{name:?} {shape:?} {dtype} {options}"),
    };
    let variables: Vec<_> = variables.iter().map(variable).collect();
    let field = |name, text| Field { name, text };
    vec![
        field("the version", version),
        field(
            "the settings",
            format!("{leaves} leaves\n{wire:?} on the wire\nbuckets of {bucket_bytes} bytes"),
        ),
        field("the options", options.unwrap_or_default()),
        field("the groups", groups.join("\n")),
        field("the variables", variables.join("\n")),
    ]
}
