//! The grammar of an answer that must call a tool.

use std::fmt::Write as _;

use crate::engine::Vocabulary;
use crate::grammar::{Grammar, Schema};

use super::ToolFormat;
use super::parser::CLOSE;

/// Calls of one answer; a model that never stops calling must end.
const MOST_CALLS: usize = 16;

/// A function that may be called.
#[derive(Debug, Clone, PartialEq)]
pub struct Callable {
    /// Its name.
    pub name: String,
    /// What its arguments must be.
    pub arguments: Schema,
}

/// Calls to some of `functions`, exactly one, or where `several` at least one; or else, where that is
/// allowed, an instance of `otherwise`.
#[must_use]
pub fn calls(
    format: ToolFormat,
    functions: &[Callable],
    several: bool,
    otherwise: Option<&Schema>,
    vocab: &dyn Vocabulary,
) -> Grammar {
    let more = |separator: &str| match (several, format) {
        // Llama's template has no place for a second call.
        (false, _) | (_, ToolFormat::Llama) => String::new(),
        (true, _) => format!(" ({separator} call){{0,{}}}", MOST_CALLS - 1),
    };
    let open = match format.open() {
        "" => String::new(),
        open => tag(open, vocab),
    };
    let calls = match format {
        ToolFormat::Hermes => format!("call{}", more(r#""\n""#)),
        ToolFormat::Llama => "call".to_owned(),
        ToolFormat::Mistral => format!(r#"{open} "[" call{} "]""#, more(r#"", ""#)),
    };
    let names: Vec<String> = (0..functions.len()).map(|i| format!("call_{i}")).collect();
    let mut rules = format!("calls: {calls}\ncall: {}\n", names.join(" | "));
    rules.push_str(match otherwise {
        None => "start: calls\n",
        Some(_) => "start: calls | answer\n",
    });
    if let Some(schema) = otherwise {
        // Writing to a string cannot fail.
        let _ = writeln!(rules, "answer: %json {schema}");
    }
    for (index, function) in functions.iter().enumerate() {
        let name = serde_json::Value::from(function.name.as_str());
        let head = quoted(&format!(r#"{{"name": {name}, "{}": "#, format.arguments()));
        let body = format!(r#"{head} arguments_{index} "}}""#);
        let call = match format {
            ToolFormat::Hermes => format!(r#"{open} "\n" {body} "\n" {}"#, tag(CLOSE, vocab)),
            ToolFormat::Llama | ToolFormat::Mistral => body,
        };
        let _ = writeln!(rules, "call_{index}: {call}");
        let _ = writeln!(rules, "arguments_{index}: %json {}", function.arguments);
    }
    Grammar::lark(rules)
}

/// A tag as the one token that it is, if it is one.
fn tag(text: &str, vocab: &dyn Vocabulary) -> String {
    let mut specials = vocab.specials().iter();
    match specials.find(|special| special.text == text) {
        Some(special) => format!("<[{}]>", special.token.0),
        None => quoted(text),
    }
}

/// Lark's strings are JSON's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{SpecialKind, SpecialToken, Token};

    struct Tags(Vec<SpecialToken>);

    impl Vocabulary for Tags {
        fn encode(&self, _text: &str) -> Vec<Token> {
            Vec::new()
        }

        fn specials(&self) -> &[SpecialToken] {
            &self.0
        }

        fn bos(&self) -> Option<Token> {
            None
        }
    }

    #[test]
    fn a_tag_that_is_one_token_is_asked_for_as_such() {
        let function = Callable {
            name: "f".to_owned(),
            arguments: Schema::object(),
        };
        let open = SpecialToken {
            text: "<tool_call>".to_owned(),
            token: Token(7),
            kind: SpecialKind::UserDefined,
        };
        let grammar = calls(
            ToolFormat::Hermes,
            &[function],
            false,
            None,
            &Tags(vec![open]),
        );
        let text = format!("{grammar:?}");
        assert!(
            text.contains("<[7]>") && text.contains("</tool_call>"),
            "{text}"
        );
    }
}
