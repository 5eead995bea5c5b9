//! What a plan depends on: the processor, its caches, and how much of them this process may use.
//!
//! On x86 the processor says who it is; the rest comes from `/proc` and `/sys`, which are read below a root that tests
//! can choose. On other systems than Linux what has no other source is empty or 0, and nothing fails for it.

mod cgroup;
mod cores;
mod linux;
mod processor;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A machine, as a profile remembers it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The architecture, such as `x86_64`.
    pub arch: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// Who makes the processor, such as `AuthenticAMD`; empty where it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// The processor's family; of an Arm core the architecture.
    pub family: u32,
    /// The model in the family; of an Arm core the part.
    pub model: u32,
    /// The revision of the model.
    pub stepping: u32,
    /// The name that it is sold under; empty where it is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub brand: String,
    /// The extensions that concern the kernels, by Rust's names.
    pub isa: Vec<String>,
    /// The data caches, from the nearest; none where they are not known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<Cache>,
    /// Threads that are worth having: what affinity allows, and not more than the quota pays for.
    pub cores: usize,
    /// Processors that the affinity mask allows.
    pub allowed: usize,
    /// Processors' worth of time that a control group grants, where it limits it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<f64>,
    /// Hardware threads of a core.
    pub smt: usize,
    /// Parts of memory with processors of their own.
    pub numa_nodes: usize,
    /// Bytes of memory; 0 where it is not known.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub memory: u64,
    /// Bytes of a page; 0 where it is not known.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub page_size: u64,
    /// The mode of transparent huge pages, such as `madvise`; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub huge_pages: String,
}

fn is_unknown(bytes: &u64) -> bool {
    *bytes == 0
}

/// A data cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// 1 is the nearest to a core.
    pub level: u8,
    /// Its size.
    pub bytes: u64,
    /// Hardware threads that share one.
    pub shared_by: usize,
}

#[cfg(feature = "tuner")]
/// What caches of which nothing is known are taken for: as much as most machines have, so that calls on more than this
/// come from memory.
const UNKNOWN_CACHES: u64 = 128 << 20;

impl Machine {
    /// This machine.
    pub fn detect() -> Self {
        Self::below(Path::new("/"))
    }

    /// This processor, with the caches, cores and memory that `/proc` and `/sys` below a root tell of.
    pub fn below(root: &Path) -> Self {
        let identity = processor::identify(root);
        let cores = cores::read(root);
        Machine {
            arch: std::env::consts::ARCH.into(),
            os: std::env::consts::OS.into(),
            vendor: identity.vendor,
            family: identity.family,
            model: identity.model,
            stepping: identity.stepping,
            brand: identity.brand,
            isa: processor::extensions(),
            caches: linux::caches(root).unwrap_or_else(processor::caches),
            cores: cores.effective(),
            allowed: cores.allowed,
            quota: cores.quota,
            smt: linux::siblings(root).unwrap_or(1),
            numa_nodes: linux::numa_nodes(root).unwrap_or(1),
            memory: linux::memory(root).unwrap_or(0),
            page_size: linux::page_size(root).unwrap_or(0),
            huge_pages: linux::huge_pages(root).unwrap_or_default(),
        }
    }

    /// What people call it: the processor's name, or else the architecture.
    pub fn name(&self) -> &str {
        if self.brand.trim().is_empty() { &self.arch } else { &self.brand }
    }

    /// Bytes of a data cache; 0 where there is none of that level, or nothing is known of it.
    pub fn cache(&self, level: u8) -> u64 {
        self.caches.iter().find(|cache| cache.level == level).map_or(0, |cache| cache.bytes)
    }

    /// Bytes that all last-level caches hold together which the allowed processors reach.
    pub fn last_level(&self) -> u64 {
        let Some(last) = self.caches.last() else { return 0 };
        let caches = self.allowed.div_ceil(last.shared_by.max(1)).max(1);
        last.bytes.saturating_mul(caches as u64)
    }

    /// Twice what the caches hold: a call on more is never warm, and calls that take turns on so much are always cold.
    #[cfg(feature = "tuner")]
    pub(crate) fn beyond_caches(&self) -> u64 {
        let held = match self.last_level() {
            0 => UNKNOWN_CACHES,
            held => held,
        };
        held.saturating_mul(2)
    }

    /// The core that the kernels' defaults are known for.
    pub fn microarchitecture(&self) -> Microarchitecture {
        let has = |name: &str| self.isa.iter().any(|it| it == name);
        match (self.arch.as_str(), self.vendor.as_str(), self.family) {
            // Family 25 is Zen 3 and Zen 4, of which only the second has AVX-512.
            ("x86_64", "AuthenticAMD", 0x19) if has("avx512f") => Microarchitecture::Zen4,
            // AVX-512 FP16 came with this core; hypervisors hide its model.
            ("x86_64", "GenuineIntel", 6) if has("avx512fp16") => Microarchitecture::SapphireRapids,
            ("x86_64", ..) => Microarchitecture::X86_64,
            ("aarch64", ..) => Microarchitecture::Aarch64,
            _ => Microarchitecture::Other,
        }
    }
}

/// Cores that differ in what is the best default.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Microarchitecture {
    /// AMD's Zen 4.
    Zen4,
    /// Intel's server cores from Sapphire Rapids on.
    SapphireRapids,
    /// Any other x86-64.
    X86_64,
    /// Any 64-bit Arm.
    Aarch64,
    /// None of these.
    Other,
}

impl fmt::Display for Microarchitecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Microarchitecture::Zen4 => "Zen 4",
            Microarchitecture::SapphireRapids => "Sapphire Rapids or later",
            Microarchitecture::X86_64 => "x86-64",
            Microarchitecture::Aarch64 => "aarch64",
            Microarchitecture::Other => "unknown",
        })
    }
}
