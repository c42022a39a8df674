//! Wraps llguidance's parser of one answer.
//!
//! llguidance's own wrapper for servers, `Matcher`, hides the lexer, in which `forced_ending::search` looks
//! for the ending of an answer. Otherwise this wrapper does the same: a panic or an error ends the parser
//! for good and nothing else.

use std::panic::AssertUnwindSafe;

use llguidance::TokenParser;
use llguidance::api::StopReason;
use llguidance::earley::ParserRecognizer;
use llguidance::panic_utils::catch_unwind;
use llguidance::toktrie::{SimpleVob, TokTrie, TokenId};

/// The parser met an error or one of its limits, now or at an earlier call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ParserFailure;

/// Says which tokens may come next. Clones share the states of their lexer, and nothing else.
#[derive(Clone)]
pub(super) struct GrammarParser {
    inner: TokenParser,
    failed: bool,
}

/// What the lexer has used of what its limits bound.
#[derive(Debug, Clone, Copy)]
pub(super) struct LexerUse {
    /// In llguidance's unit of work, some 100 ns.
    pub(super) fuel: usize,
    pub(super) states: usize,
}

impl GrammarParser {
    pub(super) fn new(mut parser: TokenParser) -> Self {
        if parser.is_fresh() {
            parser.start_without_prompt();
        }
        Self {
            inner: parser,
            failed: false,
        }
    }

    fn settle<T, E>(&mut self, result: Result<T, E>) -> Result<T, ParserFailure> {
        self.failed |= result.is_err();
        result.map_err(|_| ParserFailure)
    }

    fn check(&self) -> Result<(), ParserFailure> {
        if self.failed {
            Err(ParserFailure)
        } else {
            Ok(())
        }
    }

    /// Returns which tokens may come next.
    pub(super) fn mask(&mut self) -> Result<SimpleVob, ParserFailure> {
        self.check()?;
        let mask = catch_unwind(AssertUnwindSafe(|| self.inner.compute_mask()));
        self.settle(mask)
    }

    /// Returns which tokens may come next, and the end alone where nothing else may come.
    pub(super) fn mask_or_end(&mut self) -> Result<SimpleVob, ParserFailure> {
        self.check()?;
        if self.is_stopped() {
            return Ok(self.trie().eos_token_set());
        }
        self.mask()
    }

    /// Returns how many of these tokens may come next, one after the other.
    pub(super) fn valid(&mut self, tokens: &[TokenId]) -> usize {
        if self.failed {
            return 0;
        }
        let valid = catch_unwind(AssertUnwindSafe(|| self.inner.validate_tokens_raw(tokens)));
        self.settle(valid).unwrap_or(0)
    }

    pub(super) fn allows(&mut self, token: TokenId) -> bool {
        self.valid(&[token]) == 1
    }

    pub(super) fn consume(&mut self, token: TokenId) -> Result<(), ParserFailure> {
        self.check()?;
        let inner = &mut self.inner;
        let consumed = catch_unwind(AssertUnwindSafe(|| {
            inner.consume_token(token)?;
            inner.check_stop()
        }));
        self.settle(consumed).map(|_| ())
    }

    /// Advances by as many of these tokens as may come, and returns their count.
    pub(super) fn consume_while_valid(
        &mut self,
        tokens: &[TokenId],
    ) -> Result<usize, ParserFailure> {
        for (count, token) in tokens.iter().enumerate() {
            if !self.allows(*token) {
                return self.check().map(|()| count);
            }
            self.consume(*token)?;
        }
        Ok(tokens.len())
    }

    /// Whether the answer may end here.
    pub(super) fn is_accepting(&mut self) -> Result<bool, ParserFailure> {
        self.check()?;
        let accepting = catch_unwind(AssertUnwindSafe(|| Ok(self.inner.is_accepting())));
        self.settle(accepting)
    }

    /// Whether nothing more may come.
    pub(super) fn is_stopped(&self) -> bool {
        self.failed || self.inner.stop_reason() != StopReason::NotStopped
    }

    pub(super) fn trie(&self) -> &TokTrie {
        self.inner.token_env.tok_trie()
    }

    /// Lets `look` try bytes; the parser's state stays as it was.
    pub(super) fn look<T>(
        &mut self,
        look: impl FnOnce(&mut ParserRecognizer<'_>) -> T,
    ) -> Result<T, ParserFailure> {
        self.check()?;
        let inner = &mut self.inner.parser;
        let looked = catch_unwind(AssertUnwindSafe(|| Ok(inner.with_recognizer(look))));
        self.settle(looked)
    }

    /// Gives the lexer the full fuel for one token.
    pub(super) fn refuel(&mut self) -> Result<(), ParserFailure> {
        // Only a mask that is computed anew does it.
        self.inner.invalidate_bias_cache();
        self.mask().map(|_| ())
    }

    pub(super) fn lexer_use(&self) -> LexerUse {
        let stats = self.inner.parser.lexer_stats();
        LexerUse {
            fuel: stats.total_fuel_spent,
            states: stats.num_states,
        }
    }
}
