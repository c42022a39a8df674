//! Who asks: the holder of an API key, or anyone where there are no keys.

use std::num::NonZeroU32;
use std::sync::Arc;

use super::ServiceTier;
use super::quota::{Quota, QuotaLimits};

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
    /// The ids of the models that it may use; `None` is all.
    pub models: Option<Vec<String>>,
    /// Whether it may use what is for operators.
    pub is_admin: bool,
    /// What it may use in a minute.
    pub quota: Arc<Quota>,
}

impl Principal {
    /// Anyone, where there are no keys.
    #[must_use]
    pub fn anyone() -> Self {
        Self {
            name: None,
            tenant: Tenant::default(),
            highest_tier: ServiceTier::Priority,
            models: None,
            is_admin: true,
            quota: Arc::new(Quota::new(QuotaLimits::default())),
        }
    }

    /// Whether it is one without a key where there are keys.
    #[must_use]
    pub fn is_stranger(&self) -> bool {
        self.name.is_none() && !self.is_admin
    }

    /// Whether it may use the model of this id.
    #[must_use]
    pub fn may_use(&self, model: &str) -> bool {
        let models = self.models.as_ref();
        models.is_none_or(|models| models.iter().any(|allowed| allowed == model))
    }

    /// The tier that a request gets which asks for this one, or for none.
    #[must_use]
    pub fn granted_tier(&self, asked: Option<ServiceTier>) -> ServiceTier {
        asked.unwrap_or_default().min(self.highest_tier)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_above_the_keys_own_is_lowered_and_none_is_raised() {
        let of = |highest_tier| Principal {
            highest_tier,
            ..Principal::anyone()
        };
        for (highest, asked, granted) in [
            (
                ServiceTier::Default,
                Some(ServiceTier::Priority),
                ServiceTier::Default,
            ),
            (ServiceTier::Priority, None, ServiceTier::Default),
            (
                ServiceTier::Priority,
                Some(ServiceTier::Flex),
                ServiceTier::Flex,
            ),
            (ServiceTier::Flex, None, ServiceTier::Flex),
        ] {
            assert_eq!(
                of(highest).granted_tier(asked),
                granted,
                "{highest:?} {asked:?}"
            );
        }
    }

    #[test]
    fn a_key_with_a_list_of_models_may_use_no_others() {
        let listed = Principal {
            models: Some(vec!["kiosk".to_owned()]),
            ..Principal::anyone()
        };
        assert!(listed.may_use("kiosk") && !listed.may_use("large"));
        assert!(Principal::anyone().may_use("large"));
    }
}
