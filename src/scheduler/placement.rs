//! The cost model of placement: in which KV partition a conversation is computed at the least cost,
//! and how many are computed together, which is not always as many as there are rows.
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
//! Where the cache has partitions all this is so within a partition. Another partition costs the weights once
//! more at each step, and whatever a newcomer could have shared; but where several are computed
//! side by side only what makes a step as a whole longer. `PlacementCosts::cost` weighs that.

use std::time::{Duration, Instant};

use crate::engine::{ROWS_PER_WEIGHT_READ, ThreadLayout};

/// Tokens that an answer is taken to have until some have ended.
const FIRST_ANSWER: f64 = 64.0;
/// How much work counts that makes no step longer: it takes power all the same.
const UNSEEN: f64 = 0.1;
/// What copying a token from one partition to another costs, in cells that a row passes by: cells are
/// read and written number by number.
const COPIED: f64 = 40.0;
/// Weight of the latest answer's length.
const NEWEST_WEIGHT: f64 = 0.1;
/// How long a request waits at most, as a multiple of the time that joining at once would lose:
/// those under way may go on for long.
const WAIT_FACTOR: f64 = 2.0;
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Weighs in which partition a newcomer is served, and whether it had better wait.
#[derive(Debug)]
pub(super) struct PlacementCosts {
    /// `W / c`, in cells; `None` where rows leave out the cells of others.
    cells: Option<f64>,
    threads: ThreadLayout,
    /// Tokens of a usual answer, learnt from those that ended.
    answer: f64,
    /// When a request joined last that had not overtaken another.
    joined: Option<Instant>,
}

/// A partition as a newcomer finds it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlacementOption {
    pub(super) partition: usize,
    /// Conversations under way.
    pub(super) running: usize,
    /// Cells that hold something, or will hold what they still have to compute.
    pub(super) used: usize,
    /// Cells that the newcomer needs of its own.
    pub(super) novel: usize,
    /// Tokens that the newcomer has to compute first: `novel` ones but for those that can be copied.
    pub(super) unread: usize,
    /// Whether the newcomer may be served there. Others are computed beside it all the same.
    pub(super) serves: bool,
    /// Whether there is room for the newcomer.
    pub(super) fits: bool,
}

impl PlacementCosts {
    /// Costs of an engine whose rows pass by `cells` cells in the time in which its weights are read.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    pub(super) fn new(cells: Option<usize>, threads: ThreadLayout) -> Self {
        Self {
            cells: cells.map(|cells| cells.max(1) as f64),
            threads,
            answer: FIRST_ANSWER,
            joined: None,
        }
    }

    /// Goes by this layout of threads from now on.
    pub(super) fn set_threads(&mut self, threads: ThreadLayout) {
        self.threads = threads;
    }

    /// Notes that a request joined that had not overtaken another.
    pub(super) fn joined(&mut self, now: Instant) {
        self.joined = Some(now);
    }

    /// Learns from an answer of `tokens`. One token is no answer but a score or a class.
    pub(super) fn ended(&mut self, tokens: u32) {
        if tokens > 1 {
            self.answer += NEWEST_WEIGHT * (f64::from(tokens) - self.answer);
        }
    }

    /// Chooses the option of the least cost, of those where the newcomer fits if there are any. If it
    /// `may_wait` and would have to there, one that is not full is better, as long as that costs less
    /// than waiting could.
    pub(super) fn choose(
        &self,
        options: &[PlacementOption],
        may_wait: bool,
    ) -> Option<PlacementOption> {
        let serving = || options.iter().filter(|option| option.serves);
        let fits_nowhere = serving().all(|option| !option.fits);
        let step = self.step(options, None);
        let priced = |option: &PlacementOption| {
            let longer = self.step(options, Some(*option)) - step;
            (self.cost(*option, longer), *option)
        };
        let priced: Vec<(f64, PlacementOption)> = serving()
            .filter(|option| option.fits || fits_nowhere)
            .map(priced)
            .collect();
        let by_cost =
            |a: &&(f64, PlacementOption), b: &&(f64, PlacementOption)| a.0.total_cmp(&b.0);
        let best = priced.iter().min_by(by_cost)?;
        let is_open = |(_, option): &&(f64, PlacementOption)| !self.is_full(*option);
        let open = priced.iter().filter(is_open).min_by(by_cost);
        let is_worth_it =
            |open: &&(f64, PlacementOption)| may_wait && open.0 < WAIT_FACTOR * best.0;
        Some(open.filter(is_worth_it).unwrap_or(best).1)
    }

    /// The cost of serving a newcomer in a partition, in cells that rows pass by. It includes what
    /// the conversations under way lose, because each step becomes `longer`. A row of a prompt takes
    /// as long to compute as to pass by `W / c` cells.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    fn cost(&self, option: PlacementOption, longer: f64) -> f64 {
        let weights = self.cells.unwrap_or(0.0);
        let (novel, used) = (option.novel as f64, option.used as f64);
        let copied = (option.novel - option.unread) as f64 * COPIED;
        let prompt = option.unread as f64 * (weights + used + novel / 2.0);
        let prompt = prompt / self.threads.speed_up() + copied;
        let work = self.in_partition(option, 1) - self.in_partition(option, 0);
        prompt + self.answer * (longer + UNSEEN * (work - longer))
    }

    /// The cost of a step in all partitions, with the newcomer in the one that it has `joined`, if any.
    fn step(&self, options: &[PlacementOption], joined: Option<PlacementOption>) -> f64 {
        let is_joined = |option: &PlacementOption| {
            joined.is_some_and(|joined| joined.partition == option.partition)
        };
        let in_partition =
            |option: &PlacementOption| self.in_partition(*option, usize::from(is_joined(option)));
        self.threads
            .step(&options.iter().map(in_partition).collect::<Vec<_>>())
    }

    /// The cost of a step in one partition, with `newcomers` requests like this one.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    fn in_partition(&self, option: PlacementOption, newcomers: usize) -> f64 {
        let weights = self.cells.unwrap_or(0.0);
        let rows = option.running + newcomers;
        let read = if rows == 0 { 0.0 } else { weights };
        let passed_by = option.used + newcomers * option.novel;
        read + rows as f64 * (weights / ROWS_PER_WEIGHT_READ + passed_by as f64)
    }

    /// Whether each request there would take longer if the newcomer joined.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    pub(super) fn is_full(&self, option: PlacementOption) -> bool {
        let Some(cells) = self.cells else {
            return false;
        };
        let novel = option.novel as f64;
        let rows = (option.running * (option.running + 1)) as f64;
        option.running > 0 && rows * novel * (novel + self.answer) >= cells * self.answer
    }

    /// Whether a request that was `queued` at that time should go on waiting for a full partition.
    /// `first_row` is how many seconds a step with a single row takes, once that is known.
    pub(super) fn is_worth_waiting(
        &self,
        option: PlacementOption,
        queued: Instant,
        first_row: Option<f64>,
        now: Instant,
    ) -> bool {
        let Some((cells, first_row)) = self.cells.zip(first_row) else {
            return false;
        };
        let since = self.joined.map_or(queued, |joined| joined.max(queued));
        now.saturating_duration_since(since) < self.longest_wait(option, first_row / cells)
    }

    /// The time that joining now would cost the newcomer's prompt and the answers under way, times
    /// [`WAIT_FACTOR`]. Passing by a cell takes `cell` seconds.
    #[allow(clippy::cast_precision_loss)] // caches have millions of cells at most
    fn longest_wait(&self, option: PlacementOption, cell: f64) -> Duration {
        let passed_by = option.used as f64 + option.running as f64 * self.answer;
        let lost = cell * option.novel as f64 * passed_by;
        let longest_wait = Duration::try_from_secs_f64(WAIT_FACTOR * lost);
        longest_wait.map_or(LONGEST_WAIT, |longest_wait| longest_wait.min(LONGEST_WAIT))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(novel: usize, running: usize, used: usize) -> PlacementOption {
        PlacementOption {
            partition: 0,
            running,
            used,
            novel,
            unread: novel,
            serves: true,
            fits: true,
        }
    }

    fn most(costs: &PlacementCosts, novel: usize) -> usize {
        let is_full = |running: &usize| costs.is_full(option(novel, *running, 0));
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
            let mut costs = PlacementCosts::new(Some(cells), ThreadLayout::ONE);
            costs.answer = f64::from(answer);
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
                Some(most(&costs, usize::try_from(novel).expect("small"))),
                best
            );
        }
    }

    fn cells_of(count: usize) -> u32 {
        u32::try_from(count).expect("small")
    }

    #[test]
    fn the_longer_answers_are_the_more_run_together() {
        let mut costs = PlacementCosts::new(Some(49_000), ThreadLayout::ONE);
        let few = most(&costs, 900);
        for _ in 0..100 {
            costs.ended(2000);
        }
        assert!(most(&costs, 900) > few);
        assert_eq!(
            most(&PlacementCosts::new(None, ThreadLayout::ONE), 900),
            1000
        );
    }

    #[test]
    fn nobody_waits_much_longer_than_joining_would_cost() {
        let (start, costs) = (
            Instant::now(),
            PlacementCosts::new(Some(1000), ThreadLayout::ONE),
        );
        let full = option(100, 10, 1000);
        // A millisecond for 1,000 cells, which each of 100 rows passes by, and 10 x 64 rows by 100.
        let cost = 0.164;
        let waits = |costs: &PlacementCosts, option, seconds| {
            let now = start + Duration::from_secs_f64(seconds);
            costs.is_worth_waiting(option, start, Some(0.001), now)
        };
        assert!(waits(&costs, full, 1.9 * cost));
        assert!(!waits(&costs, full, 2.1 * cost));
        let mut joined = PlacementCosts::new(Some(1000), ThreadLayout::ONE);
        joined.joined(start + Duration::from_secs_f64(cost));
        assert!(waits(&joined, full, 2.9 * cost), "one at a time");
        let much = option(100, 10, 1_000_000);
        assert!(waits(&costs, much, 4.9) && !waits(&costs, much, 5.1));
        assert!(!costs.is_worth_waiting(full, start, None, start));
    }

    /// Which of them is chosen, a partition each.
    fn chosen(costs: &PlacementCosts, options: &[PlacementOption], may_wait: bool) -> usize {
        let numbered = |(partition, option): (usize, &PlacementOption)| PlacementOption {
            partition,
            ..*option
        };
        let options: Vec<PlacementOption> = options.iter().enumerate().map(numbered).collect();
        costs
            .choose(&options, may_wait)
            .expect("one of them")
            .partition
    }

    #[test]
    fn long_prompts_with_nothing_in_common_go_to_partitions_of_their_own() {
        let costs = PlacementCosts::new(Some(1500), ThreadLayout::ONE);
        let choose = |options: &[PlacementOption]| chosen(&costs, options, true);
        let nothing = |novel| option(novel, 0, 0);
        assert_eq!(choose(&[option(880, 1, 950), nothing(900)]), 1);
        let least = [
            option(880, 1, 950),
            option(880, 2, 1900),
            option(880, 1, 900),
        ];
        assert_eq!(choose(&least), 2);
        assert_eq!(choose(&[option(50, 8, 1300), nothing(900)]), 0, "shared");
        assert_eq!(choose(&[option(50, 1, 100), nothing(50)]), 0, "short");
        assert_eq!(choose(&[option(50, 30, 3000), nothing(50)]), 1, "many");
        assert_eq!(
            choose(&[option(900, 0, 500), nothing(900)]),
            1,
            "kept for later"
        );
        assert_eq!(choose(&[option(900, 3, 100)]), 0);
    }

    #[test]
    fn a_partition_of_another_adapter_is_never_chosen() {
        let costs = PlacementCosts::new(Some(1500), ThreadLayout::ONE);
        let foreign = PlacementOption {
            serves: false,
            ..option(50, 0, 0)
        };
        let full = PlacementOption {
            fits: false,
            ..option(50, 3, 300)
        };
        for own in [option(50, 3, 300), full] {
            assert_eq!(chosen(&costs, &[foreign, own], true), 1);
        }
        assert!(costs.choose(&[foreign], true).is_none());
    }

    #[test]
    fn where_it_would_have_to_wait_for_little_another_partition_is_taken() {
        let costs = PlacementCosts::new(Some(2000), ThreadLayout::ONE);
        let options = [option(150, 2, 430), option(150, 0, 0)];
        assert!(costs.is_full(options[0]));
        let cost = |option| {
            costs.cost(
                option,
                costs.in_partition(option, 1) - costs.in_partition(option, 0),
            )
        };
        assert!(cost(options[0]) < cost(options[1]));
        assert_eq!(chosen(&costs, &options, true), 1);
        assert_eq!(chosen(&costs, &options, false), 0);
    }

    #[test]
    fn partitions_that_are_computed_side_by_side_share_the_rows() {
        let two = ThreadLayout {
            parallel_partitions: 2,
            threads_per_partition: 1,
        };
        let costs = PlacementCosts::new(Some(2000), two);
        let mut options: Vec<PlacementOption> = (0..8)
            .map(|partition| PlacementOption {
                partition,
                ..option(24, 0, 0)
            })
            .collect();
        for _ in 0..16 {
            let PlacementOption { partition, .. } =
                costs.choose(&options, true).expect("one of them");
            options[partition].running += 1;
            options[partition].used += 24 + 64;
        }
        let running: Vec<usize> = options.iter().map(|option| option.running).collect();
        assert_eq!(running[..3], [8, 8, 0]);
        // Not where it has to be read a second time.
        let store = [option(20, 1, 700), option(655, 0, 0)];
        assert_eq!(chosen(&costs, &store, true), 0);
        // Nor where one partition has all threads as long as it is the only one.
        let few = [option(40, 1, 100), option(40, 0, 0)];
        let all = ThreadLayout {
            threads_per_partition: 2,
            ..two
        };
        let choose = |threads| chosen(&PlacementCosts::new(Some(2000), threads), &few, true);
        assert_eq!([two, all, ThreadLayout::ONE].map(choose), [1, 0, 0]);
    }

    #[test]
    fn alone_anything_may_run() {
        for cells in [1000, 0] {
            assert!(
                !PlacementCosts::new(Some(cells), ThreadLayout::ONE).is_full(option(100_000, 0, 0))
            );
        }
    }
}
