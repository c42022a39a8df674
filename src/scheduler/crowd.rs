//! How many conversations are computed together: not always as many as there are rows.
//!
//! A step over `R` rows takes `W + R (w + c U)`: the weights are read once, each row is computed,
//! and each row passes by all `U` used cells, those of others as well. A conversation that has `N`
//! cells of its own and an answer of `A` tokens takes, among `R` like it,
//!
//! > `N (w + c R N)` for its prompt and `A (W / R + w + c R N)` for its answer,
//!
//! which is least where `R (R + 1) N (N + A) / A` reaches `W / c`. Beyond that many, each is served
//! sooner when the next one waits until another has ended. Where weights are few (the model that
//! ships) or prompts long and unrelated that is soon; kiosks that share a prompt have few cells of
//! their own, and many of them run together.
//!
//! Where the cache has banks all this is so within a bank. Another bank costs the weights once
//! more at each step, and whatever the newcomer could have shared; [`Crowd::cost`] weighs that.

use std::time::{Duration, Instant};

/// Until answers have ended, they are taken to have so many tokens.
const FIRST_ANSWER: f64 = 64.0;
/// Weight of the latest answer's length.
const NEWEST: f64 = 0.1;
/// Waiting takes at most so many times what is lost by joining at once: those under way may go on
/// for long.
const PATIENCE: f64 = 2.0;
const MOST_PATIENCE: Duration = Duration::from_secs(5);

/// See the module's text.
#[derive(Debug)]
pub(super) struct Crowd {
    /// `W / c`; none where rows leave out the cells of others.
    cells: Option<f64>,
    /// Tokens of a usual answer.
    answer: f64,
    /// When somebody joined last who had not overtaken anybody.
    joined: Option<Instant>,
}

/// A conversation that wants to join.
#[derive(Debug, Clone, Copy)]
pub(super) struct Newcomer {
    /// Cells that it needs of its own.
    pub(super) novel: usize,
    /// Tokens that it has to compute first: as many, or fewer where there is a copy of their cells.
    pub(super) unread: usize,
    pub(super) queued: Instant,
}

/// What it would join: a bank.
#[derive(Debug, Clone, Copy)]
pub(super) struct Present {
    pub(super) running: usize,
    /// Cells that hold something, or soon will.
    pub(super) used: usize,
    /// Seconds of a step with a single row, once that is known.
    pub(super) first_row: Option<f64>,
}

impl Crowd {
    /// For an engine whose rows pass by `cells` cells while its weights are read.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    pub(super) fn new(cells: Option<usize>) -> Self {
        Self {
            cells: cells.map(|cells| cells.max(1) as f64),
            answer: FIRST_ANSWER,
            joined: None,
        }
    }

    /// Somebody joined who had not overtaken anybody.
    pub(super) fn joined(&mut self, now: Instant) {
        self.joined = Some(now);
    }

    /// An answer of so many tokens has ended. Those of one token are none: a score, a class.
    pub(super) fn ended(&mut self, tokens: u32) {
        if tokens > 1 {
            self.answer += NEWEST * (f64::from(tokens) - self.answer);
        }
    }

    /// Which of these banks a newcomer had best be served in: that of the least cost, or where it would
    /// have to wait there, one that is not full and where it takes less than waiting could.
    pub(super) fn place(&self, banks: &[(Newcomer, Present)]) -> usize {
        let costs: Vec<f64> = (banks.iter())
            .map(|(newcomer, present)| self.cost(*newcomer, *present))
            .collect();
        let least = |banks: &mut dyn Iterator<Item = usize>| {
            banks.min_by(|a, b| costs[*a].total_cmp(&costs[*b]))
        };
        let is_full = |bank: usize| {
            let (newcomer, present) = banks[bank];
            self.is_full_for(newcomer.novel, present.running)
        };
        let best = least(&mut (0..banks.len())).unwrap_or(0);
        let open = least(&mut (0..banks.len()).filter(|bank| !is_full(*bank)));
        open.filter(|open| costs[*open] < PATIENCE * costs[best])
            .unwrap_or(best)
    }

    /// What it takes to serve a newcomer in a bank, with what that costs those who are there; by the
    /// cells that rows pass by, the least is best. A row of a prompt computes as long as it takes to
    /// pass by `W / c` cells.
    #[allow(clippy::cast_precision_loss)] // as above
    fn cost(&self, newcomer: Newcomer, present: Present) -> f64 {
        let weights = self.cells.unwrap_or(0.0);
        let (novel, used) = (newcomer.novel as f64, present.used as f64);
        let prompt = newcomer.unread as f64 * (weights + used + novel / 2.0);
        let read = if present.running == 0 { weights } else { 0.0 };
        let answer = self.answer * (read + used + novel);
        prompt + answer + present.running as f64 * self.answer * novel
    }

    /// Whether a conversation of `novel` cells beside the `running` ones makes each take longer.
    #[allow(clippy::cast_precision_loss)] // as above
    pub(super) fn is_full_for(&self, novel: usize, running: usize) -> bool {
        let Some(cells) = self.cells else {
            return false;
        };
        let novel = novel as f64;
        let rows = (running * (running + 1)) as f64;
        running > 0 && rows * novel * (novel + self.answer) >= cells * self.answer
    }

    /// Whether one for which it is full should wait still.
    pub(super) fn is_worth_waiting(
        &self,
        newcomer: Newcomer,
        present: Present,
        now: Instant,
    ) -> bool {
        let Some((cells, first_row)) = self.cells.zip(present.first_row) else {
            return false;
        };
        let queued = newcomer.queued;
        let since = self.joined.map_or(queued, |joined| joined.max(queued));
        now.saturating_duration_since(since) < self.patience(newcomer, present, first_row / cells)
    }

    /// What joining now costs, its own prompt and the answers under way, some times over, where to
    /// pass by a cell takes `cell` seconds.
    #[allow(clippy::cast_precision_loss)] // as above
    fn patience(&self, newcomer: Newcomer, present: Present, cell: f64) -> Duration {
        let passed_by = present.used as f64 + present.running as f64 * self.answer;
        let lost = cell * newcomer.novel as f64 * passed_by;
        let patience = Duration::try_from_secs_f64(PATIENCE * lost);
        patience.map_or(MOST_PATIENCE, |patience| patience.min(MOST_PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn most(crowd: &Crowd, novel: usize) -> usize {
        let is_full = |running: &usize| crowd.is_full_for(novel, *running);
        (0..1000).find(is_full).unwrap_or(1000)
    }

    #[test]
    fn as_many_run_as_make_the_least_time_for_each() {
        for (novel, answer, cells) in [
            (100, 64, 1500),
            (20, 64, 1500),
            (900, 64, 49_000),
            (60, 30, 49_000),
        ] {
            let mut crowd = Crowd::new(Some(cells));
            crowd.answer = f64::from(answer);
            let (n, a, w) = (
                f64::from(novel),
                f64::from(answer),
                f64::from(cells_of(cells)),
            );
            let each = |rows: &usize| {
                let r = f64::from(cells_of(*rows));
                n * r * n + a * (w / r + r * n)
            };
            let best = (1..500).min_by(|a, b| each(a).total_cmp(&each(b)));
            assert_eq!(
                Some(most(&crowd, usize::try_from(novel).expect("small"))),
                best
            );
        }
    }

    fn cells_of(count: usize) -> u32 {
        u32::try_from(count).expect("small")
    }

    #[test]
    fn the_longer_answers_are_the_more_run_together() {
        let mut crowd = Crowd::new(Some(49_000));
        let few = most(&crowd, 900);
        for _ in 0..100 {
            crowd.ended(2000);
        }
        assert!(most(&crowd, 900) > few);
        assert_eq!(most(&Crowd::new(None), 900), 1000);
    }

    #[test]
    fn nobody_waits_much_longer_than_joining_would_cost() {
        let (start, crowd) = (Instant::now(), Crowd::new(Some(1000)));
        let newcomer = Newcomer {
            novel: 100,
            unread: 100,
            queued: start,
        };
        let present = Present {
            running: 10,
            used: 1000,
            first_row: Some(0.001),
        };
        // A millisecond for 1,000 cells, which each of 100 rows passes by, and 10 x 64 rows by 100.
        let cost = 0.164;
        let waits = |crowd: &Crowd, present, seconds| {
            crowd.is_worth_waiting(newcomer, present, start + Duration::from_secs_f64(seconds))
        };
        assert!(waits(&crowd, present, 1.9 * cost));
        assert!(!waits(&crowd, present, 2.1 * cost));
        let mut joined = Crowd::new(Some(1000));
        joined.joined(start + Duration::from_secs_f64(cost));
        assert!(waits(&joined, present, 2.9 * cost), "one at a time");
        let much = Present {
            used: 1_000_000,
            ..present
        };
        assert!(waits(&crowd, much, 4.9) && !waits(&crowd, much, 5.1));
        let unknown = Present {
            first_row: None,
            ..present
        };
        assert!(!waits(&crowd, unknown, 0.0));
    }

    /// A newcomer for banks in which so many run, in so many cells, with what it shares there.
    fn offers(novel: usize, banks: &[(usize, usize, usize)]) -> Vec<(Newcomer, Present)> {
        let offer = |&(running, used, shared): &(usize, usize, usize)| {
            let newcomer = Newcomer {
                novel: novel - shared,
                unread: novel - shared,
                queued: Instant::now(),
            };
            let present = Present {
                running,
                used,
                first_row: None,
            };
            (newcomer, present)
        };
        banks.iter().map(offer).collect()
    }

    #[test]
    fn long_prompts_with_nothing_in_common_go_to_banks_of_their_own() {
        let place = |novel, banks: &[_]| Crowd::new(Some(1500)).place(&offers(novel, banks));
        assert_eq!(place(900, &[(1, 950, 20), (0, 0, 0)]), 1);
        assert_eq!(
            place(900, &[(1, 950, 20), (2, 1900, 20), (1, 900, 20)]),
            2,
            "the least crowded"
        );
        assert_eq!(
            place(900, &[(8, 1300, 850), (0, 0, 0)]),
            0,
            "what it shares"
        );
        assert_eq!(place(50, &[(1, 100, 0), (0, 0, 0)]), 0, "little together");
        assert_eq!(place(50, &[(30, 3000, 0), (0, 0, 0)]), 1, "but not much");
        assert_eq!(place(900, &[(3, 100, 0)]), 0);
    }

    #[test]
    fn where_it_would_have_to_wait_for_little_another_bank_is_taken() {
        let crowd = Crowd::new(Some(2000));
        let banks = offers(150, &[(2, 430, 0), (0, 0, 0)]);
        let cost = |bank: usize| crowd.cost(banks[bank].0, banks[bank].1);
        assert!(crowd.is_full_for(150, 2) && cost(0) < cost(1));
        assert_eq!(crowd.place(&banks), 1);
    }

    #[test]
    fn alone_anything_may_run() {
        assert!(!Crowd::new(Some(1000)).is_full_for(100_000, 0));
        assert!(!Crowd::new(Some(0)).is_full_for(100_000, 0));
    }
}
