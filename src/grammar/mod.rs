//! Grammars that an answer must follow: JSON, JSON schemas, tool calls.
//!
//! llguidance turns a grammar into a parser that says for every prefix of an answer which tokens
//! may come next. [`Grammars`] compiles and remembers grammars for one vocabulary, [`Constraint`] leads
//! one answer. Both work and memory are bounded, because schemas come from clients: [`Schema::new`]
//! refuses by name what would be too much, `turns` says whose grammar is next, and a new one is
//! compiled behind a [`TrialCompiler`] before it is compiled here.

#[cfg(test)]
mod accepted;
mod caller;
mod compile;
mod compile_queue;
mod compile_thread;
mod constraint;
mod forced_ending;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod grammar_cache;
mod memory;
mod parser;
mod schema;
mod trial;
mod trigger;

use std::fmt;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use crate::engine::Tokenizer;

use compile::{CompileOutput, Compiler};
use compile_queue::{CompilePermit, CompileQueue, TrialLength};
use compile_thread::{CompileThread, CompileThreadError};
use constraint::GrammarMatcher;
use grammar_cache::GrammarCache;
use memory::{GrammarMemory, MemoryReservation};
use parser::Parser;

pub use caller::{Caller, CallerGuard};
pub use constraint::{Constraint, ConstraintError};
pub use schema::{Schema, SchemaError};
pub use trial::{COMMAND as COMPILE_COMMAND, TrialCompiler, serve as compile_for_parent};
pub use trigger::Trigger;

/// Grammars that are compiled at once. A second one, so that a slow one keeps nobody else waiting; no
/// more, because they take the cores from the answers under way.
const AT_ONCE: usize = 2;
/// Longer ones are not compiled. In bytes: a hundred tools of a page each fit.
const LONGEST: usize = 512 << 10;
/// How long compiling behind the wall may take by the clock before others go first (`cargo bench --bench
/// grammar`: an ordinary schema takes some milliseconds).
const SHORT_TRY: Duration = Duration::from_millis(150);
/// The same when it is tried again. What a grammar may take is processor time, which the wall counts; by
/// the clock that is much longer where the cores are busy.
const LONG_TRY: Duration = Duration::from_secs(15);
/// How long it may take here, after its trial.
const LONGEST_COMPILE: Duration = Duration::from_secs(30);
/// How long the walk over a model's vocabulary may take, once.
const LONGEST_WALK: Duration = Duration::from_secs(120);
/// The byte with which llguidance marks the text of tokens that no text contains.
const NO_TEXT: u8 = 0xFF;

/// A grammar as text in llguidance's variant of Lark, in which a [`Schema`] is an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grammar {
    text: String,
    /// Whether a client had no hand in it.
    is_ours: bool,
}

impl Grammar {
    /// Rules, one of which is `start`.
    #[must_use]
    pub fn lark(rules: String) -> Self {
        Self {
            text: rules,
            is_ours: false,
        }
    }

    /// An instance of a schema, and nothing around it.
    #[must_use]
    pub fn schema(schema: &Schema) -> Self {
        Self {
            text: format!("start: {schema}"),
            is_ours: schema.is_any_object(),
        }
    }
}

/// Why there is no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It cannot be followed; the message is about the client's own words.
    #[error("{0}")]
    Refused(String),
    /// Its compiler ended over it.
    #[error("it takes more memory than a schema may: simplify it")]
    TooLarge,
    /// Its compiler came to no end.
    #[error("it takes longer to compile than a schema may: simplify it")]
    TooSlow,
    /// There is no process, thread or time to compile in. No fault of the client's.
    #[error("schemas cannot be compiled at the moment")]
    Unavailable,
    /// Who asked has left.
    #[error("nobody waits for it")]
    Abandoned,
}

impl GrammarError {
    /// Whether the schema contradicts itself.
    #[must_use]
    pub fn is_unsatisfiable(&self) -> bool {
        matches!(self, Self::Refused(why) if why.contains(compile::NOTHING_FITS))
    }
}

/// The grammars of one model.
pub struct Grammars {
    context: Arc<CompileContext>,
    trial_compiler: TrialCompiler,
    queue: CompileQueue<CompileThread>,
}

struct CompileContext {
    tokenizer: Arc<Tokenizer>,
    /// Made when first needed: it walks the whole vocabulary.
    compiler: OnceLock<Result<Compiler, GrammarError>>,
    cache: Mutex<GrammarCache>,
    /// Of all that are kept, and of those of answers under way.
    memory: GrammarMemory,
}

/// A grammar at the beginning of an answer.
#[derive(Clone)]
struct CompiledGrammar {
    parser: Parser,
    /// Tokens of the shortest answer, if there is a short one.
    shortest: Option<u32>,
    /// Whether an answer was given up. Clones of a parser share the states of their lexer, whose
    /// number is bounded: what one answer cannot add, no other can.
    worn: Arc<AtomicBool>,
    reservation: Arc<MemoryReservation>,
}

impl CompiledGrammar {
    fn new(compiled: CompileOutput, reservation: MemoryReservation) -> Self {
        Self {
            parser: compiled.parser,
            shortest: compiled.shortest,
            worn: Arc::default(),
            reservation: Arc::new(reservation),
        }
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Grammars").finish_non_exhaustive()
    }
}

impl Grammars {
    /// For the vocabulary of `tokenizer`; new ones are tried behind `wall` first.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, trial_compiler: TrialCompiler) -> Self {
        let context = CompileContext {
            tokenizer,
            compiler: OnceLock::new(),
            cache: Mutex::default(),
            memory: GrammarMemory::default(),
        };
        let threads = std::iter::repeat_with(CompileThread::default);
        Self {
            context: Arc::new(context),
            trial_compiler,
            queue: CompileQueue::new(threads.take(AT_ONCE).collect()),
        }
    }

    /// A constraint at the beginning of an answer. Takes milliseconds where the grammar is new, the
    /// first time for a vocabulary up to a second, and longer where `caller` has other new ones, or
    /// many others have.
    ///
    /// # Errors
    /// See [`GrammarError`].
    pub async fn constraint(
        &self,
        grammar: &Grammar,
        caller: &Caller,
    ) -> Result<Constraint, GrammarError> {
        let text = &grammar.text;
        if text.len() > LONGEST {
            let length = text.len();
            let why = format!("with {length} bytes it is too long, {LONGEST} are the most");
            return Err(GrammarError::Refused(why));
        }
        let compiled = match self.context.known(text) {
            Some(compiled) => compiled,
            None => self.compile(grammar, caller).await?,
        };
        let compiler = self.context.compiler()?;
        Ok(Constraint::new(GrammarMatcher::new(
            compiled.parser,
            compiled.shortest,
            Arc::clone(&compiler.closing),
            compiled.worn,
            compiled.reservation,
        )))
    }

    async fn compile(
        &self,
        grammar: &Grammar,
        caller: &Caller,
    ) -> Result<CompiledGrammar, GrammarError> {
        // Ours are few, and small: they wait for nobody, and need no trial.
        if grammar.is_ours {
            let mut thread = CompileThread::default();
            return self.context.compile_on(&mut thread, grammar, 0).await;
        }
        match self
            .compile_in_turn(grammar, caller, TrialLength::Short)
            .await
        {
            Err(GrammarError::TooSlow) => {
                self.compile_in_turn(grammar, caller, TrialLength::Long)
                    .await
            }
            compiled => compiled,
        }
    }

    async fn compile_in_turn(
        &self,
        grammar: &Grammar,
        caller: &Caller,
        kind: TrialLength,
    ) -> Result<CompiledGrammar, GrammarError> {
        let mut permit: CompilePermit<CompileThread> = tokio::select! {
            biased;
            () = caller.left() => return Err(GrammarError::Abandoned),
            permit = self.queue.take(caller.client, kind) => permit,
        };
        // Another may have had it compiled in the meantime.
        if let Some(compiled) = self.context.known(&grammar.text) {
            return Ok(compiled);
        }
        let longest = match kind {
            TrialLength::Short => SHORT_TRY,
            TrialLength::Long => LONG_TRY,
        };
        let memory = self.trial_compiler.try_out(&grammar.text, longest).await?;
        self.context
            .compile_on(permit.place(), grammar, memory)
            .await
    }
}

impl CompileContext {
    fn compiler(&self) -> Result<&Compiler, GrammarError> {
        let compiler = self
            .compiler
            .get_or_init(|| Compiler::for_model(&self.tokenizer));
        compiler.as_ref().map_err(Clone::clone)
    }

    fn known(&self, text: &str) -> Option<CompiledGrammar> {
        self.cache().get(text)
    }

    /// Compiles a grammar that holds so many bytes of memory.
    async fn compile_on(
        self: &Arc<Self>,
        thread: &mut CompileThread,
        grammar: &Grammar,
        memory: usize,
    ) -> Result<CompiledGrammar, GrammarError> {
        if self.compiler.get().is_none() {
            let context = Arc::clone(self);
            let walk = move || context.compiler().map(|_| ());
            thread.run(LONGEST_WALK, walk).await??;
        }
        let reservation = self.memory.hold(memory).ok_or(GrammarError::Unavailable)?;
        let (context, text) = (Arc::clone(self), grammar.text.clone());
        let compile = move || {
            let compiled = context.compiler()?.compile(&text)?;
            Ok(CompiledGrammar::new(compiled, reservation))
        };
        let compiled: Result<CompiledGrammar, GrammarError> =
            thread.run(LONGEST_COMPILE, compile).await?;
        let compiled = compiled?;
        self.cache().keep(grammar, &compiled, memory);
        Ok(compiled)
    }

    fn cache(&self) -> MutexGuard<'_, GrammarCache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<CompileThreadError> for GrammarError {
    fn from(undone: CompileThreadError) -> Self {
        match undone {
            // It passed its trial, so this is a matter of the moment.
            CompileThreadError::Overran | CompileThreadError::NoThread => Self::Unavailable,
            CompileThreadError::Crashed => {
                Self::Refused("it cannot be compiled: simplify it".to_owned())
            }
        }
    }
}
