use std::path::PathBuf;

use crate::config::declare::{choice, section};
use crate::config::setting::{flag, optional_path};

section! {
    /// Who may ask.
    pub struct AuthSettings in ["auth"] {
        /// The file of API keys (see docs/keys.md); one that does not exist yet is made, with a first admin key. Empty is none.
        pub keys_file: Option<PathBuf> = optional_path(),
        /// Whether a server without keys may listen beyond this machine: then anybody on the network may ask.
        pub open: bool = flag(false),
        /// Whose prompts may begin with each other's cached ones: all is fastest, with group no key learns what other groups ask.
        pub share_prefixes: PrefixSharing = PrefixSharing::one_of(PrefixSharing::All),
        /// Who may read `/metrics` once there are keys: admin keys, any key, or everybody (open).
        pub metrics: MetricsAccess = MetricsAccess::one_of(MetricsAccess::Admin),
    }
}

choice! {
    /// Whose prompts may share cached prefixes.
    pub enum PrefixSharing {
        /// Everybody's.
        All = "all",
        /// Those of keys of one group.
        Group = "group",
    }
}

choice! {
    /// Who may read the metrics once there are keys.
    pub enum MetricsAccess {
        /// Administrators.
        Admin = "admin",
        /// Whoever has a key.
        Key = "key",
        /// Everybody.
        Open = "open",
    }
}
