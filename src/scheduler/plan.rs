//! Decides what one step computes and who is preempted, as pure functions of the sequences' state.

use std::time::Duration;

use crate::admission::{ServiceTier, TenantId};

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

/// Whose a running sequence is, as the planner sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct PromptOwner {
    pub(super) tenant: TenantId,
    /// Tokens that the tenant will have had, by weight, once this prompt is computed.
    pub(super) finish: f64,
}

/// The cells and rows that a step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StepBudget {
    /// Free KV cells.
    pub(super) cells: usize,
    /// Rows of one batch of the engine.
    pub(super) rows: usize,
    /// Rows that prompts may take in a step for which somebody waits.
    pub(super) prefill_rows: usize,
    /// Whether another tenant may ask at any moment, which should not wait for a whole batch.
    pub(super) is_shared: bool,
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

/// How long the next step should take, where its answers alone take that many seconds. Where these
/// are of a tenant that has more than its part, a prompt of one that has not is owed as much time as
/// they take, within twice the target.
pub(super) fn step_target(target: Duration, answers: Option<f64>, is_owed: bool) -> Duration {
    let doubled = answers.filter(|_| is_owed).map(|answers| 2.0 * answers);
    let doubled = doubled.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    doubled.map_or(target, |doubled| doubled.clamp(target, 2 * target))
}

/// Every decoding row first, so that no arriving prompt stalls an answer; what
/// is left goes to prompts, in chunks that keep the step short. With no answer
/// under way, and one tenant only, prompts take whole batches.
pub(super) fn compose(
    demands: &[SequenceDemand],
    owners: &[PromptOwner],
    budget: StepBudget,
) -> StepPlan {
    let decoding = demands.iter().filter(|demand| demand.decoding).count();
    debug_assert!(
        decoding <= budget.rows,
        "a batch holds every running answer"
    );
    if decoding > budget.cells {
        return StepPlan::Preempt;
    }
    let mut prefill = if decoding == 0 && !budget.is_shared {
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
    let mut rows = prompt_rows(demands, owners, prefill);
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

/// A part for the oldest prompt, so that it always gets on: half where all are of one tenant, a
/// quarter where they are not, because then tenants wait for each other. The rest by tier, then for
/// the tenant that will have had least with its prompt, then for the prompt that needs least: so a
/// kiosk's question does not wait until somebody's long document is read, or somebody's many ones.
fn prompt_rows(demands: &[SequenceDemand], owners: &[PromptOwner], mut left: usize) -> Vec<usize> {
    let mut rows = vec![0; demands.len()];
    let mut prompts: Vec<usize> = (0..demands.len())
        .filter(|index| !demands[*index].decoding && demands[*index].missing > 0)
        .collect();
    if let Some(&oldest) = prompts.first() {
        let is_other = |index: &usize| owners[*index].tenant != owners[oldest].tenant;
        let part = if prompts.iter().any(is_other) { 4 } else { 2 };
        rows[oldest] = demands[oldest].missing.min(left.div_ceil(part));
        left -= rows[oldest];
    }
    prompts.sort_by(|a, b| {
        let (first, second) = (demands[*a].urgency, demands[*b].urgency);
        (second.class.cmp(&first.class))
            .then_with(|| owners[*a].finish.total_cmp(&owners[*b].finish))
            .then_with(|| first.left.cmp(&second.left))
    });
    for index in prompts {
        let more = (demands[index].missing - rows[index]).min(left);
        rows[index] += more;
        left -= more;
    }
    rows
}

/// Returns which of the running requests, oldest first, is preempted: one of the lowest tier, of these
/// one of the tenant that has most [above its part](super::fair_share::FairShare::excess), of these the latest.
pub(super) fn victim(running: impl Iterator<Item = (ServiceTier, f64)>) -> Option<usize> {
    let latest_last = running.enumerate();
    let (index, _) =
        latest_last.min_by(|(index, (tier, excess)), (other, (other_tier, more))| {
            (tier.cmp(other_tier))
                .then_with(|| more.total_cmp(excess))
                .then_with(|| other.cmp(index))
        })?;
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
        is_shared: false,
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

    /// The plan where all are of one tenant.
    fn planned(demands: &[SequenceDemand], budget: StepBudget) -> StepPlan {
        let mine = PromptOwner {
            tenant: TenantId::default(),
            finish: 0.0,
        };
        compose(demands, &vec![mine; demands.len()], budget)
    }

    #[test]
    fn with_no_answer_under_way_a_prompt_takes_whole_batches() {
        let plan = planned(&[prompt(500)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![64]));
    }

    #[test]
    fn where_another_tenant_may_ask_prompts_never_take_whole_batches() {
        let shared = StepBudget {
            is_shared: true,
            ..BUDGET
        };
        let plan = planned(&[prompt(500)], shared);
        assert_eq!(plan, StepPlan::Compute(vec![16]));
    }

    #[test]
    fn answers_of_a_flood_take_no_more_of_a_step_than_the_prompt_of_another_tenant() {
        let target = Duration::from_millis(150);
        let step = |answers, is_owed| step_target(target, Some(answers), is_owed);
        assert_eq!(step(0.05, true), target);
        assert_eq!(step(0.1, true), Duration::from_millis(200));
        assert_eq!(step(0.4, true), 2 * target);
        assert_eq!(step(0.1, false), target);
        assert_eq!(step_target(target, None, true), target);
    }

    #[test]
    fn a_flood_of_prompts_leaves_most_rows_to_whoever_was_served_less() {
        let owner = |tenant, finish| PromptOwner {
            tenant: TenantId(tenant),
            finish,
        };
        let demands = [prompt(500), prompt(20), prompt(300)];
        let owners = [owner(1, 900.0), owner(1, 420.0), owner(2, 350.0)];
        let plan = compose(&demands, &owners, BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![16, 0, 48]));
        let owners = [owner(1, 900.0), owner(1, 420.0), owner(2, 700.0)];
        let plan = compose(&demands, &owners, BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![16, 20, 28]));
    }

    #[test]
    fn answers_come_first_and_prompts_get_a_chunk() {
        let plan = planned(&[prompt(500), ANSWER, ANSWER], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![16, 1, 1]));
    }

    #[test]
    fn chunks_make_batches_whole_groups_unless_nothing_would_be_left_of_them() {
        let grouped = StepBudget {
            row_group: 4,
            drafted: 1,
            ..BUDGET
        };
        let plan = planned(&[prompt(500), ANSWER, ANSWER], grouped);
        assert_eq!(plan, StepPlan::Compute(vec![13, 1, 1]));
        let plan = planned(&[prompt(16), ANSWER, ANSWER], grouped);
        assert_eq!(plan, StepPlan::Compute(vec![16, 1, 1]), "all of it");
        let few = StepBudget {
            prefill_rows: 1,
            drafted: 0,
            ..grouped
        };
        let plan = planned(&[prompt(500), ANSWER], few);
        assert_eq!(plan, StepPlan::Compute(vec![1, 1]));
    }

    #[test]
    fn the_oldest_prompt_gets_half_and_the_shortest_go_before_the_rest_of_it() {
        let plan = planned(&[prompt(500), prompt(300), prompt(10)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![32, 22, 10]));
        let plan = planned(&[prompt(500), ANSWER, prompt(3)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![13, 1, 3]));
        let plan = planned(&[ANSWER, prompt(10), prompt(10)], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![1, 10, 6]));
    }

    #[test]
    fn a_higher_class_reads_its_prompt_before_others_but_for_the_half_of_the_oldest() {
        let mut urgent = prompt(400);
        urgent.urgency.wanted_by(ServiceTier::Priority, 900);
        let plan = planned(&[prompt(500), prompt(10), urgent], BUDGET);
        assert_eq!(plan, StepPlan::Compute(vec![32, 0, 32]));
    }

    #[test]
    fn the_latest_of_the_lowest_class_is_preempted() {
        use ServiceTier::{Default, Flex, Priority};
        let victim = |classes: &[ServiceTier]| victim(classes.iter().map(|class| (*class, 0.0)));
        assert_eq!(victim(&[Default, Default]), Some(1));
        assert_eq!(victim(&[Flex, Default, Flex, Priority]), Some(2));
        assert_eq!(victim(&[]), None);
    }

    #[test]
    fn of_one_class_those_of_the_tenant_that_has_most_above_its_part_are_preempted() {
        use ServiceTier::{Default, Flex};
        let victim = |running: &[(ServiceTier, f64)]| victim(running.iter().copied());
        let running = [(Default, 0.3), (Default, 0.3), (Default, 0.0)];
        assert_eq!(victim(&running), Some(1));
        assert_eq!(victim(&[(Default, 0.3), (Flex, 0.0)]), Some(1));
    }

    #[test]
    fn answers_without_cells_ask_for_a_preemption() {
        let full = StepBudget { cells: 1, ..BUDGET };
        assert_eq!(planned(&[ANSWER, ANSWER], full), StepPlan::Preempt);
        let none = StepBudget { cells: 0, ..BUDGET };
        assert_eq!(planned(&[prompt(3), prompt(4)], none), StepPlan::Preempt);
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
            let is_shared = row_group % 2 == 0;
            let budget = StepBudget { cells, rows, prefill_rows, is_shared, drafted, row_group };
            let owners: Vec<PromptOwner> = (0..demands.len())
                .map(|index| PromptOwner {
                    tenant: TenantId(u32::from(index % 3 == 0)),
                    finish: f64::from(u8::from(index % 5 == 0)),
                })
                .collect();
            if let StepPlan::Compute(shares) = compose(&demands, &owners, budget) {
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
