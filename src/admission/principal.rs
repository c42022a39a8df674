//! Who asks: the holder of an API key, or anyone where there are no keys.

use std::num::NonZeroU32;

use super::ServiceTier;

/// Whose requests share one part of an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct TenantId(pub u32);

/// Whose prompts may use each other's prefixes in the KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct PrefixGroup(pub u32);

/// What the scheduler knows of who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tenant {
    /// Whose share its requests take.
    pub id: TenantId,
    /// How large that share is beside those of others.
    pub weight: NonZeroU32,
    /// Whose prefixes its prompts may use.
    pub prefix_group: PrefixGroup,
}

impl Default for Tenant {
    fn default() -> Self {
        Self {
            id: TenantId::default(),
            weight: NonZeroU32::MIN,
            prefix_group: PrefixGroup::default(),
        }
    }
}

/// Who asks, and what that one may do.
#[derive(Debug)]
pub struct Principal {
    /// The name of the key; `None` where there are no keys.
    pub name: Option<String>,
    /// What the scheduler knows of it.
    pub tenant: Tenant,
    /// The highest service tier that it may have.
    pub highest_tier: ServiceTier,
}

impl Principal {
    /// Anyone, where there are no keys.
    #[must_use]
    pub fn anyone() -> Self {
        Self {
            name: None,
            tenant: Tenant::default(),
            highest_tier: ServiceTier::Priority,
        }
    }
}
