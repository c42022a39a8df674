//! Caches compiled grammars for the next request with the same one.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use lru::LruCache;

use super::{CompiledGrammar, Grammar};

/// Grammars of clients that are cached.
const MOST_GRAMMARS: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// Bytes of text of the longest grammar that is cached; a longer one is compiled for every request.
const LONGEST_TEXT: usize = 64 << 10;
/// Bytes that all cached grammars of clients may hold: an ordinary schema holds some hundred kilobytes.
const MOST_BYTES: usize = 64 << 20;
/// Bytes that one cached grammar may hold.
const LARGEST_GRAMMAR: usize = 16 << 20;

/// The compiled grammars of one model, by their text.
pub(super) struct GrammarCache {
    clients: LruCache<String, CacheEntry>,
    /// The server's own, which clients' grammars never evict.
    ours: Vec<(String, CompiledGrammar)>,
    /// Bytes that the clients' grammars hold.
    memory: usize,
}

struct CacheEntry {
    compiled: CompiledGrammar,
    memory: usize,
}

impl Default for GrammarCache {
    fn default() -> Self {
        Self {
            clients: LruCache::new(MOST_GRAMMARS),
            ours: Vec::new(),
            memory: 0,
        }
    }
}

impl GrammarCache {
    /// Returns a cached grammar, unless an answer has used up the lexer states that all answers with it
    /// share.
    pub(super) fn get(&mut self, text: &str) -> Option<CompiledGrammar> {
        let ours = self.ours.iter().find(|(known, _)| known == text);
        let compiled = match ours {
            Some((_, compiled)) => Some(compiled),
            None => self.clients.get(text).map(|entry| &entry.compiled),
        };
        let fresh = |compiled: &&CompiledGrammar| !compiled.worn.load(Ordering::Relaxed);
        compiled.filter(fresh).cloned()
    }

    /// Caches a grammar that holds `memory` bytes, unless it is too large.
    pub(super) fn keep(&mut self, grammar: &Grammar, compiled: &CompiledGrammar, memory: usize) {
        let text = &grammar.text;
        if grammar.is_ours {
            self.ours.retain(|(known, _)| known != text);
            self.ours.push((text.clone(), compiled.clone()));
            return;
        }
        let memory = memory + text.len();
        if text.len() > LONGEST_TEXT || memory > LARGEST_GRAMMAR {
            return;
        }
        let entry = CacheEntry {
            compiled: compiled.clone(),
            memory,
        };
        self.memory += memory;
        // `push` evicts the entry with the same text, or the oldest where there are too many.
        let replaced = self.clients.push(text.clone(), entry);
        self.memory -= replaced.map_or(0, |(_, entry)| entry.memory);
        while self.memory > MOST_BYTES
            && let Some((_, oldest)) = self.clients.pop_lru()
        {
            self.memory -= oldest.memory;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Schema;
    use super::super::compile::Compiler;
    use super::super::memory::GrammarMemory;
    use super::*;

    fn compiled() -> CompiledGrammar {
        let bytes = Compiler::for_bytes().expect("a compiler");
        let compiled = bytes.compile("start: \"a\"").expect("sound");
        CompiledGrammar::new(compiled, GrammarMemory::default().hold(0).expect("room"))
    }

    fn grammar(number: usize) -> Grammar {
        Grammar::lark(format!("start: \"{number}\""))
    }

    #[test]
    fn as_many_are_cached_as_memory_allows_and_the_latest_stay() {
        let (mut cache, compiled) = (GrammarCache::default(), compiled());
        let large = LARGEST_GRAMMAR - (1 << 10);
        for number in 0..5 {
            cache.keep(&grammar(number), &compiled, large);
        }
        assert!(cache.memory <= MOST_BYTES);
        assert!(cache.get(&grammar(0).text).is_none() && cache.get(&grammar(4).text).is_some());
        cache.keep(&grammar(9), &compiled, LARGEST_GRAMMAR + 1);
        assert!(
            cache.get(&grammar(9).text).is_none(),
            "too large to be kept"
        );
    }

    #[test]
    fn a_clients_never_push_the_servers_own_out() {
        let (mut cache, compiled) = (GrammarCache::default(), compiled());
        cache.keep(&Grammar::schema(&Schema::object()), &compiled, 0);
        for number in 0..100 {
            cache.keep(&grammar(number), &compiled, 1 << 10);
        }
        assert!(
            cache
                .get(&Grammar::schema(&Schema::object()).text)
                .is_some()
        );
        assert!(cache.get(&grammar(0).text).is_none() && cache.get(&grammar(99).text).is_some());
        compiled.worn.store(true, Ordering::Relaxed);
        assert!(
            cache
                .get(&Grammar::schema(&Schema::object()).text)
                .is_none(),
            "used up"
        );
    }
}
