//! Holds one answer to its grammar, token by token.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use llguidance::toktrie::{SimpleVob, TokenId};

use crate::engine::Token;

use super::NO_TEXT;
use super::forced_ending::{self, ClosingTokens, EndingPlan, JsonPosition, ScalarEnding};
use super::memory::MemoryReservation;
use super::parser::{GrammarParser, ParserFailure};
use super::trigger::Trigger;

/// Holds one answer to its grammar: all of it, or the parts that a [`Trigger`] starts.
#[derive(Clone)]
pub struct Constraint {
    /// Absent while the answer is free.
    matcher: Option<GrammarMatcher>,
    /// Where only some parts of an answer are constrained: what starts them, and the matcher that each
    /// starts with.
    stretches: Option<Box<(Trigger, GrammarMatcher)>>,
}

impl fmt::Debug for Constraint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Constraint")
            .field("active", &self.is_active())
            .field("complete", &self.is_complete())
            .finish_non_exhaustive()
    }
}

/// The grammar took more work or memory than an answer may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the grammar is too complex to be followed")]
pub struct ConstraintError;

impl Constraint {
    pub(super) fn new(matcher: GrammarMatcher) -> Self {
        Self {
            matcher: Some(matcher),
            stretches: None,
        }
    }

    /// Applies the grammar only after each text that `trigger` looks for, up to the grammar's end; the
    /// rest of the answer is free.
    #[must_use]
    pub fn after(mut self, trigger: Trigger) -> Self {
        let matcher = self.matcher.take();
        self.stretches = matcher.map(|matcher| Box::new((trigger, matcher)));
        self
    }

    /// Whether the grammar bounds what may come next.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.matcher.is_some()
    }

    /// Whether `token` may come next, with `left` tokens to go; much cheaper than a
    /// [`mask`](Self::mask). Also false where the grammar allows the token but the answer has to be
    /// brought to its end.
    pub fn allows(&mut self, token: Token, left: u32) -> bool {
        let matcher = self.matcher.as_mut();
        matcher.is_none_or(|matcher| matcher.allows(token, left))
    }

    /// Sets the logits of all tokens that may not come next to minus infinity. The answer may have
    /// `left` more tokens, and is brought to its end within them where that is possible.
    ///
    /// # Errors
    /// [`ConstraintError`], then and at every later call.
    pub fn mask(&mut self, logits: &mut [f32], left: u32) -> Result<(), ConstraintError> {
        match &mut self.matcher {
            Some(matcher) => matcher.mask(logits, left),
            None => Ok(()),
        }
    }

    /// Advances by the token that was picked.
    ///
    /// # Errors
    /// [`ConstraintError`], also for a token that the mask does not allow.
    pub fn accept(&mut self, token: Token) -> Result<(), ConstraintError> {
        if let Some(matcher) = &mut self.matcher {
            matcher.accept(token)?;
            if matcher.complete && self.stretches.is_some() {
                self.matcher = None;
            }
        } else if let Some((trigger, start)) = self.stretches.as_deref_mut()
            && let Some(rest) = trigger.read(start.text(token))
        {
            let mut matcher = start.clone();
            // The rest of the token that ended the trigger need not be text that the grammar allows.
            self.matcher = matcher.read(&rest).then_some(matcher);
        }
        Ok(())
    }

    /// Whether only the end may follow.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let matcher = self.matcher.as_ref();
        matcher.is_some_and(|matcher| matcher.complete)
    }
}

/// Follows a grammar along the text of one answer.
#[derive(Clone)]
pub(super) struct GrammarMatcher {
    parser: GrammarParser,
    closing: Arc<ClosingTokens>,
    /// Set when the lexer states that all answers with this grammar share are used up.
    worn: Arc<AtomicBool>,
    /// Held for its drop, which gives the memory back.
    _reservation: Arc<MemoryReservation>,
    position: JsonPosition,
    ending: ScalarEnding,
    plan: EndingPlan,
    complete: bool,
}

impl GrammarMatcher {
    /// Starts at the beginning of the grammar, whose shortest whole text has `shortest` tokens, where one
    /// was found.
    pub(super) fn new(
        parser: GrammarParser,
        shortest: Option<u32>,
        closing: Arc<ClosingTokens>,
        worn: Arc<AtomicBool>,
        reservation: Arc<MemoryReservation>,
    ) -> Self {
        Self {
            parser,
            closing,
            worn,
            _reservation: reservation,
            position: JsonPosition::default(),
            ending: ScalarEnding::default(),
            plan: EndingPlan::begin(shortest),
            complete: false,
        }
    }

    /// Returns the text of a token, also of a control token.
    fn text(&self, token: Token) -> &[u8] {
        match u32::try_from(token.0) {
            Ok(token) => {
                let text = self.parser.trie().token(token);
                text.strip_prefix(&[NO_TEXT]).unwrap_or(text)
            }
            Err(_) => &[],
        }
    }

    fn update_plan(&mut self, left: u32) {
        self.plan = self.plan.go_on(left, || {
            forced_ending::tokens_to_end(&self.parser, &self.position, &self.closing)
        });
    }

    fn allows(&mut self, token: Token, left: u32) -> bool {
        self.update_plan(left);
        if matches!(self.plan, EndingPlan::Forced) || self.position.is_stuck() {
            return false;
        }
        let Ok(token) = u32::try_from(token.0) else {
            return false;
        };
        let allowed = self.parser.allows(token);
        if allowed && matches!(self.plan, EndingPlan::Careful) && !self.may_land(token, left) {
            self.plan = EndingPlan::Forced;
            return false;
        }
        allowed
    }

    /// Whether the shortest ending still fits after `token`.
    fn may_land(&self, token: TokenId, left: u32) -> bool {
        let (mut parser, mut position) = (self.parser.clone(), self.position.clone());
        position.read(parser.trie().token(token));
        let length = match parser.consume(token) {
            Ok(()) => forced_ending::tokens_to_end(&parser, &position, &self.closing),
            Err(ParserFailure) => None,
        };
        length.is_some_and(|length| length < left)
    }

    fn mask(&mut self, logits: &mut [f32], left: u32) -> Result<(), ConstraintError> {
        self.update_plan(left);
        // Any token of a mask may be picked, and checking the ending after each would be too slow.
        if matches!(self.plan, EndingPlan::Careful) {
            self.plan = EndingPlan::Forced;
        }
        let mask = if let Some(mask) = self.shortcut() {
            mask
        } else {
            let mask = self.parser.mask_or_end();
            mask.map_err(|ParserFailure| self.give_up())?
        };
        ban(&mask, logits);
        Ok(())
    }

    /// Returns the tokens that bring the answer to its end, where it must end or is stuck in a loop.
    fn shortcut(&mut self) -> Option<SimpleVob> {
        let forced = matches!(self.plan, EndingPlan::Forced);
        if self.parser.is_stopped() || !forced && !self.position.is_stuck() {
            return None;
        }
        // Where the answer may end, it ends.
        if forced && self.parser.is_accepting().unwrap_or(false) {
            return Some(self.parser.trie().eos_token_set());
        }
        let closing = Arc::clone(&self.closing);
        self.ending.refill();
        let token = closing.next(&mut self.parser, &self.position, &mut self.ending)?;
        Some(self.parser.trie().singleton_token_set(token))
    }

    fn accept(&mut self, token: Token) -> Result<(), ConstraintError> {
        let token = u32::try_from(token.0).map_err(|_| ConstraintError)?;
        self.ending.read(token);
        self.position.read(self.parser.trie().token(token));
        let consumed = self.parser.consume(token);
        consumed.map_err(|ParserFailure| self.give_up())?;
        self.complete = self.parser.is_stopped();
        Ok(())
    }

    fn give_up(&self) -> ConstraintError {
        self.worn.store(true, Ordering::Relaxed);
        ConstraintError
    }

    /// Advances by `text`, whichever tokens it is made of; false where the grammar does not allow it.
    fn read(&mut self, text: &[u8]) -> bool {
        let tokens = self.parser.trie().greedy_tokenize(text);
        let fits = self.parser.consume_while_valid(&tokens);
        self.position.read(text);
        self.complete = self.parser.is_stopped();
        fits.is_ok_and(|count| count == tokens.len()) && !self.complete
    }
}

fn ban(allowed: &SimpleVob, logits: &mut [f32]) {
    let words = allowed.as_slice();
    for (index, logits) in logits.chunks_mut(32).enumerate() {
        match words.get(index).copied().unwrap_or(0) {
            u32::MAX => {}
            0 => logits.fill(f32::NEG_INFINITY),
            word => {
                for (bit, logit) in logits.iter_mut().enumerate() {
                    if word >> bit & 1 == 0 {
                        *logit = f32::NEG_INFINITY;
                    }
                }
            }
        }
    }
}
