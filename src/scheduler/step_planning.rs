//! What the next step computes, given the sequences, the cells and what steps have been found to take.

use std::time::Instant;

use crate::engine::Engine;

use super::SchedulerLimits;
use super::drafting::{self, DraftBudget};
use super::fair_share::FairShare;
use super::plan::{self, PromptOwner, SequenceDemand, StepBudget, StepPlan};
use super::running::RunningSequence;
use super::sequences::Sequences;
use super::speculation::AcceptanceRates;
use super::step_latency::StepLatency;
use super::{exact_share, prefill};

/// Bytes that the logits of answers and drafts may take in a partition of the cache, and those of
/// scored prompts again, however large the vocabulary is.
const LOGITS_BYTES: usize = 32 << 20;

/// Plans one step.
pub(super) struct StepPlanning<'a, E: Engine> {
    pub(super) sequences: &'a mut Sequences<E>,
    pub(super) limits: SchedulerLimits,
    pub(super) step_latency: &'a StepLatency,
    pub(super) acceptance: &'a AcceptanceRates,
    pub(super) fair: &'a mut FairShare,
}

impl<E: Engine> StepPlanning<'_, E> {
    /// Starts those that have just joined and decides how many tokens each running sequence computes
    /// in the next step, in their order; what it drafts comes on top. Swaps sequences out first where
    /// there are too few cells. `None` where nothing is left to compute.
    pub(super) fn plan(&mut self, now: Instant) -> Option<Vec<usize>> {
        loop {
            if self.sequences.running.is_empty() {
                return None;
            }
            let urgencies = self.sequences.start(now);
            let block = self.sequences.cache.shape().exact_block;
            let demands = prefill::demands(
                &self.sequences.running,
                urgencies,
                block,
                self.most_logits(),
            );
            let owners = self.owners(&demands);
            let answers = demands.iter().filter(|demand| demand.decoding).count();
            let prompts = demands.iter().filter(|demand| !demand.decoding);
            let drafted = self.draft(answers, prompts.map(|demand| demand.missing).sum());
            let shape = self.sequences.cache.shape();
            let budget = StepBudget {
                cells: self.sequences.cache.room() - drafted,
                rows: shape.batch_rows - drafted,
                drafted,
                row_group: shape.row_group,
                is_shared: self.fair.had_several_lately(now),
                prefill_rows: self.step_latency.prefill_rows(
                    answers + drafted,
                    plan::step_target(
                        self.limits.target_inter_token,
                        self.step_latency.outputs(answers),
                        self.is_prompt_owed_time(&demands),
                    ),
                    shape.batch_rows,
                    shape.tile_rows,
                ),
            };
            match plan::compose(&demands, &owners, budget) {
                StepPlan::Compute(mut shares) => {
                    exact_share::limit(&self.sequences.running, &mut shares, block, budget.cells);
                    if shares.iter().any(|share| *share > 0) {
                        return Some(shares);
                    }
                    self.sequences.swap_out_victim(self.fair, now);
                }
                StepPlan::Preempt => self.sequences.swap_out_victim(self.fair, now),
            }
        }
    }

    /// Whose the running sequences are. A prompt for which others wait counts as theirs, if they were
    /// served less: it is all that they can wait for.
    fn owners(&self, demands: &[SequenceDemand]) -> Vec<PromptOwner> {
        let running = &self.sequences.running;
        let owner = |running: &RunningSequence, left: usize| {
            let tenant = running.sequence.tenant().id;
            let finish = self.fair.after(tenant, left);
            PromptOwner { tenant, finish }
        };
        let waiting = running.iter().filter(|running| !running.has_started);
        let least = waiting
            .map(|running| owner(running, 0))
            .min_by(|a, b| a.finish.total_cmp(&b.finish));
        (running.iter().zip(demands))
            .map(|(running, demand)| {
                let missing = running.sequence.missing();
                let own = owner(running, missing);
                let is_awaited = running.has_started && demand.urgency.left < missing;
                let awaited = least.filter(|least| is_awaited && least.finish < own.finish);
                awaited.unwrap_or(own)
            })
            .collect()
    }

    /// Whether a tenant that has more than its part decodes, and one that has not waits for a prompt.
    fn is_prompt_owed_time(&self, demands: &[SequenceDemand]) -> bool {
        let has_any = |is_decoding: bool, has_too_much: bool| {
            let mut running = self.sequences.running.iter().zip(demands);
            running.any(|(running, demand)| {
                let excess = self.fair.excess(running.sequence.tenant().id);
                demand.decoding == is_decoding && (excess > 0.0) == has_too_much
            })
        };
        self.fair.has_several() && has_any(true, true) && has_any(false, false)
    }

    /// Lets answers draft where that pays; returns how many rows the drafts take. Prompts go first,
    /// which still have to compute `unread` tokens: drafts get a part of the time, and cells that
    /// nobody else wants, for which nothing is evicted.
    fn draft(&mut self, answers: usize, unread: usize) -> usize {
        for running in &mut self.sequences.running {
            running.draft.clear();
        }
        if answers == 0 || !self.limits.speculation {
            return 0;
        }
        let room = self.most_logits().min(self.sequences.cache.room());
        if let [running] = &mut self.sequences.running[..]
            && running.sequence.is_exact()
        {
            return running.draft_alone(room.saturating_sub(1));
        }
        let budget = DraftBudget {
            answers,
            unread,
            rows: self.draft_room(answers, unread),
            target: self.limits.target_inter_token.as_secs_f64(),
        };
        drafting::draft(
            &mut self.sequences.running,
            budget,
            self.step_latency,
            self.acceptance,
        )
    }

    /// Rows that drafts may take together, beside those of `answers` and of prompts that still have
    /// to compute `unread` tokens.
    fn draft_room(&self, answers: usize, unread: usize) -> usize {
        let shape = self.sequences.cache.shape();
        let rows = shape.batch_rows - unread.min(shape.batch_rows / 2);
        let cells = self.sequences.cache.free_cells().saturating_sub(unread);
        let most = rows.min(self.most_logits()).min(cells);
        most.saturating_sub(answers)
    }

    /// How many rows with logits a batch should have at most: llama.cpp keeps memory for as many as
    /// a batch ever had.
    fn most_logits(&self) -> usize {
        let row = self.sequences.cache.shape().vocabulary * size_of::<f32>();
        (LOGITS_BYTES / row.max(1)).max(1)
    }
}
