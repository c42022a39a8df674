//! Who loads and who leaves: a plain function of what there is and the time.
//!
//! One model loads at a time, in the order in which they were wanted: what each takes is then known before
//! the next begins. A model that does not fit lets those leave that nobody has used for longest. Where only busy
//! ones could make room, others that fit load meanwhile; after a while ([`TURN`]) busy ones take nothing new, finish what
//! they do and leave, so that models which are always busy do not keep another out for ever. Pinned ones never leave.

use std::time::{Duration, Instant};

/// How long a model waits for busy ones before these make way.
pub(super) const TURN: Duration = Duration::from_secs(15);

/// What a decision depends on.
#[derive(Debug, Clone)]
pub(super) struct PoolSnapshot {
    pub(super) now: Instant,
    /// Bytes that everything together may take; `None` where nobody knows.
    pub(super) budget: Option<u64>,
    /// Bytes that are taken by other things than models, for ever and for now.
    pub(super) fixed: u64,
    pub(super) others: u64,
    /// Bytes that the system could still give; `None` where that is not known.
    pub(super) available: Option<u64>,
    pub(super) models: Vec<ModelView>,
}

/// A model, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(super) struct ModelView {
    pub(super) phase: Phase,
    /// Bytes that it takes, or would take.
    pub(super) bytes: u64,
    /// Whether it never leaves.
    pub(super) is_pinned: bool,
    /// How long it stays without a request; `None` until its memory is needed.
    pub(super) keep_alive: Option<Duration>,
    /// Whether memory is so short that it is to make way for a smaller sibling.
    pub(super) gives_way: bool,
}

/// Where a model is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Not loaded, and nobody wants it.
    Cold,
    /// Wanted, and not begun.
    Queued {
        since: Instant,
        /// Whether somebody still wants it.
        is_wanted: bool,
    },
    /// Being loaded.
    Loading,
    /// It answers.
    Ready {
        /// Since when nobody has used it; `None` while somebody does.
        idle_since: Option<Instant>,
    },
    /// It takes no more requests, or ends.
    Leaving,
}

/// Why a model leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnloadReason {
    /// Nobody has used it for as long as `keep_alive` says.
    Idle,
    /// Another needs its memory.
    Room,
    /// Another has waited for its memory while it was busy.
    Turn,
    /// More memory is taken than may be.
    OverBudget,
    /// Memory is short, and a smaller sibling answers for it.
    Sibling,
    /// An administrator asked for it.
    Asked,
}

impl UnloadReason {
    /// Returns the word in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Room => "room",
            Self::Turn => "turn",
            Self::OverBudget => "over_budget",
            Self::Sibling => "sibling",
            Self::Asked => "asked",
        }
    }
}

/// A model does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryShortage {
    /// Bytes that it needs.
    pub needed: u64,
    /// The most that it could ever have while those stay that never leave.
    pub most: u64,
    /// Bytes that everything together may take.
    pub budget: u64,
}

impl std::fmt::Display for MemoryShortage {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mebibytes = |bytes: u64| bytes.div_ceil(1 << 20);
        write!(
            out,
            "it needs about {} MiB of memory, and at most {} MiB",
            mebibytes(self.needed),
            self.most >> 20
        )?;
        match self.budget {
            u64::MAX => out.write_str(" can be had on this machine"),
            budget => write!(
                out,
                " of {} MiB (pool.memory_budget) can be had",
                budget >> 20
            ),
        }?;
        out.write_str(
            " beside what stays: lower models.context or models.max_running, take a smaller file, or unpin others",
        )
    }
}

/// What is to be done; numbers are places in [`PoolSnapshot::models`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PoolAction {
    /// Begin to load it.
    Load(usize),
    /// Let it go if it is still idle.
    Evict(usize, UnloadReason),
    /// Let it finish what it does, and go.
    Drain(usize, UnloadReason),
    /// It is not wanted any more.
    Forget(usize),
    /// It cannot be loaded.
    Refuse(usize, MemoryShortage),
}

/// Decides what is to be done now.
pub(super) fn decide(pool: &PoolSnapshot) -> Vec<PoolAction> {
    let mut actions = Vec::new();
    let mut pool = pool.clone();
    for (place, model) in pool.models.iter_mut().enumerate() {
        if let Some(action) = model.own_action(place, pool.now) {
            actions.push(action);
            model.phase = match action {
                PoolAction::Forget(_) => Phase::Cold,
                _ => Phase::Leaving,
            };
        }
    }
    if let Some(budget) = pool.budget {
        let over = pool.held().saturating_sub(budget);
        let leaving = pool.leaving();
        if over > leaving {
            let evicted = pool.least_recently_used(over - leaving);
            pool.evict(&evicted, UnloadReason::OverBudget, &mut actions);
        }
    }
    pool.load_next(&mut actions);
    actions
}

impl ModelView {
    /// What is due whatever the others do.
    fn own_action(&self, place: usize, now: Instant) -> Option<PoolAction> {
        match self.phase {
            Phase::Queued {
                is_wanted: false, ..
            } => Some(PoolAction::Forget(place)),
            Phase::Ready { idle_since } if !self.is_pinned => {
                let idle = idle_since.map(|since| now.saturating_duration_since(since));
                if self.gives_way {
                    return Some(PoolAction::Drain(place, UnloadReason::Sibling));
                }
                let is_over = idle >= Some(self.keep_alive?);
                (idle.is_some() && is_over).then_some(PoolAction::Evict(place, UnloadReason::Idle))
            }
            _ => None,
        }
    }

    /// Bytes that it takes now.
    fn held(&self) -> u64 {
        match self.phase {
            Phase::Loading | Phase::Ready { .. } | Phase::Leaving => self.bytes,
            Phase::Cold | Phase::Queued { .. } => 0,
        }
    }

    fn idle_since(&self) -> Option<Instant> {
        match self.phase {
            Phase::Ready { idle_since } if !self.is_pinned => idle_since,
            _ => None,
        }
    }
}

impl PoolSnapshot {
    /// Bytes that are taken by everything.
    fn held(&self) -> u64 {
        self.fixed + self.others + self.models.iter().map(ModelView::held).sum::<u64>()
    }

    /// Bytes that come back without more being done.
    fn leaving(&self) -> u64 {
        let leaving = (self.models.iter()).filter(|model| model.phase == Phase::Leaving);
        leaving.map(|model| model.bytes).sum()
    }

    /// Bytes that are free; all there are, where nobody knows a limit.
    fn free(&self) -> u64 {
        let within = self
            .budget
            .map_or(u64::MAX, |budget| budget.saturating_sub(self.held()));
        within.min(self.available.unwrap_or(u64::MAX))
    }

    /// The most bytes that could ever become free: what is not pinned may leave, and what is held for clients ends.
    fn most(&self) -> u64 {
        let staying = (self.models.iter()).filter(|model| model.is_pinned);
        let staying: u64 = staying.map(ModelView::held).sum();
        self.budget.map_or(u64::MAX, |budget| {
            budget.saturating_sub(self.fixed + staying)
        })
    }

    /// Idle models, least recently used first, until they give back so many bytes; all of them where
    /// that is not enough.
    fn least_recently_used(&self, wanted: u64) -> Vec<usize> {
        let idle = self.models.iter().enumerate();
        let mut idle: Vec<_> = idle
            .filter_map(|(place, model)| Some((model.idle_since()?, place)))
            .collect();
        idle.sort_unstable();
        self.until_freed(wanted, idle.into_iter().map(|(_, place)| place))
    }

    /// The first of these that give back so many bytes together; all of them where that is not enough.
    fn until_freed(&self, wanted: u64, places: impl Iterator<Item = usize>) -> Vec<usize> {
        let mut freed = 0;
        let needed = places.take_while(|place| {
            let is_needed = freed < wanted;
            freed += self.models[*place].bytes;
            is_needed
        });
        needed.collect()
    }

    fn evict(&mut self, places: &[usize], reason: UnloadReason, actions: &mut Vec<PoolAction>) {
        for place in places {
            self.models[*place].phase = Phase::Leaving;
            actions.push(PoolAction::Evict(*place, reason));
        }
    }

    /// Places of those that wait to be loaded, in the order in which they were wanted.
    fn queue(&self) -> Vec<usize> {
        let waiting = self.models.iter().enumerate();
        let mut waiting: Vec<_> = waiting
            .filter_map(|(place, model)| match model.phase {
                // What is pinned comes first: the others find what it leaves.
                Phase::Queued { since, .. } => Some((!model.is_pinned, since, place)),
                _ => None,
            })
            .collect();
        waiting.sort_unstable();
        waiting.into_iter().map(|(_, _, place)| place).collect()
    }

    /// Loads the next in the queue, or makes room for it.
    fn load_next(&mut self, actions: &mut Vec<PoolAction>) {
        for place in self.queue() {
            let needed = self.models[place].bytes;
            if needed > self.most() {
                let shortage = MemoryShortage {
                    needed,
                    most: self.most(),
                    budget: self.budget.unwrap_or(u64::MAX),
                };
                actions.push(PoolAction::Refuse(place, shortage));
                self.models[place].phase = Phase::Cold;
                continue;
            }
            let is_loading = |model: &ModelView| model.phase == Phase::Loading;
            if self.models.iter().any(is_loading) {
                return;
            }
            let missing = needed.saturating_sub(self.free());
            if missing == 0 {
                actions.push(PoolAction::Load(place));
                return;
            }
            if self.makes_room(place, missing, actions) {
                return;
            }
            // It waits for a busy one; the next may fit as it is.
        }
    }

    /// Makes room for a model that misses so many bytes. Returns false where busy models would have to leave and
    /// need not yet.
    fn makes_room(&mut self, place: usize, missing: u64, actions: &mut Vec<PoolAction>) -> bool {
        let Some(missing) = missing.checked_sub(self.leaving()).filter(|left| *left > 0) else {
            return true;
        };
        let idle = self.least_recently_used(missing);
        let bytes = |places: &[usize]| places.iter().map(|at| self.models[*at].bytes).sum::<u64>();
        let freed = bytes(&idle);
        if freed >= missing {
            self.evict(&idle, UnloadReason::Room, actions);
            return true;
        }
        let has_waited = match self.models[place].phase {
            Phase::Queued { since, .. } => self.now.saturating_duration_since(since) >= TURN,
            _ => false,
        };
        let busy = self.largest_busy(missing - freed);
        // Nobody leaves in vain.
        if !has_waited || freed + bytes(&busy) < missing {
            return false;
        }
        self.evict(&idle, UnloadReason::Room, actions);
        for place in busy {
            self.models[place].phase = Phase::Leaving;
            actions.push(PoolAction::Drain(place, UnloadReason::Turn));
        }
        true
    }

    /// Busy models that may leave, the largest first, until they give back so many bytes; all of them where that is
    /// not enough.
    fn largest_busy(&self, wanted: u64) -> Vec<usize> {
        let is_busy = |model: &ModelView| {
            !model.is_pinned && model.phase == Phase::Ready { idle_since: None }
        };
        let busy = self.models.iter().enumerate();
        let mut busy: Vec<_> = busy.filter(|(_, model)| is_busy(model)).collect();
        busy.sort_by_key(|(_, model)| std::cmp::Reverse(model.bytes));
        self.until_freed(wanted, busy.into_iter().map(|(place, _)| place))
    }
}

#[cfg(test)]
#[path = "decision_tests.rs"]
mod tests;
