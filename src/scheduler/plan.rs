//! What one step computes: a pure function of how far each sequence is.

/// What the planner sees of a running sequence, oldest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    /// Tokens without a cell.
    pub(super) missing: usize,
    /// Whether an answer is under way.
    pub(super) decoding: bool,
}

/// What a step may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// Free KV cells.
    pub(super) cells: usize,
    /// Rows that the engine takes.
    pub(super) rows: usize,
    /// Rows that prompts may take while answers are under way.
    pub(super) prefill_rows: usize,
}

/// A step's work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Plan {
    /// Rows for each sequence, in the order given.
    Compute(Vec<usize>),
    /// No cell is left for an answer under way: put the latest sequence back first.
    Preempt,
}

/// Every decoding row first, so that no arriving prompt stalls an answer; what
/// is left goes to prompts, oldest first, in chunks that keep the step short.
/// With no answer under way prompts take whole batches.
pub(super) fn compose(needs: &[Need], budget: Budget) -> Plan {
    let decoding = needs.iter().filter(|need| need.decoding).count();
    debug_assert!(
        decoding <= budget.rows,
        "a batch holds every running answer"
    );
    if decoding > budget.cells {
        return Plan::Preempt;
    }
    let mut prefill = if decoding == 0 {
        budget.rows
    } else {
        budget.prefill_rows.min(budget.rows - decoding)
    };
    prefill = prefill.min(budget.cells - decoding);
    let rows: Vec<usize> = needs
        .iter()
        .map(|need| {
            if need.decoding {
                return 1;
            }
            let rows = need.missing.min(prefill);
            prefill -= rows;
            rows
        })
        .collect();
    let stuck = rows.iter().sum::<usize>() == 0 && !needs.is_empty();
    if stuck {
        Plan::Preempt
    } else {
        Plan::Compute(rows)
    }
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

    const BUDGET: Budget = Budget {
        cells: 1000,
        rows: 64,
        prefill_rows: 16,
    };

    fn prompt(missing: usize) -> Need {
        Need {
            missing,
            decoding: false,
        }
    }

    const ANSWER: Need = Need {
        missing: 1,
        decoding: true,
    };

    #[test]
    fn with_no_answer_under_way_a_prompt_takes_whole_batches() {
        let plan = compose(&[prompt(500), prompt(10)], BUDGET);
        assert_eq!(plan, Plan::Compute(vec![64, 0]));
    }

    #[test]
    fn answers_come_first_and_prompts_get_a_chunk() {
        let plan = compose(&[prompt(500), ANSWER, ANSWER], BUDGET);
        assert_eq!(plan, Plan::Compute(vec![16, 1, 1]));
    }

    #[test]
    fn what_the_oldest_prompt_leaves_goes_to_the_next() {
        let plan = compose(&[ANSWER, prompt(10), prompt(10)], BUDGET);
        assert_eq!(plan, Plan::Compute(vec![1, 10, 6]));
    }

    #[test]
    fn answers_without_cells_ask_for_a_preemption() {
        let full = Budget { cells: 1, ..BUDGET };
        assert_eq!(compose(&[ANSWER, ANSWER], full), Plan::Preempt);
        let none = Budget { cells: 0, ..BUDGET };
        assert_eq!(compose(&[prompt(3), prompt(4)], none), Plan::Preempt);
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
            needs in prop::collection::vec((1_usize..300, any::<bool>()), 1..40),
            cells in 0_usize..600,
            rows in 40_usize..128,
            prefill_rows in 1_usize..64,
        ) {
            let needs: Vec<Need> = needs
                .into_iter()
                .map(|(missing, decoding)| if decoding { ANSWER } else { prompt(missing) })
                .collect();
            let budget = Budget { cells, rows, prefill_rows };
            if let Plan::Compute(shares) = compose(&needs, budget) {
                let total: usize = shares.iter().sum();
                prop_assert!(total > 0 && total <= rows && total <= cells);
                for (need, share) in needs.iter().zip(shares) {
                    prop_assert!(share <= need.missing);
                    prop_assert!(!need.decoding || share == 1);
                }
            } else {
                let decoding = needs.iter().filter(|need| need.decoding).count();
                prop_assert!(cells < decoding || cells == 0);
            }
        }
    }
}
