//! The options of an optimizer: the common few as fields, all others by name.

use std::ffi::c_char;

use lion::{Builder, Config};

use crate::plan::{self, LionPlan};
use crate::status::{Failure, LionStatus, guarded};
use crate::structs::{self, Struct};

/// A value of `weight_decay`: none. A weight decay of 0 is different: it turns a parameter of -0 into +0.
pub const LION_OFF: f64 = -1.0;

/// Options of an optimizer: the common few as fields, all others by name. `lion_options_init` fills in the defaults.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LionOptions {
    /// `sizeof(LionOptions)`.
    pub struct_size: usize,
    /// The learning rate, in [0, inf): how far a step moves each element. 0.001 by default.
    pub learning_rate: f64,
    /// The share of the old momentum in the direction of a step, in (0, 1]; 0.9 by default.
    pub beta_1: f64,
    /// The share of the old momentum in the new one, in [0, 1]; 0.99 by default.
    pub beta_2: f64,
    /// Decoupled weight decay, in [0, inf), or `LION_OFF`, the default.
    pub weight_decay: f64,
    /// All other options by name, as a JSON object such as
    /// `{"global_clipnorm": 1, "momentum_dtype": "bf16", "exclude_from_weight_decay": ["bias$"]}`. It may also have the options
    /// of the fields above, as numbers or as schedules in Keras's form: `{"learning_rate": {"class_name": "CosineDecay",
    /// "config": {"initial_learning_rate": 0.001, "decay_steps": 10000}}}`. They override the fields. Null for none.
    pub json: *const c_char,
    /// How work is split and where it runs; null for the profile that `lion tune` has written on this machine, or else the
    /// defaults. Results do not depend on it.
    pub plan: *const LionPlan,
}

// SAFETY: `repr(C)`, words and f64 alone.
unsafe impl Struct for LionOptions {
    const NAME: &'static str = "LionOptions";
    const DEFAULT: Self = LionOptions {
        struct_size: size_of::<Self>(),
        learning_rate: 1e-3,
        beta_1: 0.9,
        beta_2: 0.99,
        weight_decay: LION_OFF,
        json: std::ptr::null(),
        plan: std::ptr::null(),
    };
}

/// Writes the default options. `struct_size` is `sizeof(LionOptions)`.
///
/// # Safety
/// `options` is writable for `struct_size` bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lion_options_init(options: *mut LionOptions, struct_size: usize) -> LionStatus {
    guarded(|| {
        structs::check_pointer("options", options)?;
        structs::check_size::<LionOptions>("struct_size", struct_size)?;
        // SAFETY: as long as the caller says, which begins with its size.
        unsafe {
            options.cast::<usize>().write(struct_size);
            structs::write("options", options, LionOptions::DEFAULT)
        }
    })
}

impl LionOptions {
    /// The options. Their types and ranges have been checked.
    ///
    /// # Safety
    /// `json` is null or a text that ends with a zero.
    pub(crate) unsafe fn config(&self) -> Result<Config, Box<Failure>> {
        let mut config = Config::default();
        config.set("learning_rate", self.learning_rate)?;
        config.set("beta_1", self.beta_1)?;
        config.set("beta_2", self.beta_2)?;
        if self.weight_decay != LION_OFF {
            config.set("weight_decay", self.weight_decay)?;
        }
        // SAFETY: by this function's contract.
        if let Some(json) = unsafe { structs::text_or_none("json", self.json)? } {
            config.set_json(json)?;
        }
        Ok(config)
    }

    /// # Safety
    /// As for [`config`](Self::config), and `plan` is null or a plan with texts that end with a zero.
    pub(crate) unsafe fn builder(&self) -> Result<Builder, Box<Failure>> {
        // SAFETY: by this function's contract.
        let (config, plan) = unsafe { (self.config()?, plan::read(self.plan)?) };
        let builder = Builder::from(config);
        Ok(match plan {
            Some(plan) => builder.profile(plan.profile()),
            None => builder,
        })
    }
}
