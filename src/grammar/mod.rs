//! Grammars that an answer must follow: JSON, JSON schemas, tool calls.
//!
//! llguidance turns a grammar into a parser that says for every prefix of an answer which tokens
//! may come next. [`Grammars`] compiles and caches the grammars of one vocabulary, a [`Constraint`]
//! holds one answer to its grammar. Both work and memory are bounded, because schemas come from
//! clients: [`Schema::new`] refuses what would be too much and names it, `compile_queue` decides whose
//! grammar is compiled next, and a [`TrialCompiler`] compiles every new grammar in a child process
//! before this process does.

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
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::admission::MemoryRoom;
use crate::engine::Tokenizer;
use crate::sync::{Mutex, MutexGuard};

use compile::{CompileOutput, Compiler};
use compile_queue::{CompilePermit, CompileQueue, TrialLength};
use compile_thread::{CompileThread, CompileThreadError};
use constraint::GrammarMatcher;
use grammar_cache::GrammarCache;
use memory::{GrammarMemory, MemoryReservation};
use parser::GrammarParser;

pub use caller::{Caller, CallerGuard};
pub use constraint::{Constraint, ConstraintError};
pub use schema::{Schema, SchemaError};
pub use trial::{
    COMMAND as COMPILE_COMMAND, TRIAL_MEMORY, TrialCompiler, serve as compile_for_parent,
};
pub use trigger::Trigger;

/// Grammars that are compiled at once. Two, so that a slow one does not hold up all others; no more,
/// because compiling takes the cores from the answers that are being generated.
pub const COMPILES_AT_ONCE: usize = 2;
/// Bytes of the longest grammar that is compiled: a hundred tools of a page each fit.
const LONGEST_GRAMMAR: usize = 512 << 10;
/// Wall-clock time that a first trial in a child process may take; a slower grammar is tried again after
/// those of others (`cargo bench --bench grammar`: an ordinary schema takes some milliseconds).
const SHORT_TRIAL: Duration = Duration::from_millis(150);
/// Wall-clock time that a second trial may take. What bounds a grammar is the processor time that the
/// child process may use; by the clock that is much longer where the cores are busy.
const LONG_TRIAL: Duration = Duration::from_secs(15);
/// How long compiling a grammar in this process may take, after its trial.
const LONGEST_COMPILE: Duration = Duration::from_secs(30);
/// How long the walk over a model's vocabulary may take, which is done once for a model.
const LONGEST_WALK: Duration = Duration::from_secs(120);
/// The byte with which llguidance marks the text of tokens that no text contains.
const NO_TEXT: u8 = 0xFF;

/// A grammar as text in llguidance's variant of Lark, in which a [`Schema`] is an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grammar {
    text: String,
    /// Whether the server wrote all of it, and no client any part.
    is_ours: bool,
}

impl Grammar {
    /// Makes a grammar of Lark rules, one of which is `start`.
    #[must_use]
    pub fn lark(rules: String) -> Self {
        Self {
            text: rules,
            is_ours: false,
        }
    }

    /// Makes a grammar whose texts are the instances of a schema, and nothing around them.
    #[must_use]
    pub fn schema(schema: &Schema) -> Self {
        Self {
            text: format!("start: {schema}"),
            is_ours: schema.is_any_object(),
        }
    }
}

/// Why a grammar has no constraint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// The grammar cannot be followed; the message speaks of the client's own schema.
    #[error("{0}")]
    Refused(String),
    /// The child process that compiled it on trial died, as it does where memory or stack run out.
    #[error("it takes more memory than a schema may: simplify it")]
    TooLarge,
    /// Its trial did not end in time.
    #[error("it takes longer to compile than a schema may: simplify it")]
    TooSlow,
    /// There is no process, thread or memory to compile it with, which is no fault of the client.
    #[error("schemas cannot be compiled at the moment")]
    Unavailable,
    /// The client that asked for it has left.
    #[error("nobody waits for it")]
    Abandoned,
}

impl GrammarError {
    /// Whether the schema contradicts itself, so that no value fits it.
    #[must_use]
    pub fn is_unsatisfiable(&self) -> bool {
        matches!(self, Self::Refused(why) if why.contains(compile::UNSATISFIABLE_MESSAGE))
    }
}

/// The grammars of one model.
pub struct Grammars {
    context: Arc<CompileContext>,
    trial_compiler: TrialCompiler,
    queue: CompileQueue<CompileThread>,
}

/// What compiling needs and fills; threads that compile share it.
struct CompileContext {
    tokenizer: Arc<Tokenizer>,
    /// Made when it is first needed, because that walks the whole vocabulary.
    compiler: OnceLock<Result<Compiler, GrammarError>>,
    cache: Mutex<GrammarCache>,
    /// Counts what cached grammars and those of answers in progress hold.
    memory: GrammarMemory,
}

/// A compiled grammar, whose parser stands at the start of an answer; each answer gets a clone.
#[derive(Clone)]
struct CompiledGrammar {
    parser: GrammarParser,
    /// Tokens of the shortest answer, where one was found.
    shortest: Option<u32>,
    /// Whether an answer with it hit a limit. Clones of a parser share the states of their lexer, whose
    /// number is bounded: where one answer can add no more states, no other can.
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
    /// Makes the grammars of the vocabulary of `tokenizer`; `trial_compiler` tries new ones first.
    #[must_use]
    pub fn new(tokenizer: Arc<Tokenizer>, trial_compiler: TrialCompiler) -> Self {
        Self::with_room(tokenizer, trial_compiler, MemoryRoom::default())
    }

    /// The same, where large ones take no more memory than there is `room` for.
    #[must_use]
    pub fn with_room(
        tokenizer: Arc<Tokenizer>,
        trial_compiler: TrialCompiler,
        room: MemoryRoom,
    ) -> Self {
        let context = CompileContext {
            tokenizer,
            compiler: OnceLock::new(),
            cache: Mutex::default(),
            memory: GrammarMemory::new(room),
        };
        let threads = std::iter::repeat_with(CompileThread::default);
        Self {
            context: Arc::new(context),
            trial_compiler,
            queue: CompileQueue::new(threads.take(COMPILES_AT_ONCE).collect()),
        }
    }

    /// Returns the bytes that compiled grammars hold.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.context.memory.held()
    }

    /// Returns a constraint for a new answer. Takes milliseconds where the grammar is new, up to a second
    /// the first time for a vocabulary, and longer where `caller` or many other clients compile other new
    /// ones. Does not start to compile once nobody waits for the result.
    ///
    /// # Errors
    /// See [`GrammarError`].
    pub async fn constraint(
        &self,
        grammar: &Grammar,
        caller: &Caller,
    ) -> Result<Constraint, GrammarError> {
        let text = &grammar.text;
        if text.len() > LONGEST_GRAMMAR {
            let length = text.len();
            let why = format!("with {length} bytes it is too long, {LONGEST_GRAMMAR} are the most");
            return Err(GrammarError::Refused(why));
        }
        let known = match self.context.known(text) {
            Some(known) => known,
            None => self.compile(grammar, caller).await?,
        };
        let compiler = self.context.compiler()?;
        Ok(Constraint::new(GrammarMatcher::new(
            known.parser,
            known.shortest,
            Arc::clone(&compiler.closing),
            known.worn,
            known.reservation,
        )))
    }

    async fn compile(
        &self,
        grammar: &Grammar,
        caller: &Caller,
    ) -> Result<CompiledGrammar, GrammarError> {
        // The server's own are few and small: they need no trial, and skip the queue.
        if grammar.is_ours {
            let mut thread = CompileThread::default();
            return self.context.compile_on(&mut thread, grammar, 0).await;
        }
        match self
            .compile_with_permit(grammar, caller, TrialLength::Short)
            .await
        {
            Err(GrammarError::TooSlow) => {
                self.compile_with_permit(grammar, caller, TrialLength::Long)
                    .await
            }
            compiled => compiled,
        }
    }

    async fn compile_with_permit(
        &self,
        grammar: &Grammar,
        caller: &Caller,
        kind: TrialLength,
    ) -> Result<CompiledGrammar, GrammarError> {
        let mut permit: CompilePermit<CompileThread> = tokio::select! {
            biased;
            () = caller.left() => return Err(GrammarError::Abandoned),
            permit = self.queue.acquire(caller.client, kind) => permit,
        };
        // Another request may have had it compiled in the meantime.
        if let Some(compiled) = self.context.known(&grammar.text) {
            return Ok(compiled);
        }
        let longest = match kind {
            TrialLength::Short => SHORT_TRIAL,
            TrialLength::Long => LONG_TRIAL,
        };
        let memory = self.trial_compiler.try_out(&grammar.text, longest).await?;
        self.context
            .compile_on(permit.resource(), grammar, memory)
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

    /// Compiles a grammar that takes `memory` bytes, and caches it.
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
        self.cache.lock()
    }
}

impl From<CompileThreadError> for GrammarError {
    fn from(error: CompileThreadError) -> Self {
        match error {
            // It passed its trial, so the cause is the load of the moment and not the grammar.
            CompileThreadError::Overran | CompileThreadError::NoThread => Self::Unavailable,
            CompileThreadError::Crashed => {
                Self::Refused("it cannot be compiled: simplify it".to_owned())
            }
        }
    }
}
