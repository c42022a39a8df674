//! API keys: who may ask, how much, and until when.
//!
//! A TOML file holds of each key its name, what it may do, and the SHA-256 of it, never the key. Keys have 256 random
//! bits, so a plain digest is enough: what argon2 makes expensive is guessing passwords, and each request
//! would pay for it.

mod digest;
mod edit;
mod file;
mod files;
mod first;
mod ring;
mod watch;

pub use digest::ApiKey;
pub use edit::{EditError, KeyChange, NewKey, edit};
#[cfg(fuzzing)]
pub use file::fuzz;
pub use file::{Expiry, KeyEntry, KeysFileError, parse};
pub use first::make_first;
pub use ring::{KeyRejection, KeyRing};
pub use watch::watch;
