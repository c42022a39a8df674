//! Which of the running answers draft in the next step, and how much.

use super::running::RunningSequence;
use super::speculation::{self, AcceptanceRates, DraftCandidate, DraftProposal};
use super::step_latency::StepLatency;

/// The part of the time beyond decoding that drafts may take in a step while prompts want to be read.
const DRAFTS_BESIDE_PROMPTS: f64 = 0.25;

/// What the drafts of a step have to fit into.
#[derive(Debug, Clone, Copy)]
pub(super) struct DraftBudget {
    /// Answers that run, each of which computes one row in any case.
    pub(super) answers: usize,
    /// Tokens that prompts still have to compute.
    pub(super) unread: usize,
    /// Rows that drafts may take together.
    pub(super) rows: usize,
    /// Seconds that a step should take at most.
    pub(super) target: f64,
}

/// Lets the `running` answers draft where that is expected to pay; returns how many rows their
/// drafts take together. Beside prompts, drafts get a part of the time only.
pub(super) fn draft(
    running: &mut [RunningSequence],
    budget: DraftBudget,
    step_latency: &StepLatency,
    acceptance: &AcceptanceRates,
) -> usize {
    let Some(undrafted) = step_latency.outputs(budget.answers) else {
        return 0;
    };
    let longest = if budget.unread == 0 {
        budget.target
    } else {
        undrafted + DRAFTS_BESIDE_PROMPTS * (budget.target - undrafted).max(0.0)
    };
    let candidates = candidates(running, acceptance);
    let seconds = |rows: usize| {
        let seconds = step_latency.decode_seconds(budget.answers, rows);
        let seconds = seconds.unwrap_or(f64::INFINITY);
        // Beside a prompt nothing is tried out: what the step takes longer would be put down to it.
        let is_untried = budget.unread > 0 && rows > step_latency.most_output_rows();
        if rows > budget.answers && (seconds > longest || is_untried) {
            f64::INFINITY
        } else {
            seconds
        }
    };
    let lengths = speculation::allot_drafts(&candidates, budget.answers, budget.rows, seconds);
    for (candidate, &length) in candidates.iter().zip(&lengths) {
        let running = &mut running[candidate.running];
        if length == 0 {
            running.watch(candidate.proposal);
        } else {
            running.take_draft(DraftProposal {
                length,
                ..candidate.proposal
            });
        }
    }
    lengths.iter().sum()
}

/// What each answer could draft.
fn candidates(running: &[RunningSequence], acceptance: &AcceptanceRates) -> Vec<DraftCandidate> {
    let candidate = |(index, running): (usize, &RunningSequence)| {
        let proposal = running.sequence.draft_proposal()?;
        Some(DraftCandidate {
            running: index,
            proposal,
            chance: acceptance.chance(proposal.source, running.sequence.record()),
        })
    };
    running.iter().enumerate().filter_map(candidate).collect()
}
