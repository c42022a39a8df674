use std::path::PathBuf;

use crate::config::declare::section;
use crate::config::setting::{none_or_from, optional_path};

/// Less than this cannot hold any model together with what is computed in it.
const LEAST_MEMORY: i64 = 64 * 1024 * 1024;

section! {
    /// What all models share.
    pub struct PoolSettings in ["pool"] {
        /// Memory that the server may take, models and all, in bytes; 0 is what the machine and its control groups allow.
        pub memory_budget: Option<u64> = none_or_from(LEAST_MEMORY..=1 << 50, "bytes"),
        /// A folder whose GGUF files are served as well, each under its name without .gguf; empty is none.
        ///
        /// It has not been looked at yet.
        pub models_dir: Option<PathBuf> = optional_path(),
    }
}

section! {
    /// What outlasts a restart.
    pub struct StateSettings in ["state"] {
        /// A folder in which the server keeps what it has learnt, like the memory that models take; empty keeps nothing.
        ///
        /// It need not exist yet.
        pub path: Option<PathBuf> = optional_path(),
    }
}

impl StateSettings {
    /// The folder below `state.path` that the server writes into while it runs. What else lies there, such as the file of keys,
    /// is other programs' to write.
    #[must_use]
    pub fn learnt(&self) -> Option<PathBuf> {
        Some(self.path.as_ref()?.join("learnt"))
    }
}
