//! [`Sharded`]: the optimizer of one rank, and the calls that all ranks make together.

mod call;
mod checkpoint;
mod directions;
mod gathered;

use directions::Room;
use lion::options::Value;
use lion::{Group, GroupId, Lion, TensorMut, VariableId, VariableOptions};
use lion_kernels::Dtype;

use crate::agreement::{Field, agree};
use crate::reduction::Reduction;
use crate::{Communicator, Error, Layout, Settings, Variable};

/// The part of a sharded optimizer that one rank has: the state of its shard of the variables.
///
/// All ranks must make its collective calls, in the same order. The calls check that, and that the ranks agree on
/// everything that affects the result.
#[derive(Debug)]
pub struct Sharded<C> {
    communicator: C,
    optimizer: Lion,
    settings: Settings,
    layout: Layout,
    variables: Vec<Registered>,
    /// The ids of the variables, in order.
    ids: Vec<VariableId>,
    reduction: Reduction,
    room: Room,
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
    /// Makes this rank's optimizer from one without variables, with its options and groups. Collective.
    ///
    /// # Errors
    /// A configuration that differs between ranks; settings outside their ranges; an optimizer that has variables; more
    /// ranks than blocks of 4,096 elements; the errors of [`Lion::register_with`].
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
        let (room, broken) = (Room::new()?, None);
        Ok(Sharded { communicator, optimizer, settings, layout, variables, ids, reduction, room, broken })
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

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The communicator.
    pub fn communicator(&self) -> &C {
        &self.communicator
    }

    /// The communicator, for the program's own collective operations between two calls.
    pub fn communicator_mut(&mut self) -> &mut C {
        &mut self.communicator
    }

    /// Sets an option from the next call on: [`Lion::set`]. All ranks must do the same before the next collective call, which
    /// compares the hyperparameters.
    ///
    /// # Errors
    /// The errors of [`Lion::set`].
    pub fn set(&mut self, name: &str, value: impl Into<Value>) -> Result<(), Error> {
        Ok(self.optimizer.set(name, value)?)
    }

    /// Sets a group's hyperparameters, from the next call on: [`Lion::set_group`]. All ranks must do the same.
    ///
    /// # Errors
    /// The errors of [`Lion::set_group`].
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

    /// Agrees with the other ranks: either all go on, or none.
    fn agreed<T>(&mut self, what: &'static str, word: Result<(T, Vec<Field>), Error>) -> Result<T, Error> {
        let agreed = agree(&mut self.communicator, what, word);
        self.connected(agreed)
    }

    /// Remembers an error of the connection, after which no call can be made.
    fn connected<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        if let Err(error @ Error::Communication(_)) = &result {
            self.broken = Some(error.to_string());
        }
        result
    }

    /// Ends the job if a call fails when the other ranks can no longer be told.
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

/// The parts of an optimizer, made before the ranks have agreed.
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
        directions::check(&settings, optimizer.config(), variables)?;
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

/// The fields that must be equal on all ranks from the start.
fn start_fields(optimizer: &Lion, variables: &[Variable], settings: &Settings) -> Vec<Field> {
    let Settings { leaves, wire, bucket_bytes, gather } = settings;
    let version = format!("{}, layout {}", env!("CARGO_PKG_VERSION"), Layout::REVISION);
    // A closure cannot be written. Each call compares its values.
    let mut config = optimizer.config().clone();
    let options = config.to_lion_json().or_else(|_| {
        let constant = || 0.0.into();
        (config.learning_rate, config.beta_1, config.beta_2) = (constant(), constant(), constant());
        config.weight_decay = config.weight_decay.as_ref().map(|_| constant());
        config.to_lion_json()
    });
    let groups: Vec<_> = optimizer
        .step_hyperparameters()
        .enumerate()
        .map(|(group, rates)| format!("group {group}: {rates:?}"))
        .collect();
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
            format!(
                "{leaves} leaves\n{wire:?} on the wire\nbuckets of {bucket_bytes} bytes\n{gather:?} gathered"
            ),
        ),
        field("the options", options.unwrap_or_default()),
        field("the groups", groups.join("\n")),
        field("the variables", variables.join("\n")),
    ]
}
