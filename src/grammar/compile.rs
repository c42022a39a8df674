//! From the text of a grammar to a parser: what llguidance does, within bounds.

use std::sync::Arc;

use llguidance::ParserFactory;
use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};

use crate::engine::{Pieces, SpecialKind, Token, Tokenizer, Vocabulary};

use super::forced_ending::{self, ClosingTokens, JsonPosition};
use super::parser::GrammarParser;
use super::{GrammarError, NO_TEXT};

/// Bytes of stack for a thread that compiles. It holds twice what the deepest schema takes that the
/// checks let through ([`super::schema::MOST_LEVELS`]); pages of it that are never touched cost nothing.
pub(super) const STACK: usize = 128 << 20;

/// Tokens of the byte vocabulary that stand for the tags of a model's calls.
pub(super) const FIRST_SPECIAL: u32 = 257;
pub(super) const SPECIALS: u32 = 16;

/// Compiles grammars for one vocabulary.
pub(super) struct Compiler {
    pub(super) factory: ParserFactory,
    pub(super) closing: Arc<ClosingTokens>,
}

/// A parser for a grammar, and what is known of the answers with it.
pub(super) struct CompileOutput {
    pub(super) parser: GrammarParser,
    /// Tokens of the shortest answer, where one was found.
    pub(super) shortest: Option<u32>,
}

impl Compiler {
    /// Makes a compiler for a model's whole vocabulary, which takes up to a second.
    pub(super) fn for_model(tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        Self::new(&model_vocabulary(tokenizer))
    }

    /// Makes a compiler whose tokens are single bytes. Compiling does the same work for any vocabulary;
    /// only the masks of a large one take longer, and those have bounds of their own.
    pub(super) fn for_bytes() -> Result<Self, GrammarError> {
        Self::new(&byte_vocabulary())
    }

    fn new(vocabulary: &TokEnv) -> Result<Self, GrammarError> {
        let slices = SlicedBiasComputer::general_slices();
        let capabilities = InferenceCapabilities::default();
        let mut factory = ParserFactory::new(vocabulary, capabilities, &slices)
            .map_err(|error| GrammarError::Refused(reason(&error.to_string())))?;
        factory.quiet();
        *factory.limits_mut() = limits();
        let closing = Arc::new(ClosingTokens::of(vocabulary.tok_trie()));
        Ok(Self { factory, closing })
    }

    /// Compiles a grammar in llguidance's variant of Lark.
    ///
    /// # Errors
    /// When it is malformed, cannot be satisfied or exceeds llguidance's own limits.
    pub(super) fn compile(&self, text: &str) -> Result<CompileOutput, GrammarError> {
        let grammar = TopLevelGrammar::from_lark(text.to_owned());
        let parser = self.factory.create_parser(grammar);
        let mut parser =
            parser.map_err(|error| GrammarError::Refused(reason(&error.to_string())))?;
        // Where a schema is not strict, llguidance leaves this keyword out and only warns of it.
        let warnings = parser.grammar_warnings();
        if warnings
            .iter()
            .any(|warning| warning.contains(UNCOUNTED_MESSAGE))
        {
            let why = "`minProperties` and `maxProperties` hold only in the schema that has the `properties`, with no \
                       `allOf`, `anyOf`, `oneOf` or `$ref` beside or above them";
            return Err(GrammarError::Refused(why.to_owned()));
        }
        let parser = GrammarParser::new(parser);
        // A grammar that allows no first token would fail an answer in progress.
        if parser.clone().mask().is_err() {
            let why = "nothing can begin it: it refers to itself without end, or is too complex";
            return Err(GrammarError::Refused(why.to_owned()));
        }
        let shortest =
            forced_ending::tokens_to_end(&parser, &JsonPosition::default(), &self.closing);
        Ok(CompileOutput { parser, shortest })
    }
}

/// What llguidance's messages say where one of its own limits was met.
const LIMIT_MESSAGES: [&str; 4] = [
    "fuel exhausted",
    "too big (limit for this grammar",
    "Unable to determine if regex is empty",
    "can't determine if patternProperty",
];

/// What its messages say where a schema contradicts itself.
pub(super) const UNSATISFIABLE_MESSAGE: &str = "nsatisfiable";

/// What its warnings say where it does not count properties.
const UNCOUNTED_MESSAGE: &str = "min/maxProperties only supported";

/// Returns the part of llguidance's message that says what is wrong with a grammar. The rest is about
/// llguidance's internals and our own rules, and the text of a panic is never shown.
fn reason(error: &str) -> String {
    if error.contains("panic: ") || error.contains("panicked at") {
        tracing::error!("llguidance panicked on a grammar");
        return "it cannot be compiled: simplify it".to_owned();
    }
    if LIMIT_MESSAGES.iter().any(|limit| error.contains(limit)) {
        return "it is too complex: simplify its patterns and lengths, or have fewer of them"
            .to_owned();
    }
    if error.contains("circular references") {
        return "it refers to itself with something beside that, and without end".to_owned();
    }
    let line = error.lines().next().unwrap_or_default();
    let (_, line) = line
        .split_once("failed to compile JSON schema: ")
        .unwrap_or(("", line));
    // For a pattern, a drawing of where the mistake is stands between the first line and the reason.
    let mut reasons = error
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("error: "));
    match reasons.next() {
        Some(reason) if line.ends_with(':') => format!("{line} {reason}"),
        _ => line.to_owned(),
    }
}

/// Bounds a hostile schema to 20 ms of compiling, 7 ms a token and 20 MB, by the speeds and sizes that
/// llguidance documents for each limit.
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

fn model_vocabulary(tokenizer: &Tokenizer) -> TokEnv {
    let count = u32::try_from(tokenizer.info().vocabulary).unwrap_or(u32::MAX);
    let ids = || (0..count).filter_map(|id| Some((id, Token(i32::try_from(id).ok()?))));
    let ends: Vec<u32> = ids()
        .filter(|(_, token)| tokenizer.is_end(*token))
        .map(|(id, _)| id)
        .collect();
    let mut words: Vec<Vec<u8>> = ids()
        .map(|(_, token)| tokenizer.piece(token).to_vec())
        .collect();
    for special in tokenizer.specials() {
        let word = usize::try_from(special.token.0)
            .ok()
            .and_then(|index| words.get_mut(index));
        if let Some(word) = word
            && special.kind == SpecialKind::Control
        {
            *word = [&[NO_TEXT], special.text.as_bytes()].concat();
        }
    }
    vocabulary(&words, &ends)
}

/// Makes a vocabulary of each byte, an end, and some tokens for the tags of tool calls.
fn byte_vocabulary() -> TokEnv {
    let mut words: Vec<Vec<u8>> = (0..=u8::MAX).map(|byte| vec![byte]).collect();
    let end = FIRST_SPECIAL - 1;
    words.push(Vec::new());
    words.extend(
        (0..SPECIALS).map(|number| [&[NO_TEXT], format!("<{number}>").as_bytes()].concat()),
    );
    vocabulary(&words, &[end])
}

fn vocabulary(words: &[Vec<u8>], ends: &[u32]) -> TokEnv {
    let count = u32::try_from(words.len()).unwrap_or(u32::MAX);
    let end = ends.first().copied().unwrap_or(count);
    let info = TokRxInfo::new(count, end);
    let trie = TokTrie::from(&info, words).with_eos_tokens(ends);
    Arc::new(ApproximateTokEnv::new(trie))
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::super::schema::{MOST_LEVELS, Schema};
    use super::*;

    /// Definitions that each refer to the next: `link` makes one of what refers to that.
    fn chain(count: usize, link: impl Fn(Value) -> Value) -> Value {
        let mut definitions = Map::new();
        for index in 0..count {
            let next = json!({"$ref": format!("#/$defs/a{}", index + 1)});
            definitions.insert(format!("a{index}"), link(next));
        }
        definitions.insert(format!("a{count}"), json!({"type": "string"}));
        json!({"$ref": "#/$defs/a0", "$defs": definitions})
    }

    /// Whether a thread with half of the stack compiles it: where it does not, the test ends here.
    fn compile_deep(schema: &Schema) -> Result<(), GrammarError> {
        let text = format!("start: {schema}");
        let compiling = move || Compiler::for_bytes()?.compile(&text).map(drop);
        let thread = std::thread::Builder::new().stack_size(STACK / 2);
        let thread = thread.spawn(compiling).expect("a thread");
        thread.join().expect("no panic")
    }

    /// The most links of which a chain is not refused.
    fn longest_chain(link: fn(Value) -> Value) -> usize {
        let fits = |count: &usize| Schema::new(chain(*count, link), false).is_ok();
        let (mut fit, mut too_many) = (1, MOST_LEVELS);
        while too_many - fit > 1 {
            let middle = usize::midpoint(fit, too_many);
            if fits(&middle) {
                fit = middle;
            } else {
                too_many = middle;
            }
        }
        fit
    }

    #[test]
    fn references_lead_as_deep_as_the_stack_allows() {
        let link: fn(Value) -> Value = |next| next;
        let member: fn(Value) -> Value =
            |next| json!({"type": "object", "properties": {"a": next}, "required": ["a"]});
        let listed: fn(Value) -> Value =
            |next| json!({"type": "array", "prefixItems": [{"items": next}]});
        // Levels of JSON of a link, and one for the reference.
        for (link, levels) in [(link, 2), (member, 4), (listed, 5)] {
            let most = longest_chain(link);
            assert!(
                most > MOST_LEVELS / levels - 16,
                "{most} of {levels} levels"
            );
            let refused = Schema::new(chain(most + 1, link), false).expect_err("one too many");
            assert!(refused.path.ends_with("$ref"), "{refused:?}");
            let schema = Schema::new(chain(most, link), false).expect("it fits");
            // Too large for llguidance or not: it comes back.
            let _ = compile_deep(&schema);
        }
    }

    #[test]
    fn references_that_are_multiplied_lead_less_deep() {
        let beside: fn(Value) -> Value = |mut next| {
            next["minLength"] = 1.into();
            next
        };
        let within: fn(Value) -> Value = |next| json!({"allOf": [next], "minLength": 1});
        for link in [beside, within] {
            let most = longest_chain(link);
            assert!((50..100).contains(&most), "{most}");
            let schema = Schema::new(chain(most, link), false).expect("it fits");
            assert_eq!(compile_deep(&schema), Ok(()));
        }
    }

    #[test]
    fn schemas_nest_as_deep_as_the_stack_allows() {
        let nested = (0..64).fold(
            json!({"type": "string"}),
            |inner, _| json!({"items": inner}),
        );
        let schema = Schema::new(nested, false).expect("64 levels");
        assert_eq!(compile_deep(&schema), Ok(()));
    }

    #[test]
    fn a_panics_text_reaches_nobody() {
        // llguidance cuts a long value for its message in the middle of a character.
        let value = "é".repeat(200);
        let text = format!(r#"start: %json {{"type": "number", "minimum": "x{value}"}}"#);
        let compiler = Compiler::for_bytes().expect("a compiler");
        let Err(error) = compiler.compile(&text) else {
            panic!("the case is not hit");
        };
        let error = error.to_string();
        assert!(
            !error.contains("panic") && !error.contains("boundary"),
            "{error}"
        );
    }

    #[test]
    fn a_message_says_only_what_is_wrong() {
        assert_eq!(
            reason("at 1: failed to compile JSON schema: no such type\nmore"),
            "no such type"
        );
        assert_eq!(
            reason("regex:\n  ^\nerror: unclosed group"),
            "regex: unclosed group"
        );
    }
}
