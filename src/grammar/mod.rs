//! Grammars that an answer must follow: JSON, JSON schemas, tool calls.
//!
//! llguidance turns a grammar into a parser that says for every prefix of an answer which tokens
//! may come next. [`Grammars`] compiles and remembers grammars for one vocabulary, [`Guide`] leads
//! one answer. Both work and memory are bounded, because schemas come from clients.

mod guide;
mod landing;
mod schema;
mod watch;
mod workshop;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use llguidance::{Matcher, ParserFactory};
use lru::LruCache;

use crate::engine::{Model, Pieces, SpecialKind, Token, Vocabulary};

use guide::Follower;
use landing::{Exits, Quotes};
use workshop::Workshop;

pub use guide::{Guide, TooComplex};
pub use schema::{Misfit, Schema};
pub use watch::Watch;

/// Compiled grammars that are kept for the next request with the same one.
const KEPT: NonZeroUsize = NonZeroUsize::new(32).expect("not zero");
/// Longer ones are compiled for every request: what is kept is bounded.
const LONGEST_KEPT: usize = 64 << 10;
/// Longer ones are not compiled. In bytes: a hundred tools of a page each fit.
const LONGEST: usize = 512 << 10;
/// The byte with which llguidance marks the text of tokens that no text contains.
const NO_TEXT: u8 = 0xFF;

/// A grammar as text in llguidance's variant of Lark, in which `%json` embeds a JSON schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grammar(String);

impl Grammar {
    /// Rules, one of which is `start`.
    #[must_use]
    pub fn lark(rules: String) -> Self {
        Self(rules)
    }

    /// An instance of a schema, and nothing around it.
    #[must_use]
    pub fn schema(schema: &Schema) -> Self {
        Self(format!("start: %json {schema}"))
    }
}

/// A grammar that cannot be followed; the message is about the client's own words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GrammarError(String);

/// The grammars of one model.
pub struct Grammars {
    shared: Arc<Shared>,
    workshop: Workshop,
}

struct Shared {
    model: Arc<Model>,
    /// Made when first needed: it walks the whole vocabulary.
    compiler: OnceLock<Result<Compiler, GrammarError>>,
    compiled: Mutex<LruCache<String, Begun>>,
}

/// A grammar at the beginning of an answer.
#[derive(Clone)]
struct Begun {
    matcher: Matcher,
    /// Tokens of the shortest answer, if there is a short one.
    shortest: Option<u32>,
    /// Whether an answer was given up. Clones of a matcher share the states of their lexer, whose
    /// number is bounded: what one answer cannot add, no other can.
    worn: Arc<AtomicBool>,
}

struct Compiler {
    factory: ParserFactory,
    exits: Arc<Exits>,
}

impl fmt::Debug for Grammars {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For the vocabulary of `model`.
    #[must_use]
    pub fn new(model: Arc<Model>) -> Self {
        let shared = Shared {
            model,
            compiler: OnceLock::new(),
            compiled: Mutex::new(LruCache::new(KEPT)),
        };
        Self {
            shared: Arc::new(shared),
            workshop: Workshop::default(),
        }
    }

    /// A guide at the beginning of an answer. Takes milliseconds where the grammar is new, the
    /// first time for a vocabulary up to a second, and longer where others wait for new ones as well.
    /// What has been begun is finished also for who waits no longer.
    ///
    /// # Errors
    /// When the grammar is malformed, cannot be satisfied or is too large.
    pub async fn guide(&self, grammar: &Grammar) -> Result<Guide, GrammarError> {
        let Grammar(text) = grammar;
        if text.len() > LONGEST {
            let length = text.len();
            let why = format!("with {length} bytes it is too long, {LONGEST} are the most");
            return Err(GrammarError(why));
        }
        let begun = if let Some(begun) = self.shared.known(text) {
            begun
        } else {
            let (shared, text) = (Arc::clone(&self.shared), text.clone());
            let begun = self.workshop.run(move || shared.begin(&text)).await;
            let crashed = || GrammarError("it is too complex".to_owned());
            begun.ok_or_else(crashed)??
        };
        let compiler = self.shared.compiler()?;
        Ok(Guide::new(Follower::new(
            begun.matcher,
            begun.shortest,
            compiler.factory.tok_env().clone(),
            Arc::clone(&compiler.exits),
            begun.worn,
        )))
    }
}

impl Shared {
    fn compiler(&self) -> Result<&Compiler, GrammarError> {
        let compiler = self.compiler.get_or_init(|| Compiler::new(&self.model));
        compiler.as_ref().map_err(Clone::clone)
    }

    fn known(&self, text: &str) -> Option<Begun> {
        let known = self.compiled().get(text).cloned();
        known.filter(|begun| !begun.worn.load(Ordering::Relaxed))
    }

    /// Another may have had it compiled in the meantime.
    fn begin(&self, text: &str) -> Result<Begun, GrammarError> {
        match self.known(text) {
            Some(begun) => Ok(begun),
            None => self.compile(self.compiler()?, text),
        }
    }

    fn compile(&self, compiler: &Compiler, text: &str) -> Result<Begun, GrammarError> {
        let grammar = TopLevelGrammar::from_lark(text.to_owned());
        let matcher = Matcher::new(compiler.factory.create_parser(grammar));
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError(first_line(&error)));
        }
        // What cannot even begin would end an answer under way.
        if matcher.clone().compute_mask().is_err() {
            let why = "nothing can begin it: it refers to itself without end, or is too complex";
            return Err(GrammarError(why.to_owned()));
        }
        let trie = compiler.factory.tok_env().tok_trie();
        let quotes = &Quotes::default();
        let shortest = landing::way_out(&matcher, quotes, &compiler.exits, trie);
        let begun = Begun {
            matcher,
            shortest,
            worn: Arc::default(),
        };
        if text.len() <= LONGEST_KEPT {
            self.compiled().put(text.to_owned(), begun.clone());
        }
        Ok(begun)
    }

    fn compiled(&self) -> MutexGuard<'_, LruCache<String, Begun>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rest of llguidance's messages is about its own insides, and so is where in our rules the schema
/// stands.
fn first_line(error: &str) -> String {
    let line = error.lines().next().unwrap_or_default();
    let (_, line) = line
        .split_once("failed to compile JSON schema: ")
        .unwrap_or(("", line));
    // Of a pattern: a drawing of where the mistake is stands between.
    let mut reasons = error
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("error: "));
    match reasons.next() {
        Some(reason) if line.ends_with(':') => format!("{line} {reason}"),
        _ => line.to_owned(),
    }
}

impl Compiler {
    fn new(model: &Model) -> Result<Self, GrammarError> {
        let vocabulary = token_trie(model);
        let slices = SlicedBiasComputer::general_slices();
        let capabilities = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(&vocabulary, capabilities, &slices)
            .map_err(|error| GrammarError(first_line(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let exits = Arc::new(Exits::of(vocabulary.tok_trie()));
        Ok(Self { factory, exits })
    }
}

/// A hostile schema may take so much: 20 ms to compile, 7 ms a token, 20 MB (by the speeds and
/// sizes that llguidance documents for each limit).
fn limits() -> ParserLimits {
    ParserLimits {
        initial_lexer_fuel: 1_000_000,
        step_lexer_fuel: 100_000,
        max_lexer_states: 10_000,
        max_grammar_size: 100_000,
        verbose_errors: false,
        ..ParserLimits::default()
    }
}

fn token_trie(model: &Model) -> TokEnv {
    let count = u32::try_from(model.info().vocabulary).unwrap_or(u32::MAX);
    let ids = || (0..count).filter_map(|id| Some((id, Token(i32::try_from(id).ok()?))));
    let ends: Vec<u32> = ids()
        .filter(|(_, token)| model.is_end(*token))
        .map(|(id, _)| id)
        .collect();
    let mut words: Vec<Vec<u8>> = ids()
        .map(|(_, token)| model.piece(token).to_vec())
        .collect();
    for special in model.specials() {
        let word = usize::try_from(special.token.0)
            .ok()
            .and_then(|index| words.get_mut(index));
        if let Some(word) = word
            && special.kind == SpecialKind::Control
        {
            *word = [&[NO_TEXT], special.text.as_bytes()].concat();
        }
    }
    let end = ends.first().copied().unwrap_or(count);
    let info = TokRxInfo::new(count, end);
    Arc::new(ApproximateTokEnv::new(
        TokTrie::from(&info, &words).with_eos_tokens(&ends),
    ))
}
