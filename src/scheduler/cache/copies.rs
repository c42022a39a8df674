//! Copies of cells: from bank to bank, so that requests with the same beginning are computed side
//! by side, and to and from the shelf beside the cells; and the choice between a copy and shared cells.

use std::time::Instant;

use super::Cache;
use crate::engine::{Engine, SeqId, Token};
use crate::scheduler::shelf::{Found, WORTH_COPYING};

/// So many bytes go to the shelf at once where nothing needs their cells: more would be a pause.
const COPIED_AT_ONCE: usize = 32 << 20;

impl<E: Engine> Cache<E> {
    /// How much of `tokens` need not be computed in a bank: what can be shared there, or copied.
    pub(in crate::scheduler) fn known_length(&self, bank: usize, tokens: &[Token]) -> usize {
        let shared = self.match_length(bank, tokens);
        with_copy(self.copy_of(tokens), shared)
    }

    /// How much of `tokens` the shelf has, if there is room for all that was kept with it, or another
    /// bank.
    pub(in crate::scheduler) fn copy_of(&self, tokens: &[Token]) -> Option<usize> {
        let tokens = self.shareable(tokens)?;
        let original = self.original(tokens).map(|(_, length)| length);
        self.kept(tokens).max(original)
    }

    /// What of that the shelf has.
    fn kept(&self, tokens: &[Token]) -> Option<usize> {
        let found = self.shelf.find(tokens)?;
        (found.whole <= self.room()).then_some(found.length)
    }

    /// The sequence that has most of `tokens` in some bank, and how much, if there is room for a
    /// copy of that.
    fn original(&self, tokens: &[Token]) -> Option<(SeqId, usize)> {
        if self.bank_count() == 1 {
            return None;
        }
        let matches = self
            .banks
            .iter()
            .map(|bank| bank.tree.longest_match(tokens));
        let (length, holders) = matches.max_by_key(|(length, _)| *length)?;
        let fits = length <= self.room().min(self.shape().most_copied);
        fits.then_some((*holders.first()?, length))
    }

    /// Lets `id` share the longest beginning of `tokens` that is in the cache, or gives it a copy of
    /// a longer one; returns its length.
    pub(in crate::scheduler) fn share(
        &mut self,
        id: SeqId,
        tokens: &[Token],
        now: Instant,
    ) -> usize {
        let Some(shareable) = self.shareable(tokens) else {
            return 0;
        };
        let shared = self.match_length(self.bank_of(id), tokens);
        let is_worth_it = |copy: Option<usize>| with_copy(copy, shared) > shared;
        let kept = self.kept(shareable);
        let original = self.original(shareable);
        let original = original.filter(|(_, length)| is_worth_it(Some(*length)));
        let original = original.filter(|(_, length)| kept <= Some(*length));
        original
            .and_then(|(from, length)| self.copy(from, id, &shareable[..length]))
            .or_else(|| {
                let is_still = |found: Found<'_, E::Copied>| is_worth_it(Some(found.length));
                is_worth_it(kept).then(|| self.copy_in(id, shareable, is_still))?
            })
            .unwrap_or_else(|| self.share_cells(id, shareable, now))
    }

    /// Gives `id` a copy of `tokens`, which `from` has in another bank and for which room can be made;
    /// that one may give way for it.
    pub(super) fn copy(&mut self, from: SeqId, id: SeqId, tokens: &[Token]) -> Option<usize> {
        let copied = self.engine.copy_out(from, tokens.len())?;
        let exact = self.exact[from.0 as usize].min(tokens.len());
        self.make_room(tokens.len());
        let is_first = self.used_in(self.bank_of(id)) == 0;
        if !self.engine.copy_in(&copied, id) {
            self.engine.truncate(id, 0);
            return None;
        }
        self.bank_mut(id).filled(tokens.len());
        self.computed(id, tokens);
        self.exact[id.0 as usize] = if is_first { exact } else { 0 };
        Some(tokens.len())
    }

    /// Gives `id` a copy of what the shelf has of `tokens`, for which room can be made, if what is
    /// found then `is_worth_it`.
    pub(super) fn copy_in(
        &mut self,
        id: SeqId,
        tokens: &[Token],
        is_worth_it: impl Fn(Found<'_, E::Copied>) -> bool,
    ) -> Option<usize> {
        self.shelf.touch(tokens);
        let whole = self.shelf.find(tokens)?.whole;
        self.make_room(whole);
        // What gave way for it went to the shelf, and what it pushed out there may have been this.
        let found = self.shelf.find(tokens)?;
        if found.whole > whole || !is_worth_it(found) {
            return None;
        }
        let is_first = self.banks[self.shape().bank(id)].tree.cells() == 0;
        if !self.engine.copy_in(found.copied, id) {
            self.engine.truncate(id, 0);
            return None;
        }
        let (length, whole, exact) = (found.length, found.whole, found.exact);
        self.bank_mut(id).filled(whole);
        self.engine
            .truncate(id, u32::try_from(length).unwrap_or(u32::MAX));
        self.computed(id, &tokens[..length]);
        self.exact[id.0 as usize] = if is_first { exact } else { 0 };
        Some(length)
    }

    /// Where every row pays for all used cells of its bank: what nobody under way shares in these
    /// `banks` goes to the shelf, as long as that has room, but for what those will share that are
    /// still to begin with `awaited`.
    pub(in crate::scheduler) fn shelve_strangers<'a>(
        &mut self,
        banks: &[usize],
        awaited: impl Iterator<Item = (SeqId, &'a [Token])>,
    ) {
        if self.shape().crowd_cells.is_none() || self.parked.is_empty() {
            return;
        }
        let awaited: Vec<SeqId> = awaited
            .flat_map(|(id, tokens)| self.tree(id).longest_match(tokens).1)
            .copied()
            .collect();
        let mut copied = 0;
        for (id, used) in std::mem::take(&mut self.parked) {
            let fits =
                |bytes: &usize| copied + bytes <= COPIED_AT_ONCE && self.shelf.has_room(*bytes);
            let stays = awaited.contains(&id) || !banks.contains(&self.bank_of(id));
            let bytes = if stays {
                None
            } else {
                self.worth_copying_out(id)
            };
            match bytes.filter(fits) {
                Some(bytes) if self.copy_out(id, bytes) => {
                    copied += bytes;
                    self.is_parked[id.0 as usize] = false;
                    self.release(id);
                }
                _ => self.parked.push_back((id, used)),
            }
        }
    }

    /// As [`Cache::release`], for what may be wanted again.
    pub(in crate::scheduler) fn set_aside(&mut self, id: SeqId) {
        if let Some(bytes) = self.worth_copying_out(id) {
            self.copy_out(id, bytes);
        }
        self.release(id);
    }

    /// Bytes of a copy of `id`, if much of it would be lost without one.
    pub(super) fn worth_copying_out(&self, id: SeqId) -> Option<usize> {
        let (lost, all) = (self.tree(id).lost_with(id), self.tree(id).length(id));
        if lost < WORTH_COPYING || lost < all / 2 || !self.shape().shares_prefixes {
            return None;
        }
        let bytes = self.engine.copied_bytes(id)?;
        self.shelf.could_take(bytes).then_some(bytes)
    }

    /// Puts `id`, whose copy takes so many bytes, on the shelf; whether it is there then.
    fn copy_out(&mut self, id: SeqId, bytes: usize) -> bool {
        let tokens = self.tree(id).tokens_of(id);
        let exact = self.exact[id.0 as usize];
        let kept = self.shelf.find(&tokens).map_or(0, |found| found.exact);
        if self.shelf.has(&tokens) && kept >= exact {
            self.shelf.touch(&tokens);
            return true;
        }
        self.shelf.make_room(&tokens, bytes);
        let Some(copied) = self.engine.copy_out(id, tokens.len()) else {
            return false;
        };
        self.shelf.put(&tokens, copied, exact);
        true
    }
}

/// How much is known where so much can be shared and a copy has as much; which is not used where it
/// has little more, because its cells are its own, also those that it could have shared.
pub(in crate::scheduler) fn with_copy(copy: Option<usize>, shared: usize) -> usize {
    let is_worth_it = |copy: &usize| {
        let more = copy.saturating_sub(shared);
        more >= WORTH_COPYING && more >= copy / 2
    };
    copy.filter(is_worth_it).unwrap_or(shared)
}
