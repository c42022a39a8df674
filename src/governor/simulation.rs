//! The whole of the deciding half against models of a gateway: power as a straight line over busy
//! time, heat as a body that warms and cools, both with noise.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::Measures;
use super::ladder::{LadderInput, LadderState, Pressure};
use super::pacer::{Interval, Pacer};
use super::policy::Policy;
use crate::config::{Sources, load};
use crate::headroom::{PowerHeadroom, PowerModel, Resource};

/// A generator of noise that is the same every time.
struct Noise(u64);

impl Noise {
    /// Uniform in `-size..=size`.
    #[allow(clippy::cast_precision_loss)] // 53 bits are meant
    fn next(&mut self, size: f64) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        size * ((self.0 >> 11) as f64 / (1_u64 << 52) as f64 - 1.0)
    }
}

/// A box that is asked for more than it can do.
#[derive(Debug, Clone, Copy)]
struct Board {
    idle: f64,
    full: f64,
    /// Seconds of a step of the engine.
    step: f64,
    /// Share of the noise in what the sensor says.
    noise: f64,
    seed: u64,
}

/// Everything that the governor keeps, driven as its thread drives it.
struct Deciding {
    policy: Policy,
    state: LadderState,
    pacer: Pacer,
    model: PowerModel,
    draws: Vec<f64>,
    measures: Measures,
    now: Instant,
    levels: Vec<u8>,
}

impl Deciding {
    fn new() -> Self {
        let policy = Policy::new(&load(&Sources::default()).expect("defaults").governor);
        Self {
            state: LadderState::new(&policy),
            policy,
            pacer: Pacer::default(),
            model: PowerModel::default(),
            draws: Vec::new(),
            measures: Measures::NONE,
            now: Instant::now(),
            levels: Vec::new(),
        }
    }

    fn second(&mut self, watts: f64, busy: f64, budget: f64, thermal: Option<f64>) {
        self.now += Duration::from_secs(1);
        self.model.observe(watts, busy);
        self.draws.push(watts);
        let recent = &self.draws[self.draws.len().saturating_sub(5)..];
        #[allow(clippy::cast_precision_loss)] // five
        let drawn = recent.iter().sum::<f64>() / recent.len() as f64;
        let power = PowerHeadroom {
            drawn_by: "board".to_owned(),
            budget_by: "configured",
            drawn,
            budget,
        };
        let interval = Interval {
            watts,
            budget,
            busy,
        };
        let energy_rate = self.model.energy_rate();
        self.pacer = self
            .pacer
            .next(interval, energy_rate, self.policy.least_duty);
        let of = |resource, value| Pressure {
            resource,
            value,
            is_given: false,
        };
        let thermal = thermal.map(|value| of(Resource::Thermal, value));
        let input = LadderInput {
            pressures: std::iter::once(of(Resource::Power, power.pressure()))
                .chain(thermal)
                .collect(),
            pacer: Some(self.pacer),
        };
        self.state = self.state.next(&self.policy, &input, self.now);
        self.measures = self.state.measures(&self.policy, &input, self.now);
        self.levels.push(self.state.level(&self.policy));
    }

    fn changes(&self, from: usize) -> usize {
        let levels = &self.levels[from..];
        levels.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }
}

/// An engine that steps and rests as it is told, and always has something to do.
#[derive(Default)]
struct Engine {
    /// Whether it rests, and for how many seconds it goes on with what it does.
    resting: bool,
    left: f64,
}

impl Engine {
    /// Seconds of work within the next second.
    fn second(&mut self, step: f64, duty: f64) -> f64 {
        let (mut second, mut busy) = (1.0, 0.0);
        while second > 1e-9 {
            if self.left <= 1e-9 {
                self.resting = !self.resting;
                self.left = if self.resting {
                    step * (1.0 / duty - 1.0)
                } else {
                    step
                };
            }
            let passes = self.left.min(second);
            self.left -= passes;
            second -= passes;
            if !self.resting {
                busy += passes;
            }
        }
        busy
    }
}

/// Average watts and busy share over the last half minute of `seconds`.
fn run(board: Board, budget: f64, rest_before: usize, seconds: usize) -> (f64, f64, Deciding) {
    let mut noise = Noise(board.seed | 1);
    let mut deciding = Deciding::new();
    let mut engine = Engine::default();
    let (mut watts_sum, mut busy_sum) = (0.0, 0.0);
    for second in 0..rest_before + seconds {
        let busy = if second < rest_before {
            0.0
        } else {
            engine.second(board.step, deciding.measures.duty)
        };
        let watts = board.idle + (board.full - board.idle) * busy;
        if second >= rest_before + seconds - 30 {
            watts_sum += watts / 30.0;
            busy_sum += busy / 30.0;
        }
        let seen = watts * (1.0 + noise.next(board.noise));
        deciding.second(seen, busy, budget, None);
    }
    (watts_sum, busy_sum, deciding)
}

#[test]
fn sixty_percent_of_full_draw_is_held_and_used() {
    for rest_before in [0, 10] {
        let board = Board {
            idle: 8.0,
            full: 20.0,
            step: 0.03,
            noise: 0.03,
            seed: 7,
        };
        let (watts, busy, deciding) = run(board, 12.0, rest_before, 60);
        assert!((watts / 12.0 - 1.0).abs() < 0.05, "{watts} W");
        let allowed = (12.0 - 8.0) / (20.0 - 8.0);
        assert!(busy > 0.85 * allowed, "{busy} of {allowed}");
        assert!(deciding.measures.refusal.is_none());
        assert!((deciding.measures.rows - 1.0).abs() < 1e-9);
    }
}

#[test]
fn a_burst_after_a_known_burst_does_not_overdraw() {
    let board = Board {
        idle: 8.0,
        full: 20.0,
        step: 0.03,
        noise: 0.02,
        seed: 3,
    };
    let (_, _, mut deciding) = run(board, 12.0, 10, 60);
    let mut engine = Engine::default();
    for _ in 0..30 {
        deciding.second(8.0, 0.0, 12.0, None);
    }
    let mut sum = 0.0;
    for _ in 0..30 {
        let busy = engine.second(0.03, deciding.measures.duty);
        let watts = 8.0 + 12.0 * busy;
        sum += watts;
        deciding.second(watts, busy, 12.0, None);
    }
    assert!((sum / 30.0 / 12.0 - 1.0).abs() < 0.05, "{} W", sum / 30.0);
}

#[test]
fn a_budget_that_only_refusal_can_hold_ends_in_refusal_and_comes_back() {
    let mut deciding = Deciding::new();
    // Another program draws 14 W of the 12.
    for _ in 0..60 {
        let busy = 0.1;
        deciding.second(22.0 + 12.0 * busy, busy, 12.0, None);
    }
    let refusal = deciding.measures.refusal.expect("refused");
    assert_eq!(refusal.resource, Resource::Power);
    for _ in 0..140 {
        deciding.second(8.0, 0.0, 12.0, None);
    }
    assert!(deciding.measures.refusal.is_none() && deciding.measures.sibling.is_none());
    assert!((deciding.measures.rows - 1.0).abs() < 1e-9 && deciding.measures.flex);
}

#[test]
fn a_sibling_that_makes_heat_bearable_does_not_come_and_go_all_the_time() {
    let mut deciding = Deciding::new();
    let mut body = Body {
        celsius: 60.0,
        ambient: 50.0,
        degrees_per_watt: 2.0,
        time: 120.0,
    };
    let (mut engine, mut switches, mut hottest) = (Engine::default(), 0, f64::MIN);
    for _ in 0..7200 {
        let has_sibling = deciding.measures.sibling.is_some();
        // The smaller model does all that is asked of it in a third of the time.
        let asked = if has_sibling { 0.33 } else { 1.0 };
        let busy = engine.second(0.03, deciding.measures.duty).min(asked);
        let watts = 8.0 + 17.0 * busy;
        body.second(watts);
        hottest = body.celsius.max(hottest);
        let pressure = (1.0 - (90.0 - body.celsius) / 25.0).clamp(0.0, 1.0);
        deciding.second(watts, busy, 1000.0, Some(pressure));
        switches += usize::from(deciding.measures.sibling.is_some() != has_sibling);
    }
    assert!(hottest < 90.0, "{hottest} °C");
    // A minute and a half each at least, on average.
    assert!((1..=80).contains(&switches), "{switches} in two hours");
}

#[test]
fn what_other_programs_draw_now_and_then_is_made_room_for() {
    let mut deciding = Deciding::new();
    let mut engine = Engine::default();
    let mut sum = 0.0;
    for second in 0..600 {
        let others = if second / 40 % 2 == 0 { 0.0 } else { 3.0 };
        let busy = engine.second(0.03, deciding.measures.duty);
        let watts = 8.0 + 12.0 * busy + others;
        if second >= 360 {
            sum += watts / 240.0;
        }
        deciding.second(watts, busy, 15.0, None);
        assert!(deciding.measures.refusal.is_none());
    }
    assert!((sum / 15.0 - 1.0).abs() < 0.05, "{sum} W");
    assert!((deciding.measures.rows - 1.0).abs() < 1e-9);
}

/// A body that warms towards what the power makes of it, and the noise of its sensor.
struct Body {
    celsius: f64,
    ambient: f64,
    /// Degrees for each watt, in the end.
    degrees_per_watt: f64,
    /// Seconds until two thirds of that.
    time: f64,
}

impl Body {
    fn second(&mut self, watts: f64) {
        let target = self.ambient + self.degrees_per_watt * watts;
        self.celsius += (target - self.celsius) / self.time;
    }
}

/// Two hours at full load in a place where full load is too hot: final temperature and decisions.
fn heat(ambient: f64, time: f64, noise: f64, seed: u64) -> (Vec<f64>, Deciding) {
    let mut deciding = Deciding::new();
    let mut noise_of = Noise(seed | 1);
    let mut engine = Engine::default();
    let mut body = Body {
        celsius: ambient + 16.0,
        ambient,
        degrees_per_watt: 2.0,
        time,
    };
    let mut celsius = Vec::new();
    for _ in 0..7200 {
        let busy = if deciding.measures.refusal.is_some() {
            0.0
        } else {
            engine.second(0.03, deciding.measures.duty)
        };
        let watts = 8.0 + 17.0 * busy;
        body.second(watts);
        celsius.push(body.celsius);
        let headroom = 90.0 - (body.celsius + noise_of.next(noise));
        let pressure = (1.0 - headroom / 25.0).clamp(0.0, 1.0);
        deciding.second(watts, busy, 1000.0, Some(pressure));
    }
    (celsius, deciding)
}

#[test]
fn heat_is_held_below_its_limit_without_swinging() {
    // Full load would end at 100 °C with the limit at 90.
    let (celsius, deciding) = heat(50.0, 120.0, 0.7, 11);
    let hottest = celsius.iter().copied().fold(f64::MIN, f64::max);
    assert!(hottest < 90.0, "{hottest} °C");
    let settled = &celsius[3600..];
    let low = settled.iter().copied().fold(f64::MAX, f64::min);
    let high = settled.iter().copied().fold(f64::MIN, f64::max);
    assert!(high - low < 2.0, "between {low} and {high} °C");
    assert!(
        deciding.changes(600) <= 2,
        "{} changes",
        deciding.changes(600)
    );
    assert!(deciding.measures.duty > 0.2 && deciding.measures.refusal.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Any board, any step, noise of a sensor: after a minute the budget is held within 5 % over
    /// half a minute, and at least 85 % of what it allows is used.
    #[test]
    fn any_budget_between_rest_and_full_is_held_and_used(
        idle in 2.0_f64..30.0,
        more in 0.5_f64..4.0,
        place in 0.25_f64..0.9,
        step in 0.002_f64..0.25,
        noise in 0.0_f64..0.03,
        rest_before in 0_usize..20,
        seed in any::<u64>(),
    ) {
        let full = idle * (1.0 + more);
        let budget = idle + place * (full - idle);
        let board = Board { idle, full, step, noise, seed };
        let (watts, busy, deciding) = run(board, budget, rest_before, 90);
        prop_assert!((watts / budget - 1.0).abs() < 0.05, "{watts} W of {budget} W");
        let allowed = (budget - idle) / (full - idle);
        prop_assert!(busy > 0.85 * allowed, "{busy} of {allowed}");
        prop_assert!(deciding.measures.refusal.is_none());
        prop_assert!(deciding.changes(30) <= 4, "{} changes", deciding.changes(30));
    }

    /// Any place, any body, noise of a degree: the limit holds, nothing swings, and the level does
    /// not change more often than every ten minutes.
    #[test]
    fn heat_never_makes_it_oscillate(
        ambient in 25.0_f64..62.0,
        time in 30.0_f64..400.0,
        noise in 0.0_f64..1.0,
        seed in any::<u64>(),
    ) {
        let (celsius, deciding) = heat(ambient, time, noise, seed);
        let hottest = celsius.iter().copied().fold(f64::MIN, f64::max);
        prop_assert!(hottest < 91.0, "{hottest} °C");
        let settled = &celsius[3600..];
        let low = settled.iter().copied().fold(f64::MAX, f64::min);
        let high = settled.iter().copied().fold(f64::MIN, f64::max);
        prop_assert!(high - low < 4.0, "between {low} and {high} °C");
        prop_assert!(deciding.changes(600) <= 11, "{} changes", deciding.changes(600));
    }
}
