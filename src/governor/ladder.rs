//! Which measures hold: a function of the state before, the pressures and the time.
//!
//! A measure begins when pressure has been above its threshold for a while, and ends when it has
//! been clearly below for longer; one that begins again soon after it ended is held for twice as
//! long each time, so that what ends the pressure does not bring it straight back. What can be
//! taken more or less far moves slowly, and faster up than down.

use std::time::{Duration, Instant};

use crate::headroom::Resource;

use super::pacer::Pacer;
use super::policy::{Action, Policy, Rung};
use super::{Measures, Shedding};

/// Strength a second, up and down.
const UP: f64 = 0.5;
const DOWN: f64 = 0.1;
/// A measure is eased only when pressure demands less strength by more than this.
const DEAD_BAND: f64 = 0.1;
/// Relapses that still make it last longer: eight times as long at most.
const MOST_RELAPSES: u32 = 3;
/// A measure that begins again within this many recovery times has relapsed.
const RELAPSE: u32 = 4;

/// How short a resource is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pressure {
    pub(super) resource: Resource,
    pub(super) value: f64,
    /// Not by a measured draw, but by a rehearsal or the firmware: pacing cannot be seen to help.
    pub(super) is_given: bool,
}

/// What a decision depends on besides the state. A resource of which nothing is known makes no
/// pressure.
#[derive(Debug, Clone, Default)]
pub(super) struct LadderInput {
    pub(super) pressures: Vec<Pressure>,
    /// Where power is paced by its controller.
    pub(super) pacer: Option<Pacer>,
}

impl LadderInput {
    pub(super) fn of(&self, resource: Resource) -> Option<Pressure> {
        let mut pressures = self.pressures.iter();
        pressures
            .find(|pressure| pressure.resource == resource)
            .copied()
    }

    /// The controller, if it is what decides on power.
    fn controller(&self) -> Option<Pacer> {
        let is_given = self.of(Resource::Power).is_some_and(|power| power.is_given);
        self.pacer.filter(|_| !is_given)
    }
}

/// One measure.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    Off {
        /// Since when pressure has been above the threshold.
        over: Option<Instant>,
    },
    On {
        /// How far it is taken, 0 to 1.
        strength: f64,
        /// Since when pressure has been clearly below the threshold.
        below: Option<Instant>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct RungState {
    phase: Phase,
    /// When it last ended.
    ended: Option<Instant>,
    relapses: u32,
}

impl RungState {
    const NEW: Self = Self {
        phase: Phase::Off { over: None },
        ended: None,
        relapses: 0,
    };

    fn strength(&self) -> Option<f64> {
        match self.phase {
            Phase::Off { .. } => None,
            Phase::On { strength, .. } => Some(strength),
        }
    }

    /// How long pressure must be gone before it ends.
    fn hold(&self, policy: &Policy) -> Duration {
        policy.recover * (1 << self.relapses)
    }
}

/// All measures, in the order of the policy's rungs.
#[derive(Debug, Clone)]
pub(super) struct LadderState {
    rung_states: Vec<RungState>,
    at: Option<Instant>,
}

impl LadderState {
    pub(super) fn new(policy: &Policy) -> Self {
        Self {
            rung_states: vec![RungState::NEW; policy.rungs.len()],
            at: None,
        }
    }

    /// The state after `now`.
    pub(super) fn next(&self, policy: &Policy, input: &LadderInput, now: Instant) -> Self {
        let passed = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        let rung_states = policy
            .rungs
            .iter()
            .zip(&self.rung_states)
            .map(|(rung, rung_state)| {
                let demand = self.demand(policy, rung, input);
                advance(*rung_state, demand, rung, policy, now, passed)
            })
            .collect();
        Self {
            rung_states,
            at: Some(now),
        }
    }

    /// What pressure asks of a rung.
    fn demand(&self, policy: &Policy, rung: &Rung, input: &LadderInput) -> RungDemand {
        let value = input
            .of(rung.resource)
            .map_or(0.0, |pressure| pressure.value);
        let mut demand = RungDemand {
            begin: value >= rung.from,
            end: value < rung.from - policy.hysteresis,
            strength: ((value - rung.from) / (rung.full - rung.from).max(0.01)).clamp(0.0, 1.0),
        };
        if !rung.action.is_graded() {
            demand.strength = 1.0;
        }
        if rung.resource == Resource::Power
            && let Some(pacer) = input.controller()
        {
            match rung.action {
                Action::Pace => {
                    demand = RungDemand {
                        begin: pacer.is_biting,
                        end: !pacer.is_biting,
                        // The controller decides on that.
                        strength: 0.0,
                    };
                }
                Action::Rows | Action::Sibling | Action::Refuse => {
                    demand.begin &= pacer.is_exhausted;
                }
                Action::Cache | Action::Flex => {}
            }
        } else if rung.action == Action::Refuse {
            // Only when all that does less harm is done. A sibling is not waited for: there may be none.
            let mut milder = policy
                .rungs
                .iter()
                .zip(&self.rung_states)
                .filter(|(other, _)| other.resource == rung.resource && other.action.is_graded());
            demand.begin &= milder.all(|(_, rung_state)| rung_state.strength() >= Some(1.0));
        }
        demand
    }

    /// The hardest measure that holds.
    pub(super) fn level(&self, policy: &Policy) -> u8 {
        self.held(policy)
            .map(|(rung, _)| rung.action.level())
            .max()
            .unwrap_or(0)
    }

    /// The hardest measure that holds, and for what.
    pub(super) fn hardest(&self, policy: &Policy) -> Option<(Action, Resource)> {
        let held = self
            .held(policy)
            .map(|(rung, _)| (rung.action, rung.resource));
        held.max_by_key(|(action, _)| *action)
    }

    /// Measures that hold now and did not in `before`.
    pub(super) fn begun<'a>(
        &'a self,
        before: &'a Self,
        policy: &'a Policy,
    ) -> impl Iterator<Item = (Action, Resource)> + 'a {
        policy
            .rungs
            .iter()
            .zip(self.rung_states.iter().zip(&before.rung_states))
            .filter(|(_, (now, before))| now.strength().is_some() && before.strength().is_none())
            .map(|(rung, _)| (rung.action, rung.resource))
    }

    /// What is to be done.
    pub(super) fn measures(&self, policy: &Policy, input: &LadderInput, now: Instant) -> Measures {
        let strongest = |action: Action| {
            self.held(policy)
                .filter(|(rung, _)| rung.action == action)
                .filter_map(|(_, rung_state)| rung_state.strength())
                .fold(0.0, f64::max)
        };
        let between = |strength: f64, least: f64| strength * least + (1.0 - strength);
        let paced = between(strongest(Action::Pace), policy.least_duty);
        let controlled = input
            .controller()
            .filter(|_| policy.paces_power())
            .map_or(1.0, |pacer| pacer.duty());
        let holding = |action: Action| {
            let mut held = self.held(policy);
            held.find(|(rung, _)| rung.action == action)
        };
        Measures {
            parked: between(strongest(Action::Cache), 0.0),
            flex: holding(Action::Flex).is_none(),
            rows: between(strongest(Action::Rows), policy.least_rows),
            duty: paced.min(controlled),
            sibling: holding(Action::Sibling).map(|(rung, _)| rung.resource),
            refusal: holding(Action::Refuse).map(|(rung, rung_state)| {
                let calm = match rung_state.phase {
                    Phase::On {
                        below: Some(below), ..
                    } => now.saturating_duration_since(below),
                    _ => Duration::ZERO,
                };
                Shedding {
                    resource: rung.resource,
                    retry_after: rung_state
                        .hold(policy)
                        .saturating_sub(calm)
                        .max(Duration::from_secs(1)),
                }
            }),
        }
    }

    /// Every measure, and whether it holds.
    pub(super) fn all<'a>(
        &'a self,
        policy: &'a Policy,
    ) -> impl Iterator<Item = (Action, Resource, bool)> + 'a {
        let rungs = policy.rungs.iter().zip(&self.rung_states);
        rungs
            .map(|(rung, rung_state)| (rung.action, rung.resource, rung_state.strength().is_some()))
    }

    fn held<'a>(&'a self, policy: &'a Policy) -> impl Iterator<Item = (&'a Rung, &'a RungState)> {
        let rungs = policy.rungs.iter().zip(&self.rung_states);
        rungs.filter(|(_, rung_state)| rung_state.strength().is_some())
    }
}

/// What pressure asks of a measure.
#[derive(Debug, Clone, Copy)]
struct RungDemand {
    begin: bool,
    end: bool,
    strength: f64,
}

fn advance(
    rung_state: RungState,
    demand: RungDemand,
    rung: &Rung,
    policy: &Policy,
    now: Instant,
    passed: Duration,
) -> RungState {
    let lasted = |since: Instant| now.saturating_duration_since(since);
    match rung_state.phase {
        Phase::Off { .. } if !demand.begin => RungState {
            phase: Phase::Off { over: None },
            ..rung_state
        },
        Phase::Off { over } => {
            let over = over.unwrap_or(now);
            if lasted(over) < policy.patience(rung.resource) {
                return RungState {
                    phase: Phase::Off { over: Some(over) },
                    ..rung_state
                };
            }
            let soon = rung_state.hold(policy) * RELAPSE;
            let relapsed = rung_state.ended.is_some_and(|ended| lasted(ended) < soon);
            RungState {
                phase: Phase::On {
                    strength: if rung.action.is_graded() { 0.0 } else { 1.0 },
                    below: None,
                },
                relapses: if relapsed {
                    (rung_state.relapses + 1).min(MOST_RELAPSES)
                } else {
                    0
                },
                ..rung_state
            }
        }
        Phase::On { strength, below } => {
            let below = demand.end.then(|| below.unwrap_or(now));
            if below.is_some_and(|below| lasted(below) >= rung_state.hold(policy)) {
                return RungState {
                    phase: Phase::Off { over: None },
                    ended: Some(now),
                    ..rung_state
                };
            }
            RungState {
                phase: Phase::On {
                    strength: moved(strength, demand.strength, passed),
                    below,
                },
                ..rung_state
            }
        }
    }
}

/// Towards what is wanted, as far as the time that passed allows.
fn moved(strength: f64, demand: f64, passed: Duration) -> f64 {
    let seconds = passed.as_secs_f64();
    if demand > strength {
        (strength + UP * seconds).min(demand)
    } else if demand < strength - DEAD_BAND || demand <= 0.0 {
        (strength - DOWN * seconds).max(demand)
    } else {
        strength
    }
}

#[cfg(test)]
#[path = "ladder_tests.rs"]
mod tests;
