//! Roles of tensors in a pass: one table. The checks, the byte counts, the names in errors, and the names in
//! checkpoints follow from it.

/// Rows: variant, name in errors, whether a pass may write the tensor, index of its second stream in a task, prefix of
/// its names in a checkpoint, documentation.
macro_rules! roles {
    ($($variant:ident, $name:literal, $writes:literal, $second:expr, $prefix:expr, $what:literal;)+) => {
        /// The role of a tensor in a pass.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum Role {
            $(#[doc = $what] $variant,)+
        }

        impl Role {
            /// Every role.
            pub const ALL: &'static [Role] = &[$(Role::$variant),+];

            /// Returns the name that errors use.
            pub const fn name(self) -> &'static str {
                match self { $(Role::$variant => $name,)+ }
            }

            /// Returns whether a pass may write the tensor.
            pub const fn is_written(self) -> bool {
                match self { $(Role::$variant => $writes,)+ }
            }

            /// Returns the index of the tensor's second stream in a task, or `None` if its format must have one stream.
            pub(crate) const fn second_stream(self) -> Option<usize> {
                match self { $(Role::$variant => $second,)+ }
            }

            /// Returns the prefix of such tensors' names in a checkpoint, or `None` if checkpoints do not store them.
            pub const fn prefix(self) -> Option<&'static str> {
                match self { $(Role::$variant => $prefix,)+ }
            }
        }
    };
}

roles! {
    Parameter, "parameter", true, Some(0), Some("param/"),
        "The parameter: written, and read unless a source is given.";
    Source, "source", false, Some(1), None,
        "The input of an out-of-place step or of a conversion.";
    Gradient, "gradient", false, None, None, "The gradient.";
    Momentum, "momentum", true, Some(2), Some("momentum/"), "The momentum: read and written.";
    Accumulator, "accumulator", true, None, Some("accumulator/"), "The sum of gradients since the last update, in f32.";
    Ema, "EMA", true, None, Some("ema/"), "The moving average of the parameter, in f32.";
    Copy, "copy", true, Some(3), None, "A copy of the stored parameter, in any dtype; or the output of a conversion.";
    Direction, "direction", true, None, None,
        "The direction of a step: the sign of `c`, which is -1, 0, 1 or NaN.";
}

impl Role {
    pub(crate) const COUNT: usize = Self::ALL.len();
    /// The number of roles whose tensors may have a second stream.
    pub(crate) const SECOND_STREAMS: usize = 4;

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

    /// Returns the first role of this set that the other set lacks.
    #[inline(always)]
    pub(crate) fn first_not_in(self, other: RoleSet) -> Option<Role> {
        let beyond = RoleSet(self.0 & !other.0);
        if beyond.0 == 0 { None } else { beyond.roles().next() }
    }

    pub(crate) fn roles(self) -> impl Iterator<Item = Role> {
        Role::ALL.iter().copied().filter(move |&role| self.has(role))
    }
}
