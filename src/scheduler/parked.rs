//! What ended requests left in the cache, and how long each is worth its place.
//!
//! A conversation that comes back finds its cells; a store's prompt that kiosks send is in the
//! cells of whichever asked last. But where rows pass by all used cells (`Shape::crowd_cells`),
//! what is kept makes every row slower. As with a thing that one can rent or buy, it is kept until
//! the rent has reached the price, which is to compute it anew: for as many rows as cells can be
//! passed by in the time of a prompt's row. That costs twice as much at most as to know beforehand
//! what will be asked for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::engine::SeqId;

/// Without a price, a row only looks at the masks of what is kept. That is little, but for thousands
/// of cells no longer nothing: beyond so many they go when nobody asked for them for a while.
const FOR_GOOD: usize = 1024;
const A_WHILE: Duration = Duration::from_secs(30);
/// A row of a prompt, of which hundreds are computed at once, takes half as long as it takes to read
/// the weights.
const PROMPT_ROW: f64 = 0.5;

/// See the module's text. Least recently used first.
#[derive(Debug)]
pub(super) struct Parked {
    entries: VecDeque<Entry>,
    /// `Shape::crowd_cells`.
    crowd_cells: usize,
    /// Rows computed so far.
    rows: u64,
}

#[derive(Debug)]
struct Entry {
    id: SeqId,
    /// In tokens.
    length: usize,
    used: Instant,
    used_row: u64,
}

impl Parked {
    pub(super) fn new(crowd_cells: usize) -> Self {
        Self {
            entries: VecDeque::new(),
            crowd_cells,
            rows: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// So many rows more were computed.
    pub(super) fn computed(&mut self, rows: usize) {
        self.rows += rows as u64;
    }

    /// The request of `id` has ended; it has `length` tokens.
    pub(super) fn push(&mut self, id: SeqId, length: usize, now: Instant) {
        self.entries.push_back(Entry {
            id,
            length,
            used: now,
            used_row: self.rows,
        });
    }

    /// Somebody asks for what all of `holders` have. It is enough that one of them stays for that:
    /// the one with the least beside.
    pub(super) fn asked_for(&mut self, holders: &[SeqId], now: Instant) {
        let with_it = self.entries.iter().enumerate();
        let with_it = with_it.filter(|(_, entry)| holders.contains(&entry.id));
        // Of equals the latest.
        let shortest = with_it.rev().min_by_key(|(_, entry)| entry.length);
        let shortest = shortest.map(|(index, _)| index);
        if let Some(mut entry) = shortest.and_then(|index| self.entries.remove(index)) {
            entry.used = now;
            entry.used_row = self.rows;
            self.entries.push_back(entry);
        }
    }

    /// Takes the least recently used one out.
    pub(super) fn pop(&mut self) -> Option<SeqId> {
        self.entries.pop_front().map(|entry| entry.id)
    }

    /// Whether the least recently used one is no longer worth its place; `cells` says how many are
    /// kept. The latest is, in any case.
    pub(super) fn has_expired(&self, cells: impl FnOnce() -> usize, now: Instant) -> bool {
        let Some(oldest) = self.entries.front().filter(|_| self.len() > 1) else {
            return false;
        };
        let is_forgotten = now.saturating_duration_since(oldest.used) > A_WHILE;
        self.has_paid(oldest) || is_forgotten && cells() > FOR_GOOD
    }

    #[allow(clippy::cast_precision_loss)] // rows of many years fit
    fn has_paid(&self, entry: &Entry) -> bool {
        let rows = PROMPT_ROW * self.crowd_cells as f64;
        (self.rows - entry.used_row) as f64 > rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CELLS: usize = 2000;

    fn ids(parked: &Parked) -> Vec<u32> {
        parked.entries.iter().map(|entry| entry.id.0).collect()
    }

    #[test]
    fn what_costs_nothing_stays_until_there_is_much_that_nobody_asked_for() {
        let (mut parked, start) = (Parked::new(usize::MAX), Instant::now());
        for id in 0..3 {
            parked.push(SeqId(id), 1000, start);
        }
        parked.computed(1_000_000);
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!parked.has_expired(|| 3000, after(29)));
        assert!(parked.has_expired(|| 3000, after(31)));
        assert!(!parked.has_expired(|| 1000, after(31)));
        parked.pop();
        parked.pop();
        assert!(!parked.has_expired(|| 3000, after(31)), "the latest");
    }

    #[test]
    fn what_has_cost_as_much_as_computing_it_anew_goes() {
        let (mut parked, now) = (Parked::new(CELLS), Instant::now());
        parked.push(SeqId(0), 100, now);
        parked.computed(600);
        parked.push(SeqId(1), 100, now);
        parked.computed(400);
        assert!(!parked.has_expired(|| 200, now));
        parked.computed(1);
        assert!(parked.has_expired(|| 200, now));
        parked.asked_for(&[SeqId(0)], now);
        assert!(!parked.has_expired(|| 200, now));
        assert_eq!(ids(&parked), [1, 0]);
    }

    #[test]
    fn of_those_that_have_what_is_asked_for_the_one_with_the_least_beside_stays() {
        let (mut parked, now) = (Parked::new(CELLS), Instant::now());
        for (id, length) in [(0, 700), (1, 650), (2, 2000), (3, 20)] {
            parked.push(SeqId(id), length, now);
        }
        parked.asked_for(&[SeqId(0), SeqId(1), SeqId(2)], now);
        assert_eq!(ids(&parked), [0, 2, 3, 1]);
    }
}
