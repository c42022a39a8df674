//! OpenAI's service tiers.

use serde::Deserialize;

/// OpenAI's service tiers, least urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    /// After the others, which may preempt it.
    Flex,
    /// The tier of requests that ask for none.
    #[default]
    Default,
    /// Before the others.
    Priority,
}

impl ServiceTier {
    /// All of them, least urgent first.
    pub const ALL: [Self; 3] = [Self::Flex, Self::Default, Self::Priority];

    /// Returns OpenAI's name of the tier.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Default => "default",
            Self::Priority => "priority",
        }
    }
}
