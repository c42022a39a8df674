//! Decides what one step computes and which request is next, as pure functions of the sequences' state.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use crate::admission::ServiceTier;

/// How much earlier a request counts than one of the service tier below that arrived at the same time.
/// Because it is bounded, no request waits for ever.
const TIER_HEAD_START: Duration = Duration::from_secs(10);

/// What a running sequence needs, as the planner sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SequenceDemand {
    /// Tokens without a cell.
    pub(super) missing: usize,
    /// Whether the sequence is decoding, so that its prompt is computed.
    pub(super) decoding: bool,
    /// How urgent its prompt is.
    pub(super) urgency: Urgency,
}

/// How urgent a prompt is, for itself or for other sequences that wait for a prefix of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Urgency {
    /// The highest service tier among these.
    pub(super) class: ServiceTier,
    /// The fewest tokens after which one of them can go on.
    pub(super) left: usize,
}

impl Urgency {
    pub(super) fn wanted_by(&mut self, class: ServiceTier, left: usize) {
        self.class = self.class.max(class);
        self.left = self.left.min(left);
    }
}

/// The cells and rows that a step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepBudget {
    /// Free KV cells.
    pub(super) cells: usize,
    /// Rows of one batch of the engine.
    pub(super) rows: usize,
    /// Rows that prompts may take in a step that also decodes.
    pub(super) prefill_rows: usize,
    /// Rows of drafts, which the other bounds do not include.
    pub(super) drafted: usize,
    /// Batches cost least by the row where their rows are a multiple of this.
    pub(super) row_group: usize,
}

/// How long others may overtake a request that does not fit yet; then all wait for it.
pub(super) const LONGEST_OVERTAKING: Duration = Duration::from_secs(20);

/// A step's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StepPlan {
    /// Rows for each sequence, in the order given.
    Compute(Vec<usize>),
    /// No cell is left for an answer under way: swap out the one that [`victim`] names first.
    Preempt,
}

/// Every decoding row first, so that no arriving prompt stalls an answer; what
/// is left goes to prompts, in chunks that keep the step short. With no answer
/// under way prompts take whole batches.
pub(super) fn compose(demands: &[SequenceDemand], budget: StepBudget) -> StepPlan {
    let decoding = demands.iter().filter(|demand| demand.decoding).count();
    debug_assert!(
        decoding <= budget.rows,
        "a batch holds every running answer"
    );
    if decoding > budget.cells {
        return StepPlan::Preempt;
    }
    let mut prefill = if decoding == 0 {
        budget.rows
    } else {
        budget.prefill_rows.min(budget.rows - decoding)
    };
    prefill = prefill.min(budget.cells - decoding);
    // Rows that are left over cost as much as a group, but a step more for a few tokens costs more.
    let prompts = demands.iter().filter(|demand| !demand.decoding);
    let missing: usize = prompts.map(|demand| demand.missing).sum();
    let rest = (decoding + budget.drafted + prefill) % budget.row_group;
    if rest < prefill && prefill < missing {
        prefill -= rest;
    }
    let mut rows = prompt_rows(demands, prefill);
    for (rows, demand) in rows.iter_mut().zip(demands) {
        if demand.decoding {
            *rows = 1;
        }
    }
    let stuck = rows.iter().sum::<usize>() == 0 && !demands.is_empty();
    if stuck {
        StepPlan::Preempt
    } else {
        StepPlan::Compute(rows)
    }
}

/// Half for the oldest prompt, so that it always gets on; the rest for those that need least, so
/// that a kiosk's question does not wait until somebody's long document is read.
fn prompt_rows(demands: &[SequenceDemand], mut left: usize) -> Vec<usize> {
    let mut rows = vec![0; demands.len()];
    let mut prompts: Vec<usize> = (0..demands.len())
        .filter(|index| !demands[*index].decoding && demands[*index].missing > 0)
        .collect();
    if let Some(&oldest) = prompts.first() {
        rows[oldest] = demands[oldest].missing.min(left.div_ceil(2));
        left -= rows[oldest];
    }
    prompts.sort_by_key(|index| {
        let Urgency { class, left } = demands[*index].urgency;
        (Reverse(class), left)
    });
    for index in prompts {
        let more = (demands[index].missing - rows[index]).min(left);
        rows[index] += more;
        left -= more;
    }
    rows
}

/// Returns the order of the waiting requests, by service tier and arrival.
pub(super) fn order(waiting: impl Iterator<Item = (ServiceTier, Instant)>) -> Vec<usize> {
    let counts_as = |(class, arrived): (ServiceTier, Instant)| {
        let later = match class {
            ServiceTier::Priority => 0,
            ServiceTier::Default => 1,
            ServiceTier::Flex => 2,
        };
        arrived + TIER_HEAD_START * later
    };
    let mut order: Vec<_> = waiting.map(counts_as).enumerate().collect();
    order.sort_by_key(|(_, at)| *at);
    order.into_iter().map(|(index, _)| index).collect()
}

/// Returns which of the running requests, oldest first, is preempted: the latest of the lowest tier.
pub(super) fn victim(
    running: impl DoubleEndedIterator<Item = ServiceTier> + ExactSizeIterator,
) -> Option<usize> {
    let (index, _) = running.enumerate().rev().min_by_key(|(_, class)| *class)?;
    Some(index)
}

/// Whether a waiting sequence may join that needs `novel` cells of its own:
/// they, and some room for every answer to grow, must fit beside the
/// `committed` cells that the `running` ones have or still need.
pub(super) fn fits(novel: usize, committed: usize, running: usize, cells: usize) -> bool {
    const GROWTH: usize = 16;
    // Alone it may use everything; that it fits was checked at the door.
    running == 0 || committed + novel + GROWTH * (running + 1) <= cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BUDGET: StepBudget = StepBudget {
        cells: 1000,
        rows: 64,
        prefill_rows: 16,
        drafted: 0,
        row_group: 1,
    };

    fn prompt(missing: usize) -> SequenceDemand {
        SequenceDemand {
            missing,
            decoding: false,
            urgency: Urgency {
                class: ServiceTier::Default,
                left: missing,
            },
        }
    }

    const ANSWER: SequenceDemand = SequenceDemand {
        missing: 1,
        decoding: true,
        urgency: Urgency {
            class: ServiceTier::Default,
            left: 1,
        },
    };

    #[test]
    fn with_no_answer_under_way_a_prompt_takes_whole_batches() {
        let plan = compose(&[prompt(500)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![64]));
    }

    #[test]
    fn answers_come_first_and_prompts_get_a_chunk() {
        let plan = compose(&[prompt(500), ANSWER, ANSWER], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![16, 1, 1]));
    }

    #[test]
    fn chunks_make_batches_whole_groups_unless_nothing_would_be_left_of_them() {
        let grouped = StepBudget {
            row_group: 4,
            drafted: 1,
            ..BUDGET
        };
        let plan = compose(&[prompt(500), ANSWER, ANSWER], grouped);
        assert_eq!(plan, StepPlan::Compute(vec![13, 1, 1]));
        let plan = compose(&[prompt(16), ANSWER, ANSWER], grouped);
        assert_eq!(plan, StepPlan::Compute(vec![16, 1, 1]), "all of it");
        let few = StepBudget {
            prefill_rows: 1,
            drafted: 0,
            ..grouped
        };
        let plan = compose(&[prompt(500), ANSWER], few);
        assert_eq!(plan, StepPlan::Compute(vec![1, 1]));
    }

    #[test]
    fn the_oldest_prompt_gets_half_and_the_shortest_go_before_the_rest_of_it() {
        let plan = compose(&[prompt(500), prompt(300), prompt(10)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![32, 22, 10]));
        let plan = compose(&[prompt(500), ANSWER, prompt(3)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![13, 1, 3]));
        let plan = compose(&[ANSWER, prompt(10), prompt(10)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![1, 10, 6]));
    }

    #[test]
    fn a_higher_class_reads_its_prompt_before_others_but_for_the_half_of_the_oldest() {
        let mut urgent = prompt(400);
        urgent.urgency.wanted_by(ServiceTier::Priority, 900);
        let plan = compose(&[prompt(500), prompt(10), urgent], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![32, 0, 32]));
    }

    #[test]
    fn a_class_is_a_head_start_and_no_more() {
        let start = Instant::now();
        let at = |class, seconds| (class, start + Duration::from_secs(seconds));
        let order = |waiting: &[(ServiceTier, Instant)]| order(waiting.iter().copied());
        assert_eq!(
            order(&[at(ServiceTier::Default, 1), at(ServiceTier::Default, 0)]),
            [1, 0]
        );
        assert_eq!(
            order(&[at(ServiceTier::Default, 0), at(ServiceTier::Priority, 5)]),
            [1, 0]
        );
        assert_eq!(
            order(&[at(ServiceTier::Flex, 0), at(ServiceTier::Priority, 25)]),
            [0, 1]
        );
    }

    #[test]
    fn the_latest_of_the_lowest_class_is_preempted() {
        use ServiceTier::{Default, Flex, Priority};
        let victim = |classes: &[ServiceTier]| victim(classes.iter().copied());
        assert_eq!(victim(&[Default, Default]), Some(1));
        assert_eq!(victim(&[Flex, Default, Flex, Priority]), Some(2));
        assert_eq!(victim(&[]), None);
    }

    #[test]
    fn answers_without_cells_ask_for_a_preemption() {
        let full = StepBudget { cells: 1, ..BUDGET };
        assert_eq!(compose(&[ANSWER, ANSWER], full), StepPlan::Preempt);
        let none = StepBudget { cells: 0, ..BUDGET };
        assert_eq!(compose(&[prompt(3), prompt(4)], none), StepPlan::Preempt);
    }

    #[test]
    fn a_lone_sequence_always_fits_and_others_leave_room_to_grow() {
        assert!(fits(100, 0, 0, 100));
        assert!(fits(58, 10, 1, 100));
        assert!(!fits(59, 10, 1, 100));
    }

    proptest! {
        #[test]
        fn a_plan_never_exceeds_its_budget_and_always_gets_somewhere(
            demands in prop::collection::vec((1_usize..300, any::<bool>()), 1..40),
            cells in 0_usize..600,
            rows in 40_usize..128,
            prefill_rows in 1_usize..64,
            drafted in 0_usize..8,
            row_group in 1_usize..8,
        ) {
            let demands: Vec<SequenceDemand> = demands
                .into_iter()
                .map(|(missing, decoding)| if decoding { ANSWER } else { prompt(missing) })
                .collect();
            let budget = StepBudget { cells, rows, prefill_rows, drafted, row_group };
            if let StepPlan::Compute(shares) = compose(&demands, budget) {
                let total: usize = shares.iter().sum();
                prop_assert!(total > 0 && total <= rows && total <= cells);
                for (demand, share) in demands.iter().zip(shares) {
                    prop_assert!(share <= demand.missing);
                    prop_assert!(!demand.decoding || share == 1);
                }
            } else {
                let decoding = demands.iter().filter(|demand| demand.decoding).count();
                prop_assert!(cells < decoding || cells == 0);
            }
        }
    }
}
