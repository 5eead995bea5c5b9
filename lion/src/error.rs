mod kind;

use std::borrow::Cow;
use std::fmt::Write as _;
use std::ops::Range;
use std::path::{Path, PathBuf};

pub use kind::ErrorKind;

/// An error. The call changed nothing.
///
/// Each message is one line: the thing, the value found, the values allowed. It is complete;
/// [`source`](std::error::Error::source) repeats none of it. [`kind`](Self::kind) sorts errors by who must react.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument outside its range, or of the wrong type.
    #[error("{name} is {value}, and must be {allowed}")]
    Argument {
        /// Keras's name of the argument; in a file, with the keys that lead to it.
        name: String,
        /// The value given.
        value: String,
        /// The values allowed.
        allowed: Cow<'static, str>,
    },
    /// More than one kind of clipping.
    #[error("{found}, and at most one of clipnorm, global_clipnorm and clipvalue may be set")]
    SeveralClips {
        /// The clips that are set, with their values.
        found: String,
    },
    /// An unknown key.
    #[error("{key} is not a known key; known: {known}")]
    UnknownKey {
        /// The key, with the keys that lead to it.
        key: String,
        /// The known keys.
        known: String,
    },
    /// An unknown option.
    #[error("option {name} does not exist; nearest: {nearest}")]
    UnknownOption {
        /// The name.
        name: String,
        /// The names of options that are similar.
        nearest: String,
    },
    /// A change of an option that is fixed once the optimizer is built.
    #[error("{name} is {value} and cannot change after build; {changing} can change")]
    FixedOption {
        /// The option.
        name: &'static str,
        /// Its value.
        value: String,
        /// The options that can change.
        changing: String,
    },
    /// A missing key that has no default.
    #[error("{key} is missing, and must be {allowed}")]
    MissingKey {
        /// The key, with the keys that lead to it.
        key: String,
        /// What is allowed.
        allowed: Cow<'static, str>,
    },
    /// A class or function in a file that belongs neither to Keras nor to this crate.
    #[error("{name} is {found}, which is not Keras's own; expected {allowed}")]
    Custom {
        /// The key, with the keys that lead to it.
        name: String,
        /// The class or function.
        found: String,
        /// The classes allowed, and a remedy.
        allowed: Cow<'static, str>,
    },
    /// A model or training config without an optimizer.
    #[error("{place} holds no optimizer: {reason}")]
    NoOptimizer {
        /// The key, with the keys that lead to it.
        place: String,
        /// The likely cause.
        reason: &'static str,
    },
    /// Text that is not valid JSON.
    #[error("{place}: {reason}")]
    Json {
        /// The key under which parsing failed.
        place: String,
        /// The parser's message, with line and column.
        reason: String,
    },
    /// A value that cannot be serialised (a closure).
    #[error("{name} is {what}, which cannot be written to a file")]
    NotSerializable {
        /// The argument.
        name: String,
        /// Its kind.
        what: &'static str,
    },
    /// A value that Keras cannot load.
    #[error("{name} is {what}, which Keras cannot load; Config::to_lion_json writes it for lion")]
    NotOfKeras {
        /// The argument.
        name: &'static str,
        /// Its value.
        what: String,
    },
    /// A shape that does not match the number of values.
    #[error("the shape {shape:?} does not match the {elements} values")]
    Shape {
        /// The shape.
        shape: Vec<usize>,
        /// The number of values.
        elements: usize,
    },
    /// Memory could not be allocated.
    #[error("no memory for {elements} {what}")]
    OutOfMemory {
        /// The kind of elements.
        what: &'static str,
        /// The number of elements.
        elements: usize,
    },
    /// A kernel's error.
    #[error(transparent)]
    Kernels(#[from] lion_kernels::Error),
    /// A kernel's error about a tensor of a variable.
    #[error("variable {name:?}: {reason}")]
    Tensor {
        /// The variable.
        name: String,
        /// The kernel's error.
        reason: lion_kernels::Error,
    },
    /// A second variable of the same name.
    #[error("variable {name:?} already exists")]
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
    /// A variable id that this optimizer does not have. An id is a number, so another optimizer's id is detected only if
    /// it is out of range here.
    #[error("variable id {index} does not exist; {registered} variables are registered")]
    UnknownVariable {
        /// The id.
        index: usize,
        /// The number of registered variables.
        registered: usize,
    },
    /// A variable that a step names twice.
    #[error("variable {name:?} is in the step twice")]
    RepeatedVariable {
        /// The variable.
        name: String,
    },
    /// A tensor whose length does not match the variable's shape.
    #[error("variable {name:?}: the {tensor} has {found} elements, and its shape has {expected}")]
    Length {
        /// The variable.
        name: String,
        /// The kind of tensor.
        tensor: &'static str,
        /// Its length.
        found: usize,
        /// The number of elements of the variable's shape.
        expected: usize,
    },
    /// A step without any gradient.
    #[error("no variable of the step has a gradient")]
    NoGradients,
    /// A step in parts that was not begun with `only_overwrites`, but has gradients only for variables that are
    /// overwritten with them.
    #[error(
        "every gradient of the step overwrites its variable: begin such a step with BeginOptions::only_overwrites"
    )]
    OnlyOverwrites,
    /// A variable that a step leaves out, though its moving average needs it.
    #[error(
        "variable {name:?} is not in the step, and its moving average needs it: Update::without_gradient names a \
         variable that has no gradient"
    )]
    MissingVariable {
        /// The variable.
        name: String,
    },
    /// Elements that a step leaves out, though their moving average needs them.
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
    /// A range outside its variable, or outside the shard that the optimizer holds.
    #[error("variable {name:?}: the range {}..{} must be within {}..{}", range.start, range.end, allowed.start, allowed.end)]
    Range {
        /// The variable.
        name: String,
        /// The range.
        range: Range<usize>,
        /// The elements allowed.
        allowed: Range<usize>,
    },
    /// A range of a variable that must be given whole.
    #[error("variable {name:?} {reason}, which needs the whole variable; found the range {}..{}", range.start, range.end)]
    NeedsWhole {
        /// The variable.
        name: String,
        /// The reason.
        reason: &'static str,
        /// The range.
        range: Range<usize>,
    },
    /// Elements that a step has twice.
    #[error(
        "variable {name:?}: the range {}..{} overlaps {}..{}, which this step has already",
        range.start, range.end, given.start, given.end
    )]
    RepeatedElements {
        /// The variable.
        name: String,
        /// The second range.
        range: Range<usize>,
        /// The first range.
        given: Range<usize>,
    },
    /// A range that cuts a block of elements.
    #[error(
        "variable {name:?}: the range {}..{} cuts a block of its {of}; expected multiples of {block} or the end",
        range.start, range.end
    )]
    CutBlock {
        /// The variable.
        name: String,
        /// The kind of block: statistics, momentum or random numbers.
        of: &'static str,
        /// The number of elements of a block.
        block: usize,
        /// The range.
        range: Range<usize>,
    },
    /// Statistics of gradients that do not fit the step.
    #[error("the statistics are {what}, and must be {allowed}")]
    Statistics {
        /// The statistics found.
        what: String,
        /// The statistics allowed.
        allowed: String,
    },
    /// An open step, which must end first.
    #[error("step {step} is open: finish or abandon it first")]
    OpenStep {
        /// The number of the step.
        step: u64,
    },
    /// A step that is not open.
    #[error("this step is not open: it was finished or abandoned, or is of another optimizer")]
    NoStep,
    /// A gradient that the step was not begun for.
    #[error("variable {name:?} has a gradient, and the step was begun {begun}")]
    UnexpectedGradient {
        /// The variable.
        name: String,
        /// How the step was begun.
        begun: &'static str,
    },
    /// A request for the momentum of a variable that is overwritten with its gradient.
    #[error("variable {name:?} is overwritten with its gradient, and has no momentum")]
    NoMomentum {
        /// The variable.
        name: String,
    },
    /// A regular expression that cannot be used.
    #[error("exclude_from_weight_decay is {pattern}, which is not a usable regular expression: {reason}")]
    Pattern {
        /// The expression, or the start of a long one.
        pattern: String,
        /// The parser's message.
        reason: String,
    },
    /// A group id that this optimizer does not have; see [`UnknownVariable`](Self::UnknownVariable).
    #[error("group id {index} does not exist; the optimizer has {groups}, with its own")]
    UnknownGroup {
        /// The id.
        index: usize,
        /// The number of groups, with the optimizer's own.
        groups: usize,
    },
    /// A parameter in an unsupported dtype.
    #[error("variable {name:?} is {dtype}, and must be one of f32, f16, bf16")]
    ParameterDtype {
        /// The variable.
        name: String,
        /// Its dtype.
        dtype: lion_kernels::Dtype,
    },
    /// A momentum in an unsupported dtype.
    #[error("variable {name:?}: the momentum's dtype is {dtype}, and must be one of f32, f16, bf16, q8")]
    MomentumDtype {
        /// The variable.
        name: String,
        /// The dtype.
        dtype: lion_kernels::Dtype,
    },
    /// A variable that is not bf16, with an option for bf16 parameters only.
    #[error(
        "variable {name:?} is {dtype}, and {option} is for bf16 parameters; VariableOptions::nearest_rounding \
         leaves a variable out"
    )]
    NotBf16 {
        /// The variable.
        name: String,
        /// Its dtype.
        dtype: lion_kernels::Dtype,
        /// The option.
        option: &'static str,
    },
    /// A parameter whose dtype is not the registered one.
    #[error("variable {name:?}: the {tensor} is {found}, and was registered as {expected}")]
    Dtype {
        /// The variable.
        name: String,
        /// The kind of tensor: the parameter, or the source that it is read from.
        tensor: &'static str,
        /// The dtype given.
        found: lion_kernels::Dtype,
        /// The dtype registered.
        expected: lion_kernels::Dtype,
    },
    /// A checkpoint that does not match this optimizer.
    #[error("{}: {}", one_line(tensor), one_line(reason))]
    State {
        /// A tensor's name in the checkpoint, or a key of the metadata.
        tensor: String,
        /// The mismatch.
        reason: String,
    },
    /// A file whose content is not valid.
    #[error("{}{}", place(file, tensor), one_line(reason))]
    File {
        /// The file.
        file: PathBuf,
        /// The tensor in it, if the error is about one.
        tensor: Option<String>,
        /// The defect.
        reason: String,
    },
    /// A file could not be read or written.
    #[error("{}{action}: {reason}", place(file, tensor))]
    Io {
        /// The file.
        file: PathBuf,
        /// The tensor in it, if the error is about one.
        tensor: Option<String>,
        /// The action that failed.
        action: &'static str,
        /// The system's error.
        reason: std::io::Error,
    },
}

/// Returns the start of a message: the file, and the tensor if there is one, each with a colon.
fn place(file: &Path, tensor: &Option<String>) -> String {
    let mut place = one_line(&file.to_string_lossy());
    place.push_str(": ");
    if let Some(tensor) = tensor {
        place.push_str(&one_line(tensor));
        place.push_str(": ");
    }
    place
}

/// Escapes control characters and truncates text from a file.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 400;
    let mut line = String::new();
    for character in text.chars().take(LONGEST) {
        let hidden = character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
        if hidden {
            // Writing to a string cannot fail.
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

    /// Adds the step in which a hyperparameter is outside its range.
    pub(crate) fn in_step(mut self, step: u64) -> Self {
        if let Error::Argument { name, .. } = &mut self {
            *name = format!("{name} of step {step}");
        }
        self
    }

    /// Names the value that an error is about, if it has no name yet.
    pub(crate) fn named(mut self, what: &str) -> Self {
        if let Error::Argument { name, .. } | Error::Custom { name, .. } = &mut self
            && name.is_empty()
        {
            *name = what.into();
        }
        self
    }

    /// Puts a key of the file before the name. An empty name stands for the value at the key itself.
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
