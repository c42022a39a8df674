//! Who joins those under way, and who gives way for it.

use std::time::Instant;

use crate::engine::{Engine, Token};

use super::Scheduler;
use super::cache::with_copy;
use super::crowd::Place;
use super::plan;
use super::prefix::common_length;
use super::sequence::{Running, Sequence};

/// What is in a bank of the cache.
#[derive(Debug, Clone, Copy)]
struct Load {
    running: usize,
    /// Cells that running requests have or still need for what is known of them.
    committed: usize,
    /// Cells that nobody under way holds.
    parked: usize,
}

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
        let mut loads = self.loads();
        let (mut misfits, mut crowded_out) = (0, vec![0; loads.len()]);
        for &index in &order {
            let is_full = self.running.len() >= self.rows();
            let may_start = |next: &mut Sequence| {
                self.serves(next.class()) && (!is_full || self.outranks(next))
            };
            let Some(next) = waiting[index].take_if(may_start) else {
                continue;
            };
            let is_looked_at = crowded_out.iter().any(|crowded| *crowded < MOST_MISFITS);
            if !is_looked_at && !self.may_crowd(&next) {
                waiting[index] = Some(next);
                continue;
            }
            let is_exact = self.is_exact(&next);
            let committed: usize = loads.iter().map(|load| load.committed).sum();
            let fits = |novel| plan::fits(novel, committed, self.running.len(), cells);
            let place = if is_exact {
                // It may have the bank of the one that makes way.
                let given_up = is_full.then(|| self.bank_of_victim()).flatten();
                self.exact_place(&next, &loads, given_up, fits)
            } else {
                self.place(&next, &loads, fits)
            };
            let Some(place) = place.filter(|place| place.fits) else {
                misfits += 1;
                let waited = now.saturating_duration_since(next.queued());
                waiting[index] = Some(next);
                if waited > plan::PATIENCE || misfits == MOST_MISFITS {
                    break;
                }
                continue;
            };
            let bank = place.bank;
            if !is_exact && self.keeps_out(&next, place, crowded_out[bank] > 0, now) {
                crowded_out[bank] += 1;
                waiting[index] = Some(next);
                continue;
            }
            if is_full {
                self.make_way(now);
                loads = self.loads();
            }
            let Some(id) = self.cache.acquire(bank, next.tokens(), now) else {
                waiting[index] = Some(next);
                break;
            };
            loads[bank].running += 1;
            loads[bank].committed += place.novel;
            if crowded_out[bank] == 0 {
                self.crowd.joined(now);
            }
            let mut sequence = next;
            for running in &mut self.running {
                // From now on it has to share its bank.
                if self.cache.bank_of(running.id) == bank {
                    running.sequence.set_exact(false);
                }
            }
            sequence.set_exact(is_exact);
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

    /// Whether it is computed so that it comes out the same each time: where that is asked for, or
    /// costs nobody anything, because it is alone.
    fn is_exact(&self, next: &Sequence) -> bool {
        let is_alone = self.running.is_empty() && next.generated() == 0;
        self.cache.shape().exact_block.is_some()
            && (self.limits.deterministic || is_alone && next.repeats())
    }

    /// Where such a one is served: in a bank that nobody uses, if there is one, or that is given up.
    fn exact_place(
        &self,
        next: &Sequence,
        loads: &[Load],
        given_up: Option<usize>,
        fits: impl Fn(usize) -> bool,
    ) -> Option<Place> {
        let is_free = |bank: usize| loads[bank].running == usize::from(given_up == Some(bank));
        let bank = self.cache.exact_bank(next.sharable_exactly(), is_free)?;
        Some(Place {
            bank,
            running: 0,
            used: 0,
            novel: next.len(),
            unread: next.len(),
            fits: fits(next.len()),
        })
    }

    /// Whether it joins however many there are: it is of a higher class than one of them, or a
    /// reader is in the middle of its answer.
    fn may_crowd(&self, next: &Sequence) -> bool {
        next.generated() > 0 || self.outranks(next)
    }

    /// Where it had best be served, of the banks where it `fits` if there is one.
    fn place(
        &self,
        next: &Sequence,
        loads: &[Load],
        fits: impl Fn(usize) -> bool,
    ) -> Option<Place> {
        let tokens = next.sharable();
        // Where there is no choice only its cells matter.
        let has_choice = loads.len() > 1;
        let copy = has_choice.then(|| self.cache.copy_of(tokens)).flatten();
        let place = |(bank, load): (usize, &Load)| {
            let shared = self.shareable(bank, tokens, self.running.len());
            let known = with_copy(copy, shared);
            // Of a copy all cells are its own.
            let novel = next.len() - if known > shared { 0 } else { shared };
            Place {
                bank,
                running: load.running,
                used: load.committed + load.parked,
                novel,
                unread: next.len() - known,
                fits: fits(novel),
            }
        };
        let places: Vec<Place> = loads.iter().enumerate().map(place).collect();
        self.crowd.choose(&places, !self.may_crowd(next))
    }

    /// What is in each bank.
    fn loads(&self) -> Vec<Load> {
        let load = |bank| {
            let (all, live) = (self.cache.used_in(bank), self.cache.live_in(bank));
            Load {
                running: 0,
                committed: live,
                parked: all - live,
            }
        };
        let mut loads: Vec<Load> = (0..self.cache.bank_count()).map(load).collect();
        for (index, running) in self.running.iter().enumerate() {
            let (bank, sequence) = (self.cache.bank_of(running.id), &running.sequence);
            loads[bank].running += 1;
            loads[bank].committed += if running.begun {
                sequence.missing()
            } else {
                sequence.len() - self.shareable(bank, sequence.sharable(), index)
            };
        }
        loads
    }

    /// Whether it is better for all that it waits. Others may go before it then, and only the
    /// first that waits so loses its patience.
    fn keeps_out(&self, next: &Sequence, place: Place, others: bool, now: Instant) -> bool {
        if !self.crowd.is_full(place) || self.may_crowd(next) {
            return false;
        }
        let (queued, first_row) = (next.queued(), self.pace.outputs(1));
        others || self.crowd.is_worth_waiting(place, queued, first_row, now)
    }

    /// Whether some running request is of a lower class.
    fn outranks(&self, next: &Sequence) -> bool {
        let lower = |running: &Running| running.sequence.class() < next.class();
        self.running.iter().any(lower)
    }

    /// The bank of the request that would make way.
    fn bank_of_victim(&self) -> Option<usize> {
        let classes = self.running.iter().map(|running| running.sequence.class());
        let victim = plan::victim(classes)?;
        Some(self.cache.bank_of(self.running[victim].id))
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
