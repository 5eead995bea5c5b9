//! Identifies the processor.

use std::path::Path;

use super::Cache;

#[derive(Default)]
pub(super) struct Identity {
    pub(super) vendor: String,
    pub(super) family: u32,
    pub(super) model: u32,
    pub(super) stepping: u32,
    pub(super) brand: String,
}

/// Returns the names of those extensions that the processor and the operating system support.
macro_rules! detected {
    ($detect:ident: $($name:tt),+ $(,)?) => {{
        let mut found = Vec::new();
        $(if std::arch::$detect!($name) { found.push($name.to_owned()); })+
        found
    }};
}

#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod known {
    use raw_cpuid::{CacheType, CpuId};

    use super::{Cache, Identity, Path};

    pub(in crate::machine) fn identify(_: &Path) -> Identity {
        let cpuid = CpuId::new();
        let feature = cpuid.get_feature_info();
        let number = |get: fn(&raw_cpuid::FeatureInfo) -> u8| feature.as_ref().map_or(0, get).into();
        Identity {
            vendor: cpuid.get_vendor_info().map(|it| it.as_str().to_owned()).unwrap_or_default(),
            family: number(|it| it.family_id()),
            model: number(|it| it.model_id()),
            stepping: number(|it| it.stepping_id()),
            brand: cpuid
                .get_processor_brand_string()
                .map(|it| it.as_str().trim().to_owned())
                .unwrap_or_default(),
        }
    }

    pub(in crate::machine) fn extensions() -> Vec<String> {
        detected!(is_x86_feature_detected: "avx2", "fma", "f16c", "avx512f", "avx512bw", "avx512vl", "avx512dq",
            "avx512bf16", "avx512fp16")
    }

    /// Returns the caches by CPUID, for operating systems that do not list them.
    pub(in crate::machine) fn caches() -> Vec<Cache> {
        let Some(parameters) = CpuId::new().get_cache_parameters() else { return Vec::new() };
        let data = parameters.filter(|it| matches!(it.cache_type(), CacheType::Data | CacheType::Unified));
        data.map(|it| Cache {
            level: it.level(),
            bytes: [it.sets(), it.associativity(), it.coherency_line_size(), it.physical_line_partitions()]
                .iter()
                .fold(1, |bytes, factor| bytes * *factor as u64),
            shared_by: it.max_cores_for_cache(),
        })
        .collect()
    }
}

#[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
mod known {
    use std::fs;

    use super::{Cache, Identity, Path};

    pub(in crate::machine) fn identify(root: &Path) -> Identity {
        let Ok(text) = fs::read_to_string(root.join("proc/cpuinfo")) else { return Identity::default() };
        let value = |key: &str| {
            let entry = |line: &str| {
                let (found, value) = line.split_once(':')?;
                (found.trim() == key).then(|| value.trim().to_owned())
            };
            text.lines().find_map(entry)
        };
        let number = |key: &str| {
            let text = value(key)?;
            match text.strip_prefix("0x") {
                Some(digits) => u32::from_str_radix(digits, 16).ok(),
                None => text.parse().ok(),
            }
        };
        Identity {
            vendor: value("CPU implementer").unwrap_or_default(),
            family: number("CPU architecture").unwrap_or(0),
            model: number("CPU part").unwrap_or(0),
            stepping: number("CPU revision").unwrap_or(0),
            brand: value("model name").or_else(|| value("Hardware")).unwrap_or_default(),
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub(in crate::machine) fn extensions() -> Vec<String> {
        detected!(is_aarch64_feature_detected: "neon", "fp16", "bf16", "sve", "sve2")
    }

    #[cfg(not(target_arch = "aarch64"))]
    pub(in crate::machine) fn extensions() -> Vec<String> {
        Vec::new()
    }

    pub(in crate::machine) fn caches() -> Vec<Cache> {
        Vec::new()
    }
}

pub(super) use known::{caches, extensions, identify};
