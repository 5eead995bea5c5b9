//! The roles that tensors have in a pass: one table. The checks, the byte counts, the names in errors and the names in a
//! checkpoint follow from it.

/// Rows: variant, name in errors, whether a pass may write it, its place among the tensors that may have a second
/// stream, prefix of its names in a checkpoint, documentation.
macro_rules! roles {
    ($($variant:ident, $name:literal, $writes:literal, $second:expr, $prefix:expr, $what:literal;)+) => {
        /// What a tensor is to a pass.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Role {
            $(#[doc = $what] $variant,)+
        }

        impl Role {
            /// Every role.
            pub const ALL: &'static [Role] = &[$(Role::$variant),+];

            /// The name, as in errors.
            pub const fn name(self) -> &'static str {
                match self { $(Role::$variant => $name,)+ }
            }

            /// Whether a pass may write the tensor.
            pub const fn is_written(self) -> bool {
                match self { $(Role::$variant => $writes,)+ }
            }

            /// The place of the tensor's second stream in a task; `None` if its format must have one stream.
            pub(crate) const fn second(self) -> Option<usize> {
                match self { $(Role::$variant => $second,)+ }
            }

            /// What the names of such tensors begin with in a checkpoint; `None` if a checkpoint does not hold them.
            pub const fn prefix(self) -> Option<&'static str> {
                match self { $(Role::$variant => $prefix,)+ }
            }
        }
    };
}

roles! {
    Parameter, "parameter", true, Some(0), Some("param/"),
        "The parameter: read, unless there is a source, and written.";
    Source, "source", false, Some(1), None,
        "The parameter before the pass, if it is read elsewhere than it is written; or what a conversion reads.";
    Gradient, "gradient", false, None, None, "The gradient.";
    Momentum, "momentum", true, Some(2), Some("momentum/"), "The momentum: read and written.";
    Accumulator, "accumulator", true, None, Some("accumulator/"), "The sum of gradients that wait for an update, in f32.";
    Ema, "EMA", true, None, Some("ema/"), "The moving average of the parameter, in f32.";
    Copy, "copy", true, Some(3), None, "What the stored parameter is also written to, in any dtype.";
    Direction, "direction", true, None, None,
        "Where the step's direction is written: the sign of `c`, which is -1, 0, 1 or NaN.";
}

impl Role {
    pub(crate) const COUNT: usize = Self::ALL.len();
    /// Second streams that a task has room for.
    pub(crate) const SECONDS: usize = 4;

    pub(crate) const fn set(self) -> RoleSet {
        RoleSet(1 << self as u8)
    }
}

/// A set of roles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RoleSet(u8);

const _: () = assert!(Role::COUNT <= 8);

impl RoleSet {
    pub(crate) const NONE: RoleSet = RoleSet(0);

    #[inline(always)]
    pub(crate) const fn with(self, other: RoleSet) -> Self {
        RoleSet(self.0 | other.0)
    }

    #[inline(always)]
    pub(crate) const fn with_if(self, role: Role, wanted: bool) -> Self {
        if wanted { self.with(role.set()) } else { self }
    }

    #[inline(always)]
    pub(crate) const fn has(self, role: Role) -> bool {
        self.0 & role.set().0 != 0
    }

    /// The first role that is here and not there.
    #[inline(always)]
    pub(crate) fn first_beyond(self, other: RoleSet) -> Option<Role> {
        let beyond = RoleSet(self.0 & !other.0);
        if beyond.0 == 0 { None } else { beyond.roles().next() }
    }

    pub(crate) fn roles(self) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |&role| self.has(role))
    }
}
