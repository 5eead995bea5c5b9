//! The fingerprint of a machine: processor, caches, and the cores that this process may use.
//!
//! On x86, CPUID identifies the processor. The rest comes from `/proc` and `/sys`, below a root that tests can choose.
//! Properties that a system does not tell are empty or 0. Detection never fails.

mod cgroup;
mod cores;
mod linux;
mod processor;

use std::fmt;
use std::path::Path;

use serde::{Deserialize, Serialize};

/// A machine, as a profile describes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The architecture, such as `x86_64`.
    pub arch: String,
    /// The operating system, such as `linux`.
    pub os: String,
    /// The vendor of the processor, such as `AuthenticAMD`; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// The processor's family; on Arm the architecture.
    pub family: u32,
    /// The model in the family; on Arm the part.
    pub model: u32,
    /// The revision of the model.
    pub stepping: u32,
    /// The marketing name; empty if unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub brand: String,
    /// The instruction set extensions that matter to the kernels, by Rust's names.
    pub isa: Vec<String>,
    /// The data caches, from the nearest; empty if unknown.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub caches: Vec<Cache>,
    /// The usable cores: those that affinity allows, limited by the quota.
    pub cores: usize,
    /// The number of processors in the affinity mask.
    pub allowed: usize,
    /// The CPU quota of the cgroup in processors, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quota: Option<f64>,
    /// The hardware threads of a core.
    pub smt: usize,
    /// The number of NUMA nodes.
    pub numa_nodes: usize,
    /// The bytes of memory; 0 if unknown.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub memory: u64,
    /// The bytes of a page; 0 if unknown.
    #[serde(default, skip_serializing_if = "is_unknown")]
    pub page_size: u64,
    /// The mode of transparent huge pages, such as `madvise`; empty if the system has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub huge_pages: String,
}

fn is_unknown(bytes: &u64) -> bool {
    *bytes == 0
}

/// A data cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// The level; 1 is the nearest to a core.
    pub level: u8,
    /// The size in bytes.
    pub bytes: u64,
    /// The number of hardware threads that share one.
    pub shared_by: usize,
}

/// The assumed size of unknown caches. It exceeds that of most machines, so that larger calls read from memory.
#[cfg(feature = "tuner")]
const UNKNOWN_CACHES: u64 = 128 << 20;

impl Machine {
    /// Detects this machine.
    pub fn detect() -> Self {
        Self::below(Path::new("/"))
    }

    /// Detects this processor, and reads caches, cores and memory from `/proc` and `/sys` below a root.
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

    /// Returns the processor's name, or else the architecture.
    pub fn name(&self) -> &str {
        if self.brand.trim().is_empty() { &self.arch } else { &self.brand }
    }

    /// Returns the bytes of the data cache of a level; 0 if there is none, or if it is unknown.
    pub fn cache(&self, level: u8) -> u64 {
        self.caches.iter().find(|cache| cache.level == level).map_or(0, |cache| cache.bytes)
    }

    /// Returns the total bytes of the last-level caches of the allowed processors.
    pub fn last_level(&self) -> u64 {
        let Some(last) = self.caches.last() else { return 0 };
        let caches = self.allowed.div_ceil(last.shared_by.max(1)).max(1);
        last.bytes.saturating_mul(caches as u64)
    }

    /// Returns twice the bytes of the caches. A call on more is never warm, and calls that rotate over so much are always
    /// cold.
    #[cfg(feature = "tuner")]
    pub(crate) fn beyond_caches(&self) -> u64 {
        let held = match self.last_level() {
            0 => UNKNOWN_CACHES,
            held => held,
        };
        held.saturating_mul(2)
    }

    /// Returns the microarchitecture, which selects the built-in defaults.
    pub fn microarchitecture(&self) -> Microarchitecture {
        let has = |name: &str| self.isa.iter().any(|it| it == name);
        match (self.arch.as_str(), self.vendor.as_str(), self.family) {
            // Family 25 is Zen 3 and Zen 4. Only Zen 4 has AVX-512.
            ("x86_64", "AuthenticAMD", 0x19) if has("avx512f") => Microarchitecture::Zen4,
            // AVX-512 FP16 came with this core. The model is no help, because hypervisors hide it.
            ("x86_64", "GenuineIntel", 6) if has("avx512fp16") => Microarchitecture::SapphireRapids,
            ("x86_64", ..) => Microarchitecture::X86_64,
            ("aarch64", ..) => Microarchitecture::Aarch64,
            _ => Microarchitecture::Other,
        }
    }
}

/// The microarchitectures with different built-in defaults.
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
    /// Any other.
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
