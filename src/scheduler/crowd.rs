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
//! more at each step, and whatever a newcomer could have shared; but where several are computed
//! side by side only what makes a step as a whole longer. `Crowd::cost` weighs that.

use std::time::{Duration, Instant};

use crate::engine::{ROWS_A_READ, Threads};

/// Until answers have ended, they are taken to have so many tokens.
const FIRST_ANSWER: f64 = 64.0;
/// Of work that makes no step longer this part counts: it takes power.
const UNSEEN: f64 = 0.1;
/// Copying a token out of the cache and into another place of it takes as long as passing by so many
/// cells: they are read and written number by number.
const COPIED: f64 = 40.0;
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
    threads: Threads,
    /// Tokens of a usual answer.
    answer: f64,
    /// When somebody joined last who had not overtaken anybody.
    joined: Option<Instant>,
}

/// A bank as somebody finds it who wants to join.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) bank: usize,
    /// Conversations under way.
    pub(super) running: usize,
    /// Cells that hold something, or will hold what they still have to compute.
    pub(super) used: usize,
    /// Cells that the newcomer needs of its own.
    pub(super) novel: usize,
    /// Tokens that it has to compute first: as many, but for those that can be copied there.
    pub(super) unread: usize,
    /// Whether there is room for it.
    pub(super) fits: bool,
}

impl Crowd {
    /// For an engine whose rows pass by `cells` cells while its weights are read.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    pub(super) fn new(cells: Option<usize>, threads: Threads) -> Self {
        Self {
            cells: cells.map(|cells| cells.max(1) as f64),
            threads,
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

    /// Which of these places a newcomer had best take: that of the least cost where it fits, or if
    /// it `may_wait` and would have to there, one that is not full and costs less than waiting could.
    pub(super) fn choose(&self, places: &[Place], may_wait: bool) -> Option<Place> {
        let fits_nowhere = places.iter().all(|place| !place.fits);
        let step = self.step(places, None);
        let priced = |place: &Place| {
            let longer = self.step(places, Some(*place)) - step;
            (self.cost(*place, longer), *place)
        };
        let priced: Vec<(f64, Place)> = (places.iter())
            .filter(|place| place.fits || fits_nowhere)
            .map(priced)
            .collect();
        let by_cost = |a: &&(f64, Place), b: &&(f64, Place)| a.0.total_cmp(&b.0);
        let best = priced.iter().min_by(by_cost)?;
        let is_open = |(_, place): &&(f64, Place)| !self.is_full(*place);
        let open = priced.iter().filter(is_open).min_by(by_cost);
        let is_worth_it = |open: &&(f64, Place)| may_wait && open.0 < PATIENCE * best.0;
        Some(open.filter(is_worth_it).unwrap_or(best).1)
    }

    /// What it takes to serve a newcomer there, with what that costs those who are under way, whose
    /// steps become so much `longer`, counted in cells that rows pass by. A row of a prompt computes
    /// as long as it takes to pass by `W / c`.
    #[allow(clippy::cast_precision_loss)] // as above
    fn cost(&self, place: Place, longer: f64) -> f64 {
        let weights = self.cells.unwrap_or(0.0);
        let (novel, used) = (place.novel as f64, place.used as f64);
        let copied = (place.novel - place.unread) as f64 * COPIED;
        let prompt = place.unread as f64 * (weights + used + novel / 2.0);
        let prompt = prompt / self.threads.speed_up() + copied;
        let work = self.in_bank(place, 1) - self.in_bank(place, 0);
        prompt + self.answer * (longer + UNSEEN * (work - longer))
    }

    /// What a step takes with the newcomer in one of the places, if in any.
    fn step(&self, places: &[Place], joined: Option<Place>) -> f64 {
        let is_joined = |place: &Place| joined.is_some_and(|joined| joined.bank == place.bank);
        let in_bank = |place: &Place| self.in_bank(*place, usize::from(is_joined(place)));
        self.threads
            .step(&places.iter().map(in_bank).collect::<Vec<_>>())
    }

    /// What a step takes in a bank with so many newcomers like this one.
    #[allow(clippy::cast_precision_loss)] // as above
    fn in_bank(&self, place: Place, newcomers: usize) -> f64 {
        let weights = self.cells.unwrap_or(0.0);
        let rows = place.running + newcomers;
        let read = if rows == 0 { 0.0 } else { weights };
        let passed_by = place.used + newcomers * place.novel;
        read + rows as f64 * (weights / ROWS_A_READ + passed_by as f64)
    }

    /// Whether joining there makes each take longer.
    #[allow(clippy::cast_precision_loss)] // as above
    pub(super) fn is_full(&self, place: Place) -> bool {
        let Some(cells) = self.cells else {
            return false;
        };
        let novel = place.novel as f64;
        let rows = (place.running * (place.running + 1)) as f64;
        place.running > 0 && rows * novel * (novel + self.answer) >= cells * self.answer
    }

    /// Whether one that has been `queued` since then should wait still where it is full;
    /// `first_row` are the seconds of a step with a single row, once that is known.
    pub(super) fn is_worth_waiting(
        &self,
        place: Place,
        queued: Instant,
        first_row: Option<f64>,
        now: Instant,
    ) -> bool {
        let Some((cells, first_row)) = self.cells.zip(first_row) else {
            return false;
        };
        let since = self.joined.map_or(queued, |joined| joined.max(queued));
        now.saturating_duration_since(since) < self.patience(place, first_row / cells)
    }

    /// What joining now costs, its own prompt and the answers under way, some times over, where to
    /// pass by a cell takes `cell` seconds.
    #[allow(clippy::cast_precision_loss)] // as above
    fn patience(&self, place: Place, cell: f64) -> Duration {
        let passed_by = place.used as f64 + place.running as f64 * self.answer;
        let lost = cell * place.novel as f64 * passed_by;
        let patience = Duration::try_from_secs_f64(PATIENCE * lost);
        patience.map_or(MOST_PATIENCE, |patience| patience.min(MOST_PATIENCE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(novel: usize, running: usize, used: usize) -> Place {
        Place {
            bank: 0,
            running,
            used,
            novel,
            unread: novel,
            fits: true,
        }
    }

    fn most(crowd: &Crowd, novel: usize) -> usize {
        let is_full = |running: &usize| crowd.is_full(place(novel, *running, 0));
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
            let mut crowd = Crowd::new(Some(cells), Threads::ONE);
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
        let mut crowd = Crowd::new(Some(49_000), Threads::ONE);
        let few = most(&crowd, 900);
        for _ in 0..100 {
            crowd.ended(2000);
        }
        assert!(most(&crowd, 900) > few);
        assert_eq!(most(&Crowd::new(None, Threads::ONE), 900), 1000);
    }

    #[test]
    fn nobody_waits_much_longer_than_joining_would_cost() {
        let (start, crowd) = (Instant::now(), Crowd::new(Some(1000), Threads::ONE));
        let crowded = place(100, 10, 1000);
        // A millisecond for 1,000 cells, which each of 100 rows passes by, and 10 x 64 rows by 100.
        let cost = 0.164;
        let waits = |crowd: &Crowd, place, seconds| {
            let now = start + Duration::from_secs_f64(seconds);
            crowd.is_worth_waiting(place, start, Some(0.001), now)
        };
        assert!(waits(&crowd, crowded, 1.9 * cost));
        assert!(!waits(&crowd, crowded, 2.1 * cost));
        let mut joined = Crowd::new(Some(1000), Threads::ONE);
        joined.joined(start + Duration::from_secs_f64(cost));
        assert!(waits(&joined, crowded, 2.9 * cost), "one at a time");
        let much = place(100, 10, 1_000_000);
        assert!(waits(&crowd, much, 4.9) && !waits(&crowd, much, 5.1));
        assert!(!crowd.is_worth_waiting(crowded, start, None, start));
    }

    /// Which of them is chosen, a bank each.
    fn chosen(crowd: &Crowd, places: &[Place], may_wait: bool) -> usize {
        let numbered = |(bank, place): (usize, &Place)| Place { bank, ..*place };
        let places: Vec<Place> = places.iter().enumerate().map(numbered).collect();
        crowd.choose(&places, may_wait).expect("one of them").bank
    }

    #[test]
    fn long_prompts_with_nothing_in_common_go_to_banks_of_their_own() {
        let crowd = Crowd::new(Some(1500), Threads::ONE);
        let choose = |places: &[Place]| chosen(&crowd, places, true);
        let nothing = |novel| place(novel, 0, 0);
        assert_eq!(choose(&[place(880, 1, 950), nothing(900)]), 1);
        let least = [place(880, 1, 950), place(880, 2, 1900), place(880, 1, 900)];
        assert_eq!(choose(&least), 2);
        assert_eq!(choose(&[place(50, 8, 1300), nothing(900)]), 0, "shared");
        assert_eq!(choose(&[place(50, 1, 100), nothing(50)]), 0, "short");
        assert_eq!(choose(&[place(50, 30, 3000), nothing(50)]), 1, "many");
        assert_eq!(
            choose(&[place(900, 0, 500), nothing(900)]),
            1,
            "kept for later"
        );
        assert_eq!(choose(&[place(900, 3, 100)]), 0);
    }

    #[test]
    fn where_it_would_have_to_wait_for_little_another_bank_is_taken() {
        let crowd = Crowd::new(Some(2000), Threads::ONE);
        let places = [place(150, 2, 430), place(150, 0, 0)];
        assert!(crowd.is_full(places[0]));
        let cost = |place| crowd.cost(place, crowd.in_bank(place, 1) - crowd.in_bank(place, 0));
        assert!(cost(places[0]) < cost(places[1]));
        assert_eq!(chosen(&crowd, &places, true), 1);
        assert_eq!(chosen(&crowd, &places, false), 0);
    }

    #[test]
    fn banks_that_are_computed_side_by_side_share_the_rows() {
        let two = Threads {
            side_by_side: 2,
            together: 1,
        };
        let crowd = Crowd::new(Some(2000), two);
        let mut places: Vec<Place> = (0..8)
            .map(|bank| Place {
                bank,
                ..place(24, 0, 0)
            })
            .collect();
        for _ in 0..16 {
            let Place { bank, .. } = crowd.choose(&places, true).expect("one of them");
            places[bank].running += 1;
            places[bank].used += 24 + 64;
        }
        let running: Vec<usize> = places.iter().map(|place| place.running).collect();
        assert_eq!(running[..3], [8, 8, 0]);
        // Not where it has to be read a second time.
        let store = [place(20, 1, 700), place(655, 0, 0)];
        assert_eq!(chosen(&crowd, &store, true), 0);
        // Nor where one bank has all threads as long as it is the only one.
        let few = [place(40, 1, 100), place(40, 0, 0)];
        let all = Threads { together: 2, ..two };
        let choose = |threads| chosen(&Crowd::new(Some(2000), threads), &few, true);
        assert_eq!([two, all, Threads::ONE].map(choose), [1, 0, 0]);
    }

    #[test]
    fn alone_anything_may_run() {
        for cells in [1000, 0] {
            assert!(!Crowd::new(Some(cells), Threads::ONE).is_full(place(100_000, 0, 0)));
        }
    }
}
