//! CompileOutput grammars that are kept for the next request with the same one.

use std::num::NonZeroUsize;
use std::sync::atomic::Ordering;

use lru::LruCache;

use super::{CompiledGrammar, Grammar};

/// Grammars of clients.
const MOST: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// Longer ones are compiled for every request.
const LONGEST: usize = 64 << 10;
/// What all of them may hold, and one of them, in bytes: an ordinary schema holds some hundred
/// kilobytes.
const MOST_MEMORY: usize = 64 << 20;
const LARGEST: usize = 16 << 20;

pub(super) struct GrammarCache {
    clients: LruCache<String, CacheEntry>,
    /// The server's own, which none of a client's pushes out.
    ours: Vec<(String, CompiledGrammar)>,
    memory: usize,
}

struct CacheEntry {
    begun: CompiledGrammar,
    memory: usize,
}

impl Default for GrammarCache {
    fn default() -> Self {
        Self {
            clients: LruCache::new(MOST),
            ours: Vec::new(),
            memory: 0,
        }
    }
}

impl GrammarCache {
    /// Unless an answer has used up what all answers with it share.
    pub(super) fn get(&mut self, text: &str) -> Option<CompiledGrammar> {
        let ours = self.ours.iter().find(|(known, _)| known == text);
        let begun = match ours {
            Some((_, begun)) => Some(begun),
            None => self.clients.get(text).map(|entry| &entry.begun),
        };
        let fresh = |begun: &&CompiledGrammar| !begun.worn.load(Ordering::Relaxed);
        begun.filter(fresh).cloned()
    }

    /// One that holds so many bytes.
    pub(super) fn keep(&mut self, grammar: &Grammar, begun: &CompiledGrammar, memory: usize) {
        let text = &grammar.text;
        if grammar.is_ours {
            self.ours.retain(|(known, _)| known != text);
            self.ours.push((text.clone(), begun.clone()));
            return;
        }
        let memory = memory + text.len();
        if text.len() > LONGEST || memory > LARGEST {
            return;
        }
        let entry = CacheEntry {
            begun: begun.clone(),
            memory,
        };
        self.memory += memory;
        // The one with the same text, or the oldest where they are too many.
        let replaced = self.clients.push(text.clone(), entry);
        self.memory -= replaced.map_or(0, |(_, entry)| entry.memory);
        while self.memory > MOST_MEMORY
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

    fn begun() -> CompiledGrammar {
        let bytes = Compiler::for_bytes().expect("a compiler");
        let compiled = bytes.compile("start: \"a\"").expect("sound");
        CompiledGrammar::new(compiled, GrammarMemory::default().hold(0).expect("room"))
    }

    fn grammar(number: usize) -> Grammar {
        Grammar::lark(format!("start: \"{number}\""))
    }

    #[test]
    fn as_many_are_kept_as_memory_allows_and_the_latest_stay() {
        let (mut kept, begun) = (GrammarCache::default(), begun());
        let large = LARGEST - (1 << 10);
        for number in 0..5 {
            kept.keep(&grammar(number), &begun, large);
        }
        assert!(kept.memory <= MOST_MEMORY);
        assert!(kept.get(&grammar(0).text).is_none() && kept.get(&grammar(4).text).is_some());
        kept.keep(&grammar(9), &begun, LARGEST + 1);
        assert!(kept.get(&grammar(9).text).is_none(), "too large to be kept");
    }

    #[test]
    fn a_clients_never_push_the_servers_own_out() {
        let (mut kept, begun) = (GrammarCache::default(), begun());
        kept.keep(&Grammar::schema(&Schema::object()), &begun, 0);
        for number in 0..100 {
            kept.keep(&grammar(number), &begun, 1 << 10);
        }
        assert!(kept.get(&Grammar::schema(&Schema::object()).text).is_some());
        assert!(kept.get(&grammar(0).text).is_none() && kept.get(&grammar(99).text).is_some());
        begun.worn.store(true, Ordering::Relaxed);
        assert!(
            kept.get(&Grammar::schema(&Schema::object()).text).is_none(),
            "used up"
        );
    }
}
