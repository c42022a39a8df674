//! Who joins those under way, and who gives way for it.

use std::time::Instant;

use crate::engine::{Engine, Token};

use super::Scheduler;
use super::crowd::{Newcomer, Present};
use super::plan;
use super::prefix::common_length;
use super::sequence::{Running, Sequence};

/// Waiting requests that are looked at in a step though they do not fit, or had better wait.
const MOST_MISFITS: usize = 8;

impl<E: Engine> Scheduler<E> {
    /// Lets waiting requests join those under way.
    pub(super) fn take_up(&mut self, now: Instant) {
        if self.waiting.is_empty() {
            return;
        }
        let order = plan::order(self.waiting.iter().map(Sequence::rank));
        let mut waiting: Vec<_> = std::mem::take(&mut self.waiting)
            .into_iter()
            .map(Some)
            .collect();
        let cells = self.cache.shape().cells;
        let mut committed = (0..self.cache.banks())
            .map(|bank| self.committed(bank))
            .sum();
        let (mut misfits, mut crowded_out) = (0, 0);
        for &index in &order {
            let is_full = self.running.len() >= self.rows();
            let may_start = |next: &mut Sequence| {
                self.serves(next.class()) && (!is_full || self.outranks(next))
            };
            let Some(next) = waiting[index].take_if(may_start) else {
                continue;
            };
            if crowded_out == MOST_MISFITS && !self.may_crowd(&next) {
                waiting[index] = Some(next);
                continue;
            }
            let (bank, newcomer) = self.place(&next);
            let novel = newcomer.novel;
            if !plan::fits(novel, committed, self.running.len(), cells) {
                misfits += 1;
                let waited = now.saturating_duration_since(next.queued());
                waiting[index] = Some(next);
                if waited > plan::PATIENCE || misfits == MOST_MISFITS {
                    break;
                }
                continue;
            }
            if self.keeps_out(&next, bank, newcomer, crowded_out > 0, now) {
                crowded_out += 1;
                waiting[index] = Some(next);
                continue;
            }
            if is_full {
                self.make_way(now);
            }
            let Some(id) = self.cache.acquire(bank, next.tokens(), now) else {
                waiting[index] = Some(next);
                break;
            };
            committed += novel;
            if crowded_out == 0 {
                self.crowd.joined(now);
            }
            let mut sequence = next;
            sequence.take_up(now, &self.metrics);
            self.running.push(Running::new(id, sequence));
        }
        let left = order.iter().filter_map(|&index| waiting[index].as_ref());
        for (ahead, sequence) in left.enumerate() {
            sequence.waits(ahead);
        }
        // Those that made way are there already.
        self.waiting.extend(waiting.into_iter().flatten());
    }

    /// Whether it joins however many there are: it is of a higher class than one of them, or a
    /// reader is in the middle of its answer.
    fn may_crowd(&self, next: &Sequence) -> bool {
        next.generated() > 0 || self.outranks(next)
    }

    /// The bank in which it had best be served, and what it would be there.
    fn place(&self, next: &Sequence) -> (usize, Newcomer) {
        let offer = |bank| (self.newcomer(next, bank), self.present(bank));
        let offers: Vec<_> = (0..self.cache.banks()).map(offer).collect();
        let bank = self.crowd.place(&offers);
        (bank, offers[bank].0)
    }

    /// What a request would be in a bank.
    fn newcomer(&self, next: &Sequence, bank: usize) -> Newcomer {
        let tokens = next.sharable();
        let shared = self.shareable(bank, tokens, self.running.len());
        let known = self.cache.known_length(bank, tokens).max(shared);
        Newcomer {
            novel: next.len() - shared,
            unread: next.len() - known,
            queued: next.queued(),
        }
    }

    /// What there is in a bank.
    fn present(&self, bank: usize) -> Present {
        let is_here = |running: &&Running| self.cache.bank_of(running.id) == bank;
        Present {
            running: self.running.iter().filter(is_here).count(),
            used: self.committed(bank),
            first_row: self.pace.outputs(1),
        }
    }

    /// Whether it is better for all that it waits. Others may go before it then, and only the
    /// first that waits so loses its patience.
    fn keeps_out(
        &self,
        next: &Sequence,
        bank: usize,
        newcomer: Newcomer,
        others: bool,
        now: Instant,
    ) -> bool {
        let present = self.present(bank);
        if !self.crowd.is_full_for(newcomer.novel, present.running) || self.may_crowd(next) {
            return false;
        }
        others || self.crowd.is_worth_waiting(newcomer, present, now)
    }

    /// Whether some running request is of a lower class.
    fn outranks(&self, next: &Sequence) -> bool {
        let lower = |running: &Running| running.sequence.class() < next.class();
        self.running.iter().any(lower)
    }

    /// Puts a request of the lowest class back into the queue; its cells stay as long as there is
    /// room, so that going on costs little.
    fn make_way(&mut self, now: Instant) {
        let classes = self.running.iter().map(|running| running.sequence.class());
        if let Some(victim) = plan::victim(classes) {
            let mut victim = self.running.remove(victim);
            self.cache.park(victim.id, now);
            self.metrics.preemptions.inc();
            victim.sequence.put_back(now);
            self.waiting.push(victim.sequence);
        }
    }

    /// Cells of a bank that running requests have or still need for what is known of them.
    fn committed(&self, bank: usize) -> usize {
        let here = (self.running.iter().enumerate())
            .filter(|(_, running)| self.cache.bank_of(running.id) == bank);
        let needed = here.map(|(index, running)| {
            let sequence = &running.sequence;
            if running.begun {
                sequence.missing()
            } else {
                sequence.len() - self.shareable(bank, sequence.sharable(), index)
            }
        });
        self.cache.live_in(bank) + needed.sum::<usize>()
    }

    /// How much of a beginning is in a bank, or will be when the first `older` running
    /// sequences have computed what they are to.
    fn shareable(&self, bank: usize, tokens: &[Token], older: usize) -> usize {
        let now = self.cache.match_length(bank, tokens);
        self.running[..older]
            .iter()
            .map(|running| self.common(bank, tokens, running))
            .fold(now, usize::max)
    }

    /// How much of `tokens` a running sequence has or will have in a bank; the last one is always
    /// computed.
    pub(super) fn common(&self, bank: usize, tokens: &[Token], running: &Running) -> usize {
        if !self.cache.shape().shares_prefixes || self.cache.bank_of(running.id) != bank {
            return 0;
        }
        let Some((_, all_but_last)) = tokens.split_last() else {
            return 0;
        };
        common_length(all_but_last, running.sequence.tokens())
    }
}
