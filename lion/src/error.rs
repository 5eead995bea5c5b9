mod kind;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use kind::ErrorKind;

/// Why a call did nothing. Each message is one line that says what was wrong, where, what was found and what is
/// allowed. It is the whole account: [`source`](std::error::Error::source) gives nothing that it has printed.
/// [`kind`](Self::kind) sorts errors for who must react to them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument outside its range, or of the wrong type.
    #[error("{name} is {value}, and must be {allowed}")]
    Argument {
        /// Keras's name of the argument; in a file, with the keys that lead to it.
        name: String,
        /// What was given.
        value: String,
        /// What is allowed.
        allowed: Cow<'static, str>,
    },
    /// More than one way to clip.
    #[error("{found}, and at most one of clipnorm, global_clipnorm and clipvalue may be set")]
    SeveralClips {
        /// Which are set, and to what.
        found: String,
    },
    /// A key that nothing reads.
    #[error("{key} is not known here; known: {known}")]
    UnknownKey {
        /// The key, with the keys that lead to it.
        key: String,
        /// The keys that would be read.
        known: String,
    },
    /// A name that no option has.
    #[error("there is no option {name}; nearest: {nearest}")]
    UnknownOption {
        /// The name.
        name: String,
        /// The names of options that it may mean.
        nearest: String,
    },
    /// An option that may not change after the optimizer is built.
    #[error("{name} is {value} for good, as the optimizer is built; {changing} may change")]
    FixedOption {
        /// The option.
        name: &'static str,
        /// What it is.
        value: String,
        /// The options that may change.
        changing: String,
    },
    /// A key that has no default and is not there.
    #[error("{key} is missing, and must be {allowed}")]
    MissingKey {
        /// The key, with the keys that lead to it.
        key: String,
        /// What is allowed.
        allowed: Cow<'static, str>,
    },
    /// A class or function of a file that is neither Keras's nor of this crate.
    #[error("{name} is {found}, which is not Keras's own; expected {allowed}")]
    Custom {
        /// The key, with the keys that lead to it.
        name: String,
        /// The class or function.
        found: String,
        /// What is allowed, and what to do.
        allowed: Cow<'static, str>,
    },
    /// A file that is in place of an optimizer's and holds none.
    #[error("{place} holds no optimizer: {reason}")]
    NoOptimizer {
        /// The key, with the keys that lead to it.
        place: String,
        /// Why that may be, and what to do.
        reason: &'static str,
    },
    /// Text that is no JSON.
    #[error("{place}: {reason}")]
    Json {
        /// The key under which the trouble is.
        place: String,
        /// What is wrong, with line and column.
        reason: String,
    },
    /// A value that lives in the program alone.
    #[error("{name} is {what}, which cannot be written to a file")]
    NotSerializable {
        /// The argument.
        name: String,
        /// What it is.
        what: &'static str,
    },
    /// A value that Keras cannot load.
    #[error("{name} is {what}, which Keras cannot load; Config::to_lion_json writes it for lion")]
    NotOfKeras {
        /// The argument.
        name: &'static str,
        /// What it is.
        what: String,
    },
    /// A shape that is not that of the values.
    #[error("the shape {shape:?} does not have the {elements} elements of the values")]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// How many values there are.
        elements: usize,
    },
    /// Memory that could not be had.
    #[error("no memory for {elements} {what}")]
    OutOfMemory {
        /// What it was wanted for.
        what: &'static str,
        /// How many were wanted.
        elements: usize,
    },
    /// From the kernels.
    #[error(transparent)]
    Kernels(#[from] lion_kernels::Error),
    /// A tensor of a variable that a kernel refuses.
    #[error("variable {name:?}: {reason}")]
    Tensor {
        /// The variable.
        name: String,
        /// What is wrong with its tensor.
        reason: lion_kernels::Error,
    },
    /// A second variable of the same name.
    #[error("there is a variable {name:?} already")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A shape whose number of elements does not fit in memory.
    #[error("variable {name:?}: the shape {shape:?} has more elements than memory can hold")]
    ShapeTooLarge {
        /// The variable.
        name: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// A variable that this optimizer has not registered. An id is a number: that of another optimizer's variable is an
    /// error where there is none of that number here.
    #[error("there is no variable number {index}; {registered} are registered")]
    UnknownVariable {
        /// The variable's number.
        index: usize,
        /// How many there are.
        registered: usize,
    },
    /// A variable that a call names twice.
    #[error("variable {name:?} is in the call twice")]
    RepeatedVariable {
        /// The variable.
        name: String,
    },
    /// A tensor of another length than the variable's shape has.
    #[error("variable {name:?}: the {tensor} has {found} elements, and its shape has {expected}")]
    Length {
        /// The variable.
        name: String,
        /// Which tensor.
        tensor: &'static str,
        /// Its length.
        found: usize,
        /// The number of elements of the variable's shape.
        expected: usize,
    },
    /// A call in which no variable has a gradient.
    #[error("no variable of the call has a gradient")]
    NoGradients,
    /// A step in parts in which only variables that are overwritten with their gradient have one, and that was not begun
    /// so.
    #[error(
        "every gradient of the step overwrites its variable: begin such a step with BeginOptions::only_overwrites"
    )]
    OnlyOverwrites,
    /// A variable that a call leaves out, though its moving average needs it.
    #[error(
        "variable {name:?} is not in the call, and its moving average needs it: Update::without_gradient names a \
         variable that has no gradient"
    )]
    MissingVariable {
        /// The variable.
        name: String,
    },
    /// Elements that a step leaves out, though the moving average needs them.
    #[error(
        "variable {name:?}: elements {}..{} are not in the step, and their moving average needs them: \
         Update::without_gradient gives those that have no gradient",
        range.start, range.end
    )]
    MissingElements {
        /// The variable.
        name: String,
        /// Its elements.
        range: Range<usize>,
    },
    /// A range that is not within its variable, or within what the optimizer holds of it.
    #[error("variable {name:?}: the range {}..{} must be within {}..{}", range.start, range.end, allowed.start, allowed.end)]
    Range {
        /// The variable.
        name: String,
        /// The range.
        range: Range<usize>,
        /// What is allowed.
        allowed: Range<usize>,
    },
    /// A range of a variable that must be given as a whole.
    #[error("variable {name:?} {reason}, which needs the whole variable; found the range {}..{}", range.start, range.end)]
    NeedsWhole {
        /// The variable.
        name: String,
        /// What is special about it.
        reason: &'static str,
        /// The range.
        range: Range<usize>,
    },
    /// Elements that a step or a call gives twice.
    #[error(
        "variable {name:?}: the range {}..{} is given, and {}..{} has been in this step already",
        range.start, range.end, given.start, given.end
    )]
    RepeatedElements {
        /// The variable.
        name: String,
        /// The second range.
        range: Range<usize>,
        /// What was there before.
        given: Range<usize>,
    },
    /// A range that cuts a block of elements which belong together.
    #[error(
        "variable {name:?}: the range {}..{} cuts a block of its {of}; expected multiples of {block} or the end",
        range.start, range.end
    )]
    CutBlock {
        /// The variable.
        name: String,
        /// What the block is of: statistics, momentum or random numbers.
        of: &'static str,
        /// Elements of a block.
        block: usize,
        /// The range.
        range: Range<usize>,
    },
    /// Statistics of gradients that do not fit the step.
    #[error("the statistics are {what}, and must be {allowed}")]
    Statistics {
        /// What was found.
        what: String,
        /// What is allowed.
        allowed: String,
    },
    /// A step that has begun, in the way of something else.
    #[error("the step of step {step} has begun: finish or abandon it first")]
    OpenStep {
        /// The number of the call.
        step: u64,
    },
    /// A step that is not the one that has begun.
    #[error("this step is not open: it was finished or abandoned, or is of another optimizer")]
    NoStep,
    /// A gradient in a step that was begun for others.
    #[error("variable {name:?} has a gradient, and the step was begun {begun}")]
    UnexpectedGradient {
        /// The variable.
        name: String,
        /// How it was begun.
        begun: &'static str,
    },
    /// A question about the momentum of a variable that is overwritten with its gradient.
    #[error("variable {name:?} is overwritten with its gradient, and has no momentum")]
    NoMomentum {
        /// The variable.
        name: String,
    },
    /// A regular expression that cannot be used.
    #[error(
        "exclude_from_weight_decay is {pattern}, which is no regular expression that can be used: {reason}"
    )]
    Pattern {
        /// The expression, or the start of a long one.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A group that this optimizer has not, with the same limit as for variables.
    #[error("there is no group number {index}; {groups} are there, with the optimizer's own")]
    UnknownGroup {
        /// The group's number.
        index: usize,
        /// How many there are.
        groups: usize,
    },
    /// A variable of a format that no parameter has here.
    #[error("variable {name:?} is {dtype}, and must be one of f32, f16, bf16")]
    ParameterDtype {
        /// The variable.
        name: String,
        /// Its format.
        dtype: lion_kernels::Dtype,
    },
    /// A momentum of a format that no momentum has.
    #[error("variable {name:?}: the momentum's dtype is {dtype}, and must be one of f32, f16, bf16, q8")]
    MomentumDtype {
        /// The variable.
        name: String,
        /// The format.
        dtype: lion_kernels::Dtype,
    },
    /// A variable that is not bf16, with an option that is for bf16 parameters.
    #[error(
        "variable {name:?} is {dtype}, and {option} is for bf16 parameters; VariableOptions::nearest_rounding \
         leaves a variable out"
    )]
    NotBf16 {
        /// The variable.
        name: String,
        /// Its format.
        dtype: lion_kernels::Dtype,
        /// The option.
        option: &'static str,
    },
    /// A parameter of another format than was registered.
    #[error("variable {name:?}: the {tensor} is {found}, and was registered as {expected}")]
    Dtype {
        /// The variable.
        name: String,
        /// Which tensor: the parameter, or the source that it is read from.
        tensor: &'static str,
        /// The format of the call.
        found: lion_kernels::Dtype,
        /// The format of the registration.
        expected: lion_kernels::Dtype,
    },
    /// A checkpoint that is not of this optimizer.
    #[error("{}: {}", one_line(tensor), one_line(reason))]
    State {
        /// What it is about: a tensor by its name in a checkpoint, or a key of the metadata.
        tensor: String,
        /// What is wrong.
        reason: String,
    },
    /// A file that is not what it must be.
    #[error("{}{}", place(file, tensor), one_line(reason))]
    File {
        /// The file.
        file: PathBuf,
        /// The tensor in it, where it is about one.
        tensor: Option<String>,
        /// What is wrong.
        reason: String,
    },
    /// A file that could not be read or written.
    #[error("{}{action}: {reason}", place(file, tensor))]
    Io {
        /// The file.
        file: PathBuf,
        /// The tensor in it, where it is about one.
        tensor: Option<String>,
        /// What could not be done.
        action: &'static str,
        /// Why.
        reason: std::io::Error,
    },
}

/// The front of a message: the file, and the tensor if there is one, each with a colon.
fn place(file: &Path, tensor: &Option<String>) -> String {
    let mut place = one_line(&file.to_string_lossy());
    place.push_str(": ");
    if let Some(tensor) = tensor {
        place.push_str(&one_line(tensor));
        place.push_str(": ");
    }
    place
}

/// A text of a file's making in a message: without line ends and what else controls a terminal, and not endless.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut line = String::new();
    for character in text.chars().take(LONGEST) {
        let hidden = character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
        if hidden {
            // A string takes everything.
            let _ = write!(line, "{}", character.escape_default());
        } else {
            line.push(character);
        }
    }
    if text.chars().nth(LONGEST).is_some() {
        line.push('…');
    }
    line
}

impl Error {
    pub(crate) fn argument(
        name: impl Into<String>,
        value: impl ToString,
        allowed: impl Into<Cow<'static, str>>,
    ) -> Self {
        Error::Argument { name: name.into(), value: value.to_string(), allowed: allowed.into() }
    }

    /// Says in which call a hyperparameter is outside its range.
    pub(crate) fn in_step(mut self, step: u64) -> Self {
        if let Error::Argument { name, .. } = &mut self {
            *name = format!("{name} of step {step}");
        }
        self
    }

    /// Names the value that an error is about, if nothing has named it yet.
    pub(crate) fn named(mut self, what: &str) -> Self {
        if let Error::Argument { name, .. } | Error::Custom { name, .. } = &mut self
            && name.is_empty()
        {
            *name = what.into();
        }
        self
    }

    /// Says under which key of a file the trouble is. A name that is empty is that of the value at the key itself.
    pub(crate) fn under(mut self, path: &str) -> Self {
        if let Error::Argument { name, .. }
        | Error::NotSerializable { name, .. }
        | Error::UnknownKey { key: name, .. }
        | Error::MissingKey { key: name, .. }
        | Error::Custom { name, .. } = &mut self
        {
            *name = if name.is_empty() { path.into() } else { format!("{path}.{name}") };
        }
        self
    }
}
