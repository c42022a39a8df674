//! The share of the time that the engine may compute, so that the average draw stays just within
//! the budget.

use crate::headroom::EnergyRate;

/// Of the budget, what is aimed at: below it for a controller that is never quite exact.
const AIM: f64 = 0.99;
/// How far a step goes towards what an interval suggests.
const GAIN: f64 = 0.5;
/// An engine that computes less than this share of its duty has nothing more to do. It is looked at
/// over some intervals: a long step fills one and leaves the next empty.
const AT_WORK: f64 = 0.75;
const NEWEST: f64 = 0.3;

/// What is known of an interval.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Interval {
    /// Watts drawn.
    pub(super) watts: f64,
    /// Watts that may be drawn.
    pub(super) budget: f64,
    /// The share of the time that engines computed.
    pub(super) busy: f64,
}

/// A controller of the duty: the share of the time in which the engine may compute.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pacer {
    duty: f64,
    /// How much of its duty the engine uses.
    load: f64,
    /// Whether it is the duty that keeps the engine from computing more.
    pub(super) is_biting: bool,
    /// Whether the last interval overdrew although there is nothing left to pace.
    pub(super) is_exhausted: bool,
}

impl Default for Pacer {
    fn default() -> Self {
        Self {
            duty: 1.0,
            load: 0.0,
            is_biting: false,
            is_exhausted: false,
        }
    }
}

impl Pacer {
    /// The share of the time, 0 to 1.
    pub(super) fn duty(&self) -> f64 {
        self.duty
    }

    /// After an interval: the draw is a straight line over the time that engines compute, whose
    /// slope `energy_rate` has. At work, the duty moves along it by what is missing; at rest, it is set
    /// to where the line meets the budget, so that the next burst does not overshoot. While there
    /// is no line, the duty is taken to be all that the draw depends on.
    pub(super) fn next(
        self,
        interval: Interval,
        energy_rate: Option<EnergyRate>,
        least: f64,
    ) -> Self {
        let Interval {
            watts,
            budget,
            busy,
        } = interval;
        // A long step may fill an interval far beyond the duty.
        let used = (busy / self.duty).min(4.0);
        let load = self.load + NEWEST * (used - self.load);
        let at_work = load >= AT_WORK;
        let aim = AIM * budget;
        let suggested = match energy_rate {
            Some(energy_rate) if at_work => self.duty + (aim - watts) / energy_rate.work,
            Some(EnergyRate {
                idle: Some(_),
                work,
            }) => busy + (aim - watts) / work,
            _ => self.duty * aim / watts.max(f64::MIN_POSITIVE),
        };
        let duty = (self.duty + GAIN * (suggested - self.duty)).clamp(least, 1.0);
        Self {
            duty,
            load,
            is_biting: at_work && duty < 0.99,
            is_exhausted: duty <= least && watts > budget,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENERGY_RATE: Option<EnergyRate> = Some(EnergyRate {
        idle: Some(8.0),
        work: 12.0,
    });

    fn line(duty: f64) -> Interval {
        Interval {
            watts: 8.0 + 12.0 * duty,
            budget: 12.0,
            busy: duty,
        }
    }

    #[test]
    fn at_work_the_average_comes_to_the_budget_and_stays() {
        let mut pacer = Pacer::default();
        for _ in 0..20 {
            pacer = pacer.next(line(pacer.duty()), ENERGY_RATE, 0.1);
        }
        let watts = line(pacer.duty()).watts;
        assert!((watts - AIM * 12.0).abs() < 0.01, "{watts}");
        assert!(pacer.is_biting && !pacer.is_exhausted);
    }

    #[test]
    fn at_rest_the_duty_is_ready_for_the_next_burst() {
        let mut pacer = Pacer::default();
        for _ in 0..20 {
            pacer = pacer.next(line(0.0), ENERGY_RATE, 0.1);
        }
        let watts = line(pacer.duty()).watts;
        assert!((watts - AIM * 12.0).abs() < 0.01, "{watts}");
        assert!(!pacer.is_biting);
    }

    #[test]
    fn without_knowing_the_line_it_is_approached_from_below() {
        let mut pacer = Pacer::default();
        for _ in 0..40 {
            pacer = pacer.next(line(pacer.duty()), None, 0.1);
        }
        let watts = line(pacer.duty()).watts;
        assert!((watts - AIM * 12.0).abs() < 0.1, "{watts}");
    }

    #[test]
    fn what_others_draw_can_exhaust_it() {
        let mut pacer = Pacer::default();
        let others = Interval {
            watts: 15.0,
            budget: 12.0,
            busy: 0.1,
        };
        for _ in 0..20 {
            pacer = pacer.next(others, ENERGY_RATE, 0.1);
        }
        assert!(pacer.is_exhausted);
        for _ in 0..20 {
            pacer = pacer.next(line(pacer.duty()), ENERGY_RATE, 0.1);
        }
        assert!(!pacer.is_exhausted && pacer.duty() > 0.3);
    }
}
