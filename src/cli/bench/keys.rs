//! The flags and the variable that say who asks. What is given there is never printed, in messages neither.

use std::ffi::OsString;
use std::fmt;

use clap::Args;

use crate::bench::BenchKeys;
use crate::bench::http::BearerKey;

/// Where a key lies that nobody sees in a list of processes.
pub(super) const VARIABLE: &str = "EDGELLM_API_KEY";

/// The keys that requests carry.
#[derive(Debug, Args)]
pub(super) struct KeyFlags {
    /// The API key to ask with
    #[arg(
        long,
        value_name = "KEY",
        help = "The API key to ask with [default: the variable EDGELLM_API_KEY, which no list of processes shows]"
    )]
    key: Option<GivenKey>,
    /// The API key to ask the second server with
    #[arg(long, value_name = "KEY", requires = "against")]
    against_key: Option<GivenKey>,
    /// The API key of who floods, for --profile flood [default: the other one's]
    #[arg(long, value_name = "KEY")]
    flood_key: Option<GivenKey>,
}

/// A key as it was given.
#[derive(Clone)]
struct GivenKey(String);

impl From<String> for GivenKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for GivenKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("GivenKey(…)")
    }
}

impl KeyFlags {
    /// Whether a flag was given that a flood alone has.
    pub(super) fn has_flood(&self) -> bool {
        self.flood_key.is_some()
    }

    /// The keys of the flags, and of the `variable` where there is no flag.
    ///
    /// # Errors
    /// Names what cannot be a key.
    pub(super) fn read(self, variable: Option<OsString>) -> Result<BenchKeys, String> {
        let key = match self.key {
            Some(given) => Some(read("--key", &given.0)?),
            // A variable that is set to nothing is a usual way to unset it.
            None => variable
                .filter(|value| !value.is_empty())
                .map(|value| read(VARIABLE, &value.to_string_lossy()))
                .transpose()?,
        };
        let read = |name, given: Option<GivenKey>| given.map(|key| read(name, &key.0)).transpose();
        Ok(BenchKeys {
            key,
            against: read("--against-key", self.against_key)?,
            flood: read("--flood-key", self.flood_key)?,
        })
    }
}

fn read(name: &str, key: &str) -> Result<BearerKey, String> {
    BearerKey::new(key).map_err(|fault| format!("{name} is no API key: {fault}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(key: Option<&str>, against_key: Option<&str>) -> KeyFlags {
        let given = |key: &str| GivenKey(key.to_owned());
        KeyFlags {
            key: key.map(given),
            against_key: against_key.map(given),
            flood_key: None,
        }
    }

    #[test]
    fn a_flag_goes_before_the_variable() {
        let variable = |text: &str| Some(OsString::from(text));
        let unusable = variable("schl\u{fc}ssel");
        assert!(flags(Some("k1"), None).read(unusable.clone()).is_ok());
        let mistake = flags(None, None).read(unusable).expect_err("no key");
        assert!(mistake.starts_with("EDGELLM_API_KEY is no API key"));
        assert!(!mistake.contains("schl"), "{mistake}");
        for (variable, has_key) in [(None, false), (variable(""), false), (variable("k2"), true)] {
            let keys = flags(None, None).read(variable).expect("sound");
            assert_eq!(keys.key.is_some(), has_key);
        }
    }

    #[test]
    fn a_mistaken_key_is_named_by_its_flag_and_not_shown() {
        let given = flags(Some("k\u{e9}y"), None);
        assert!(!format!("{given:?}").contains("k\u{e9}y"));
        let mistake = given.read(None).expect_err("no key");
        assert!(mistake.starts_with("--key is no API key"), "{mistake}");
        let mistake = flags(None, Some("\u{e9}")).read(None);
        assert!(mistake.expect_err("no key").starts_with("--against-key"));
    }
}
