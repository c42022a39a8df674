//! Headroom and pressure: plain functions of readings.

use super::reading::{MemoryReading, PowerBudget, PowerDraw, PowerScope};

/// The pressure of a draw that is just the budget. What is above it is for overdrawing.
const AT_BUDGET: f64 = 0.85;
/// Thermal pressure of a processor that slows itself down all the time: it is paced for that, and
/// nobody is refused.
pub(super) const ALWAYS_SLOWED: f64 = 0.88;
/// Degrees below its limit at which a zone makes no pressure.
const THERMAL_SPAN: f64 = 25.0;

/// The power drawn, and the least budget for the same scope.
#[derive(Debug, Clone, PartialEq)]
pub struct PowerHeadroom {
    /// Who says what is drawn.
    pub drawn_by: String,
    /// Who says how much may be.
    pub budget_by: &'static str,
    /// Watts drawn.
    pub drawn: f64,
    /// Watts that may be drawn.
    pub budget: f64,
}

impl PowerHeadroom {
    /// Watts left; negative when more is drawn than may be.
    #[must_use]
    pub fn watts(&self) -> f64 {
        self.budget - self.drawn
    }

    /// Returns what is left as a share of the budget; `None` for a budget of zero.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        (self.budget > 0.0).then(|| self.watts() / self.budget)
    }

    /// 0 to 1, `AT_BUDGET` at the budget.
    #[must_use]
    pub fn pressure(&self) -> f64 {
        match self.ratio() {
            Some(ratio) => ((1.0 - ratio) * AT_BUDGET).clamp(0.0, 1.0),
            None => 1.0,
        }
    }
}

/// The scope with the least headroom: what is drawn there, best known, beside the least budget for
/// it. The draw of a package is never held against the budget of a board.
pub(super) fn power(draws: &[PowerDraw], budgets: &[PowerBudget]) -> Option<PowerHeadroom> {
    [PowerScope::Board, PowerScope::Package]
        .into_iter()
        .filter_map(|scope| {
            let budget = budgets
                .iter()
                .filter(|budget| budget.scope == scope)
                .min_by(|one, other| one.watts.total_cmp(&other.watts))?;
            let best = best(draws, scope)?;
            Some(PowerHeadroom {
                drawn_by: best.source.clone(),
                budget_by: budget.source,
                drawn: best.watts,
                budget: budget.watts,
            })
        })
        .max_by(|one, other| one.pressure().total_cmp(&other.pressure()))
}

/// The draw of a scope that can be trusted most: measured before estimated, then the earlier.
pub(super) fn best(draws: &[PowerDraw], scope: PowerScope) -> Option<&PowerDraw> {
    let of_scope = draws.iter().rev().filter(|draw| draw.scope == scope);
    of_scope.max_by_key(|draw| draw.quality)
}

/// The memory with the least of it left.
pub(super) fn tightest(memories: &[MemoryReading]) -> Option<MemoryReading> {
    let by_ratio =
        |one: &&MemoryReading, other: &&MemoryReading| one.ratio().total_cmp(&other.ratio());
    memories.iter().min_by(by_ratio).copied()
}

/// Returns the pressure of a zone whose temperature is `headroom` degrees below its limit.
pub(super) fn thermal_pressure(headroom: f64) -> f64 {
    (1.0 - headroom / THERMAL_SPAN).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::super::reading::ReadingQuality;
    use super::*;

    fn draw(source: &str, scope: PowerScope, quality: ReadingQuality, watts: f64) -> PowerDraw {
        PowerDraw {
            source: source.to_owned(),
            scope,
            quality,
            watts,
            joules: None,
        }
    }

    fn budget(source: &'static str, scope: PowerScope, watts: f64) -> PowerBudget {
        PowerBudget {
            source,
            scope,
            watts,
        }
    }

    #[test]
    fn the_least_budget_counts_and_says_whose_it_is() {
        let draws = [draw(
            "rapl",
            PowerScope::Package,
            ReadingQuality::Measured,
            8.0,
        )];
        let budgets = [
            budget("rapl", PowerScope::Package, 35.0),
            budget("configured", PowerScope::Package, 20.0),
        ];
        let headroom = power(&draws, &budgets).expect("known");
        assert_eq!(headroom.budget_by, "configured");
        assert_eq!((headroom.watts(), headroom.ratio()), (12.0, Some(0.6)));
    }

    #[test]
    fn a_package_is_never_held_against_the_budget_of_a_board() {
        let package = [draw(
            "rapl",
            PowerScope::Package,
            ReadingQuality::Measured,
            8.0,
        )];
        assert_eq!(
            power(&package, &[budget("supply", PowerScope::Board, 25.0)]),
            None
        );
        let part = [draw("gpu", PowerScope::Part, ReadingQuality::Measured, 8.0)];
        let budgets = [
            budget("supply", PowerScope::Board, 25.0),
            budget("rapl", PowerScope::Package, 15.0),
        ];
        assert_eq!(power(&part, &budgets), None);
    }

    #[test]
    fn the_scope_with_less_left_decides_and_measured_beats_estimated() {
        let draws = [
            draw(
                "board_model",
                PowerScope::Board,
                ReadingQuality::Estimated,
                24.0,
            ),
            draw(
                "ina3221/VDD_IN",
                PowerScope::Board,
                ReadingQuality::Measured,
                10.0,
            ),
            draw("battery", PowerScope::Board, ReadingQuality::Measured, 11.0),
            draw("rapl", PowerScope::Package, ReadingQuality::Measured, 9.0),
        ];
        let budgets = [
            budget("supply", PowerScope::Board, 25.0),
            budget("rapl", PowerScope::Package, 10.0),
        ];
        let headroom = power(&draws, &budgets).expect("known");
        assert_eq!(
            (headroom.drawn_by.as_str(), headroom.watts()),
            ("rapl", 1.0)
        );
        let headroom = power(&draws, &budgets[..1]).expect("known");
        assert_eq!(headroom.drawn_by, "ina3221/VDD_IN");
    }

    #[test]
    fn pressure_is_at_the_budget_where_it_says_and_nothing_is_left_of_no_budget() {
        let of = |drawn, budget| PowerHeadroom {
            drawn_by: String::new(),
            budget_by: "battery",
            drawn,
            budget,
        };
        assert!((of(20.0, 20.0).pressure() - AT_BUDGET).abs() < 1e-9);
        assert!(of(30.0, 20.0).pressure() >= 1.0);
        assert_eq!((of(3.0, 0.0).pressure(), of(3.0, 0.0).ratio()), (1.0, None));
        assert!((thermal_pressure(10.0) - 0.6).abs() < 1e-9);
        assert_eq!((thermal_pressure(-3.0), thermal_pressure(60.0)), (1.0, 0.0));
    }
}
