//! What the governor's measures mean for a scheduler.

use std::time::Duration;

use crate::admission::ServiceTier;
use crate::governor::{ComputeGuard, GovernorHandle, Measures};
use crate::headroom::EnergyRate;

/// How often the measures are looked at while every waiting request is held back by them.
const HELD_BACK_CHECK: Duration = Duration::from_millis(20);

/// Translates what the governor asks for into bounds of the step that is about to be computed.
#[derive(Debug)]
pub(super) struct GovernedLimits {
    governed: GovernorHandle,
    /// What the governor asked for when the step began.
    measures: Measures,
}

impl Default for GovernedLimits {
    fn default() -> Self {
        Self::new(GovernorHandle::default())
    }
}

impl GovernedLimits {
    pub(super) fn new(governed: GovernorHandle) -> Self {
        Self {
            governed,
            measures: Measures::NONE,
        }
    }

    /// Takes over the measures of this moment; they hold until the next call.
    pub(super) fn refresh(&mut self) {
        self.measures = self.governed.measures();
    }

    /// Whether requests of this class are computed at all.
    pub(super) fn serves(&self, class: ServiceTier) -> bool {
        self.measures.flex || class != ServiceTier::Flex
    }

    /// How many sequences may run together, of `most` without a governor.
    pub(super) fn running(&self, most: usize) -> usize {
        self.measures.rows_of(most)
    }

    /// How many of all `cells` parked sequences may hold; `None` where the governor sets no bound.
    pub(super) fn parked_cells(&self, cells: usize) -> Option<usize> {
        self.measures.parked_of(cells)
    }

    /// Says that the model computes until the returned guard is dropped.
    pub(super) fn working(&self) -> ComputeGuard {
        self.governed.work()
    }

    /// What power costs and computing draws, where that is known.
    pub(super) fn energy_rate(&self) -> Option<EnergyRate> {
        self.governed.energy_rate()
    }

    /// How long to rest after a step that took `worked`. Where every request
    /// `is_held_back` by the measures the rest is not shorter than it takes to be worth a look
    /// whether they still are.
    pub(super) fn rest_after(&self, worked: Duration, is_held_back: bool) -> Duration {
        let rest = self.governed.measures().rest(worked);
        if is_held_back {
            rest.max(HELD_BACK_CHECK)
        } else {
            rest
        }
    }
}
