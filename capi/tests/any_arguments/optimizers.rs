//! Optimizers with their variables and groups, and all that is asked of them between steps.

use std::ffi::c_void;
use std::path::PathBuf;
use std::ptr;

use lion_c::*;

use crate::common::{METRICS, VARIABLE, text};
use crate::values::Structs;
use crate::{DTYPES, Driver, MEMORY, SHAPES};

const GROUPS: [&str; 4] = [
    "{}",
    r#"{"learning_rate_multiplier": 0.5, "weight_decay": null, "beta_2": 1}"#,
    r#"{"beta_1": {"class_name": "LinearWarmup", "config": {"steps": 9}}, "decay_scale": "relative:1"}"#,
    r#"{"cautious_decay": true, "learning_rate_multiplier": -1}"#,
];

const CONSTRAINTS: [&str; 4] = [
    r#"{"class_name": "NonNeg"}"#,
    r#"{"class_name": "MaxNorm", "config": {"max_value": 1.5, "axis": null}}"#,
    r#"{"module": "keras.constraints", "class_name": "UnitNorm", "config": {"axis": [0, -1]}, "registered_name": null}"#,
    r#"{"class_name": "MinMaxNorm", "config": {"rate": 0.5, "axis": 0}}"#,
];

const PAGES: LionHugePages =
    LionHugePages { struct_size: size_of::<LionHugePages>(), whole: 0, collapsed: 0, advised: 0 };

impl Driver {
    pub(crate) fn build(&mut self) {
        const JSON: [&str; 8] = [
            "{}",
            r#"{"global_clipnorm": 1}"#,
            r#"{"clipnorm": 0.5, "use_ema": true}"#,
            r#"{"dynamic_loss_scale": true, "gradient_accumulation_steps": 2}"#,
            r#"{"momentum_dtype": "bf16", "exclude_from_weight_decay": ["bias$", "("]}"#,
            r#"{"learning_rate": {"class_name": "CosineDecay", "config": {"initial_learning_rate": 1, "decay_steps": 9}}}"#,
            r#"{"ema_cadence": "every_update", "use_ema": true, "gradient_accumulation_steps": 3}"#,
            "[1, 2",
        ];
        const CONFIGS: [&str; 3] = [
            "{}",
            r#"{"module": "keras.optimizers", "class_name": "Lion", "config": {"learning_rate": 0.5}, "registered_name": null}"#,
            r#"{"learning_rate": 0.1, "weight_decay": 0.5, "clipvalue": 1.0}"#,
        ];
        let mut made = ptr::dangling_mut();
        let mut plan = self.plan();
        let ordinary = !self.one_in(3);
        let json = self.text(&JSON);
        let wanted = LionOptions {
            struct_size: 0,
            learning_rate: if ordinary { 0.01 } else { self.float() },
            beta_1: if ordinary { 0.9 } else { self.float() },
            beta_2: if ordinary { 0.99 } else { self.float() },
            weight_decay: if ordinary { 0.1 } else { self.float() },
            json: if self.rng.bool() { ptr::null() } else { json },
            plan: if self.rng.bool() { ptr::null() } else { plan.address() },
        };
        let mut wanted = self.structs(vec![wanted]);
        let config = self.text(&CONFIGS);
        let from_config = self.one_in(4);
        // SAFETY: structs and texts as the header asks.
        let status = self.call("lion_new", || unsafe {
            match from_config {
                true => lion_new_from_config(config, &raw mut made),
                false => lion_new(wanted.address(), &raw mut made),
            }
        });
        match status {
            LION_OK => self.optimizers.push(made),
            _ => assert!(made.is_null() || made == ptr::dangling_mut()),
        }
        if status == LION_OK && !self.one_in(4) {
            for index in 0..SHAPES.len() {
                self.register(made, index);
            }
        }
    }

    pub(crate) fn register(&mut self, optimizer: *mut LionOptimizer, index: usize) {
        let mut shape: Vec<usize> = SHAPES[index].to_vec();
        if self.one_in(20) {
            shape = (0..self.rng.usize(..4)).map(|_| self.number(20)).collect();
        }
        // A state that memory cannot be had for is fine; one that takes long to be made is not.
        if shape.iter().try_fold(1_usize, |all, side| all.checked_mul(*side)).is_some_and(|all| all > 1 << 30)
        {
            shape.clear();
        }
        let wanted = LionVariableOptions {
            momentum_dtype: if self.one_in(4) { self.dtype() } else { 0 },
            exclude_from_weight_decay: self.one_in(4).into(),
            overwrite_with_gradient: self.one_in(8).into(),
            shard_start: if self.one_in(10) { self.number(10) } else { 0 },
            shard_end: if self.one_in(10) { self.number(5000) } else { 0 },
            group: if self.one_in(4) { self.number(3) as LionGroup } else { 0 },
            constraint: if self.one_in(4) { self.text(&CONSTRAINTS) } else { ptr::null() },
            ..VARIABLE
        };
        let mut wanted = self.structs(vec![wanted]);
        let name = self.text(&[["a", "b.bias", "c"][index]]);
        let dtype = if self.one_in(20) { self.dtype() } else { DTYPES[index] };
        let mut id = 0;
        // SAFETY: as in `build`.
        self.call("lion_register", || unsafe {
            lion_register(optimizer, name, shape.as_ptr(), shape.len(), dtype, wanted.address(), &raw mut id)
        });
    }

    fn plan(&mut self) -> Structs {
        let isa = self.text(&["scalar", "auto", "avx2", "neon"]);
        let plan = LionPlan {
            struct_size: 0,
            isa: if self.rng.bool() { ptr::null() } else { isa },
            threads: self.number(4),
            chunk_elements: self.number(9000),
            parallel_threshold: self.number(3),
        };
        self.structs(vec![plan])
    }

    pub(crate) fn rest(&mut self) {
        const NAMES: [&str; 5] = ["learning_rate", "beta_1", "beta_2", "weight_decay", "use_ema"];
        const VALUES: [&str; 5] = ["0.5", "null", "1e999", "\"text\"", r#"{"class_name": "CosineDecay"}"#];
        let optimizer = self.optimizer();
        let (name, value, number) = (self.text(&NAMES), self.text(&VALUES), self.float());
        let path: PathBuf = self.folder.path().join(["one", "other", "missing/one", ""][self.rng.usize(..4)]);
        let path = text(path.to_str().expect("UTF-8"));
        let mut parameters = if self.rng.bool() { self.right_updates() } else { self.updates() };
        let count = if self.rng.bool() { parameters.count } else { 0 };
        let memory = self.tensor();
        let (kind, threads, bytes) = (self.rng.u32(..12), self.number(5), self.rng.usize(..MEMORY / 2));
        let mut metrics = self.structs(vec![METRICS]);
        let mut pages = self.structs(vec![PAGES]);
        let pages = if self.rng.bool() { ptr::null_mut() } else { pages.address() };
        let mut plan = self.plan();
        let plan = if self.one_in(3) { ptr::null() } else { plan.address() };
        let (hyperparameters, mut group) = (self.text(&GROUPS), self.number(4) as LionGroup);
        // As long as the longest struct.
        let (mut memory_of_options, size) = ([0_u64; 512], self.number(5000));
        let made = if self.one_in(20) { ptr::null_mut() } else { memory_of_options.as_mut_ptr().cast() };
        let host = self.rng.bool().then_some(host as unsafe extern "C" fn(_, _, _, _));
        // SAFETY: as in `step`; `host` needs no context.
        self.call("another call", || unsafe {
            match kind {
                0 => lion_set(optimizer, name, value),
                1 => lion_set_learning_rate(optimizer, number),
                2 => lion_save(optimizer, path.as_ptr(), parameters.address(), count),
                3 => lion_load(optimizer, path.as_ptr(), parameters.address(), count),
                4 => lion_set_parallel_for(optimizer, threads, host, ptr::null_mut()),
                5 => lion_advise_huge_pages(memory, bytes, pages),
                6 => lion_set_plan(optimizer, plan),
                7 => lion_options_init(made, size),
                8 => lion_set_group(optimizer, group, hyperparameters),
                9 | 10 => lion_add_group(optimizer, hyperparameters, &raw mut group),
                _ => lion_metrics(optimizer, metrics.address()),
            }
        });
    }
}

/// A host that runs its workers on the calling thread, the last ones first, and some that there are not.
///
/// # Safety
/// `run` and `work` are the library's, of a call that has not returned.
unsafe extern "C" fn host(_: *mut c_void, n: usize, run: LionWork, work: *mut c_void) {
    for worker in (0..n.saturating_add(2)).rev() {
        // SAFETY: the library's work.
        unsafe { run(work, worker) };
    }
}
