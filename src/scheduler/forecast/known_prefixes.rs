//! Which beginnings of prompts have been asked for lately, so that the cache is likely to have them.
//!
//! Whoever estimates is on another thread than the cache, and a wrong guess here costs precision, nothing
//! else. Whole blocks of tokens are compared, as coarse as the numbers of cached tokens that clients are told:
//! an estimate must not give away more of what others have asked than those do.

use std::collections::{HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::admission::LogMean;
use crate::engine::Token;

use super::super::prefix::PrefixScope;
use super::kind::RequestKind;

/// Tokens of a block: the step in which OpenAI counts cached tokens.
const BLOCK: usize = 128;

/// The hash of a prompt up to the end of a block.
type BlockHash = u64;

/// Remembers the latest beginnings, block by block.
#[derive(Debug)]
pub(super) struct KnownPrefixes {
    /// By hash, when the block was last asked for.
    last_asked: HashMap<BlockHash, u64>,
    /// Blocks in the order of being asked for; an entry counts if the map has the same time.
    order: VecDeque<(BlockHash, u64)>,
    most: usize,
    time: u64,
    /// What had to be computed of prompts, as a share of what was thought to be: the cache knows more than whole
    /// blocks, and forgets some.
    computed: HashMap<RequestKind, LogMean>,
}

impl KnownPrefixes {
    /// Of as many blocks as fit into a cache of so many cells.
    pub(super) fn new(cells: usize) -> Self {
        Self {
            last_asked: HashMap::new(),
            order: VecDeque::new(),
            most: (cells / BLOCK).max(1),
            time: 0,
            computed: HashMap::new(),
        }
    }

    /// How many tokens of a prompt are likely not in the cache. At least one is always computed.
    pub(super) fn unread(&self, scope: PrefixScope, prompt: &[Token]) -> usize {
        let hashes = hashes(scope, prompt);
        let known = hashes.take_while(|hash| self.last_asked.contains_key(hash));
        let read = BLOCK * known.count();
        prompt.len().saturating_sub(read).max(1)
    }

    /// How many tokens will have to be computed of a prompt of which so many are thought to be uncached.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss
    )] // of a prompt
    pub(super) fn expected(&self, kind: RequestKind, unread: usize) -> usize {
        let share = self.computed.get(&kind).and_then(LogMean::mean);
        let expected = unread as f64 * share.unwrap_or(1.0);
        (expected.round() as usize).max(1)
    }

    /// Learns how many tokens had to be computed of such a prompt.
    #[allow(clippy::cast_precision_loss)] // of a prompt
    pub(super) fn learn(&mut self, kind: RequestKind, unread: usize, computed: usize) {
        let share = computed.max(1) as f64 / unread.max(1) as f64;
        self.computed.entry(kind).or_default().learn(share);
    }

    /// A prompt is about to be computed.
    pub(super) fn asked(&mut self, scope: PrefixScope, prompt: &[Token]) {
        for hash in hashes(scope, prompt) {
            self.time += 1;
            self.last_asked.insert(hash, self.time);
            self.order.push_back((hash, self.time));
        }
        while self.last_asked.len() > self.most || self.order.len() > 4 * self.most {
            let Some((hash, time)) = self.order.pop_front() else {
                break;
            };
            if self.last_asked.get(&hash) == Some(&time) {
                self.last_asked.remove(&hash);
            }
        }
    }
}

/// The hash of each whole block of a prompt, together with all before it.
fn hashes(scope: PrefixScope, prompt: &[Token]) -> impl Iterator<Item = BlockHash> {
    let mut hasher = DefaultHasher::new();
    scope.hash(&mut hasher);
    prompt.chunks_exact(BLOCK).map(move |block| {
        for token in block {
            token.0.hash(&mut hasher);
        }
        hasher.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::PrefixGroup;
    use crate::engine::AdapterId;

    fn prompt(seed: i32, length: usize) -> Vec<Token> {
        (0..length)
            .map(|at| Token(seed + i32::try_from(at).expect("small")))
            .collect()
    }

    const ALL: PrefixScope = PrefixScope {
        group: PrefixGroup(0),
        adapter: None,
    };

    #[test]
    fn what_was_asked_before_counts_as_read_in_whole_blocks() {
        let mut known = KnownPrefixes::new(4096);
        let mut first = prompt(0, 300);
        assert_eq!(known.unread(ALL, &first), 300);
        known.asked(ALL, &first);
        assert_eq!(known.unread(ALL, &first), 300 - 2 * BLOCK);
        first[200] = Token(7777);
        assert_eq!(known.unread(ALL, &first), 300 - BLOCK);
        assert_eq!(known.unread(ALL, &prompt(5, 300)), 300);
        known.asked(ALL, &prompt(9, BLOCK));
        assert_eq!(
            known.unread(ALL, &prompt(9, BLOCK)),
            1,
            "the last is computed"
        );
    }

    #[test]
    fn what_is_found_beyond_whole_blocks_is_learnt_on_average() {
        let mut known = KnownPrefixes::new(4096);
        let (kind, other) = (RequestKind::of(700, 32), RequestKind::of(20, 32));
        assert_eq!(known.expected(kind, 60), 60);
        (0..50).for_each(|_| known.learn(kind, 60, 15));
        assert_eq!(known.expected(kind, 60), 15);
        assert_eq!(known.expected(kind, 1), 1);
        assert_eq!(known.expected(other, 60), 60);
    }

    #[test]
    fn no_group_and_no_adapter_has_what_another_was_asked() {
        let mut known = KnownPrefixes::new(4096);
        known.asked(ALL, &prompt(0, 300));
        let theirs = PrefixScope {
            group: PrefixGroup(1),
            ..ALL
        };
        let adapted = PrefixScope {
            adapter: Some(AdapterId(0)),
            ..ALL
        };
        for other in [theirs, adapted] {
            assert_eq!(known.unread(other, &prompt(0, 300)), 300);
        }
    }

    #[test]
    fn the_oldest_are_forgotten_and_those_asked_again_are_kept() {
        let mut known = KnownPrefixes::new(3 * BLOCK);
        let once = |seed| prompt(1000 * seed, BLOCK);
        for seed in 0..100 {
            known.asked(ALL, &once(0));
            known.asked(ALL, &once(seed));
        }
        assert_eq!(known.unread(ALL, &once(0)), 1);
        assert_eq!(known.unread(ALL, &once(99)), 1);
        assert_eq!(known.unread(ALL, &once(50)), BLOCK);
        assert!(known.last_asked.len() <= 3 && known.order.len() <= 12);
    }
}
