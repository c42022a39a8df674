//! The thread that looks, decides and publishes. Reading a sensor may block in its driver, so it
//! is a thread of its own and no task, and nobody waits for it.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::config::GovernorSettings as Settings;
use crate::headroom::{
    EnergyRate, GovernorStatus, HeadroomMetrics, Monitor, PowerModel, Resource, ResourceSnapshot,
};
use crate::sync::Mutex;

use super::ladder::{LadderInput, LadderState, Pressure};
use super::log_sentence::sentence;
use super::pacer::{Interval, Pacer};
use super::policy::Policy;
use super::rehearsal::Rehearsal;
use super::{ComputeTime, GovernorHandle, GovernorOutput, Measures};

/// Without new output for this long, the governor's thread counts as dead; at least five intervals.
const OUTPUT_LIFETIME: Duration = Duration::from_secs(30);

/// Looks after which a budget without a measured draw is reported.
const MAX_LOOKS_WITHOUT_DRAW: u32 = 5;

/// The running governor; dropping it ends its thread after the look that is under way.
#[derive(Debug)]
pub struct Governor {
    handle: GovernorHandle,
    _stop: Sender<()>,
}

impl Governor {
    /// Starts it.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(settings: &Settings, metrics: HeadroomMetrics) -> io::Result<Self> {
        let (publish, published) = watch::channel(GovernorOutput {
            measures: Measures::NONE,
            energy_rate: None,
            until: None,
        });
        let handle = GovernorHandle {
            published,
            work: Arc::default(),
        };
        let mut control_loop = ControlLoop::new(settings, metrics, Arc::clone(&handle.work))?;
        let (stop, stopped) = channel::<()>();
        let interval = settings.sample_interval;
        std::thread::Builder::new()
            .name("governor".to_owned())
            .spawn(move || {
                loop {
                    publish.send_replace(control_loop.step(Instant::now()));
                    if stopped.recv_timeout(interval) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                }
            })?;
        Ok(Self {
            handle,
            _stop: stop,
        })
    }

    /// Returns the handle that schedulers and admission read.
    #[must_use]
    pub fn handle(&self) -> GovernorHandle {
        self.handle.clone()
    }
}

/// The state of the governor's thread.
struct ControlLoop {
    monitor: Monitor,
    metrics: HeadroomMetrics,
    policy: Policy,
    enabled: bool,
    rehearsal: Option<Rehearsal>,
    state: LadderState,
    pacer: Pacer,
    /// What each source of power draws at rest and at work.
    models: BTreeMap<String, PowerModel>,
    work: Arc<Mutex<ComputeTime>>,
    /// When the last look was, and what engines had computed by then.
    last: Option<(Instant, Duration)>,
    output_lifetime: Duration,
    /// Looks in which no sensor saw the draw that a budget is for; `None` once that is logged.
    looks_without_draw: Option<u32>,
    /// Who sees the draw and who sets the budget, as the log has it.
    logged: Option<(String, &'static str)>,
}

impl ControlLoop {
    fn new(
        settings: &Settings,
        metrics: HeadroomMetrics,
        work: Arc<Mutex<ComputeTime>>,
    ) -> io::Result<Self> {
        let mut policy = Policy::new(settings);
        if !settings.enabled {
            policy.rungs.clear();
        }
        for rung in &policy.rungs {
            metrics.announce(rung.action.as_str(), rung.resource);
        }
        Ok(Self {
            monitor: Monitor::new(settings)?,
            metrics,
            enabled: settings.enabled,
            rehearsal: settings.rehearsal_dir.as_deref().map(Rehearsal::new),
            state: LadderState::new(&policy),
            policy,
            pacer: Pacer::default(),
            models: BTreeMap::new(),
            work,
            last: None,
            output_lifetime: OUTPUT_LIFETIME.max(5 * settings.sample_interval),
            looks_without_draw: settings.power_budget.map(|_| 0),
            logged: None,
        })
    }

    fn step(&mut self, now: Instant) -> GovernorOutput {
        let snapshot = self.monitor.look(now);
        self.log_budget(&snapshot);
        let busy = self.busy_share(now);
        self.learn(&snapshot, busy);
        let rehearsal = self.rehearsal.as_mut();
        let rehearsed = rehearsal.map(Rehearsal::read).unwrap_or_default();
        let pressures = pressures(&snapshot, &rehearsed);
        self.pace(&snapshot, busy);
        let has_controller = self.enabled && snapshot.power.is_some() && self.policy.paces_power();
        let input = LadderInput {
            pressures,
            pacer: has_controller.then_some(self.pacer),
        };
        let before = std::mem::replace(&mut self.state, LadderState::new(&self.policy));
        self.state = before.next(&self.policy, &input, now);
        let measures = self.state.measures(&self.policy, &input, now);
        for (action, resource) in self.state.begun(&before, &self.policy) {
            self.metrics.began(action.as_str(), resource);
        }
        let level = self.state.level(&self.policy);
        if level != before.level(&self.policy) {
            let hardest = self.state.hardest(&self.policy);
            let text = sentence(hardest, &measures, &input, &snapshot);
            let duty = measures.duty;
            if level > 0 {
                tracing::warn!(level, duty, "{text}");
            } else {
                tracing::info!(level, "{text}");
            }
        }
        let status = GovernorStatus {
            pressures: input
                .pressures
                .iter()
                .map(|pressure| (pressure.resource, pressure.value))
                .collect(),
            rehearsed,
            measures: self
                .state
                .all(&self.policy)
                .map(|(action, resource, holds)| (action.as_str(), resource, holds))
                .collect(),
            level,
        };
        self.metrics.show(&snapshot, &status, now);
        GovernorOutput {
            measures,
            energy_rate: self.energy_rate(&snapshot),
            until: Some(now + self.output_lifetime),
        }
    }

    /// Says which draw is held against which budget when that changes, and when there is none.
    fn log_budget(&mut self, snapshot: &ResourceSnapshot) {
        if let Some(power) = &snapshot.power {
            self.looks_without_draw = None;
            let logged = (power.drawn_by.clone(), power.budget_by);
            if self.logged.as_ref() != Some(&logged) {
                tracing::info!(
                    drawn_by = power.drawn_by,
                    budget_by = power.budget_by,
                    watts = power.budget,
                    "a power budget holds"
                );
                self.logged = Some(logged);
            }
        } else if let Some(looks) = &mut self.looks_without_draw {
            *looks += 1;
            if *looks > MAX_LOOKS_WITHOUT_DRAW {
                self.looks_without_draw = None;
                tracing::warn!(
                    "governor.power_budget_watts has no effect: no sensor sees what it is for; \
                     name one in governor.board_power_sensor, or declare governor.board_idle_watts \
                     and governor.board_full_watts"
                );
            }
        }
    }

    /// The share of the time since the last look that engines computed, steps under way included.
    fn busy_share(&mut self, now: Instant) -> Option<f64> {
        let done = self.work.lock().done(now);
        let (at, before) = self.last.replace((now, done))?;
        let passed = now.saturating_duration_since(at).as_secs_f64();
        (passed > 0.0).then(|| done.saturating_sub(before).as_secs_f64() / passed)
    }

    fn learn(&mut self, snapshot: &ResourceSnapshot, busy: Option<f64>) {
        let Some(busy) = busy else { return };
        for draw in &snapshot.draws {
            if let Some(watts) = snapshot.latest.get(&draw.source) {
                let model = self.models.entry(draw.source.clone());
                model.or_default().observe(*watts, busy);
            }
        }
    }

    fn pace(&mut self, snapshot: &ResourceSnapshot, busy: Option<f64>) {
        let Some(power) = &snapshot.power else {
            self.pacer = Pacer::default();
            return;
        };
        let latest = snapshot.latest.get(&power.drawn_by);
        if let (Some(busy), Some(watts)) = (busy, latest) {
            let interval = Interval {
                watts: *watts,
                budget: power.budget,
                busy,
            };
            let model = self.models.get(&power.drawn_by);
            let energy_rate = model.and_then(PowerModel::energy_rate);
            self.pacer = self
                .pacer
                .next(interval, energy_rate, self.policy.least_duty);
        }
    }

    fn energy_rate(&self, snapshot: &ResourceSnapshot) -> Option<EnergyRate> {
        self.models
            .get(&snapshot.attributed()?.source)?
            .energy_rate()
    }
}

/// What is measured, and what is rehearsed where that is more.
fn pressures(snapshot: &ResourceSnapshot, rehearsed: &[(Resource, f64)]) -> Vec<Pressure> {
    Resource::ALL
        .into_iter()
        .filter_map(|resource| {
            let measured = snapshot.pressure(resource);
            let given = rehearsed.iter().find(|(found, _)| *found == resource);
            let given = given.map(|(_, pressure)| *pressure);
            let by_firmware = snapshot.live.contains(&resource);
            let value = measured.into_iter().chain(given).reduce(f64::max)?;
            Some(Pressure {
                resource,
                value,
                is_given: by_firmware || given.is_some_and(|given| measured < Some(given)),
            })
        })
        .collect()
}
