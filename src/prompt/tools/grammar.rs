//! The grammar of an answer that must call a tool.

use std::fmt::Write as _;

use crate::engine::{SpecialToken, Vocabulary};
use crate::grammar::{Grammar, Schema};

use super::ToolFormat;
use super::head::{ARGS, CALL_ID};
use super::parser::CLOSE;

/// Calls of one answer at most, so that a model that never stops calling comes to an end.
const MOST_CALLS: usize = 16;

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct CallableFunction {
    /// Its name.
    pub name: String,
    /// The schema of its arguments.
    pub arguments: Schema,
}

/// Calls to some of `functions`, exactly one, or where `several` at least one; or else, where that is
/// allowed, an instance of `otherwise`.
#[must_use]
pub fn calls(
    format: ToolFormat,
    functions: &[CallableFunction],
    several: bool,
    otherwise: Option<&Schema>,
    vocab: &dyn Vocabulary,
) -> Grammar {
    // Llama's template has no place for a second call.
    let more = match format {
        ToolFormat::Llama => 0,
        _ if several => MOST_CALLS - 1,
        _ => 0,
    };
    let open = match format.opener() {
        Some(opener) => tag(opener, vocab),
        None => String::new(),
    };
    let calls = match format {
        ToolFormat::Hermes => {
            let next = format!(r#""\n" {open} call"#);
            format!("{open} call {}", up_to(more, &next))
        }
        ToolFormat::Llama => "call".to_owned(),
        ToolFormat::Mistral => format!("{open} {}", list(more)),
        ToolFormat::MistralNamed => format!("({open} call){{1,{}}}", more + 1),
    };
    let mut rules = format!("calls: {calls}\n");
    rules.push_str(match otherwise {
        None => "start: calls\n",
        Some(_) => "start: calls | answer\n",
    });
    if let Some(schema) = otherwise {
        // Writing to a string cannot fail.
        let _ = writeln!(rules, "answer: {schema}");
    }
    define_calls(&mut rules, format, functions, vocab);
    Grammar::lark(rules)
}

/// Makes the grammar of what follows a format's [opener](ToolFormat::opener), up to the end of the call,
/// or of the list of calls that it opens.
#[must_use]
pub fn opened_calls(
    format: ToolFormat,
    functions: &[CallableFunction],
    vocab: &dyn Vocabulary,
) -> Grammar {
    let opened = match format {
        ToolFormat::Mistral => list(MOST_CALLS - 1),
        ToolFormat::Hermes | ToolFormat::Llama | ToolFormat::MistralNamed => "call".to_owned(),
    };
    let mut rules = format!("start: {opened}\n");
    define_calls(&mut rules, format, functions, vocab);
    Grammar::lark(rules)
}

/// Returns the rule for one call and more after it.
fn list(more: usize) -> String {
    format!(r#""[" call {} "]""#, up_to(more, r#"", " call"#))
}

/// Returns a repetition of at most this many; empty for zero, because a range must not end with 0.
fn up_to(most: usize, what: &str) -> String {
    match most {
        0 => String::new(),
        most => format!("({what}){{0,{most}}}"),
    }
}

/// The rule `call`: one of `functions`, without the opener.
fn define_calls(
    rules: &mut String,
    format: ToolFormat,
    functions: &[CallableFunction],
    vocab: &dyn Vocabulary,
) {
    let names: Vec<String> = (0..functions.len()).map(|i| format!("call_{i}")).collect();
    let _ = writeln!(rules, "call: {}", names.join(" | "));
    for (index, function) in functions.iter().enumerate() {
        let arguments = format!("arguments_{index}");
        let name = serde_json::Value::from(function.name.as_str());
        let head = quoted(&format!(r#"{{"name": {name}, "{}": "#, format.arguments()));
        let object = format!(r#"{head} {arguments} "}}""#);
        let call = match format {
            ToolFormat::Hermes => format!(r#""\n" {object} "\n" {}"#, tag(CLOSE, vocab)),
            ToolFormat::Llama | ToolFormat::Mistral => object,
            ToolFormat::MistralNamed => {
                let name = quoted(&function.name);
                let id = match find(CALL_ID, vocab) {
                    Some(_) => format!("({} /[0-9A-Za-z]{{9}}/)?", tag(CALL_ID, vocab)),
                    None => String::new(),
                };
                format!("{name} {id} {} {arguments}", tag(ARGS, vocab))
            }
        };
        let _ = writeln!(rules, "call_{index}: {call}");
        let _ = writeln!(rules, "{arguments}: {}", function.arguments);
    }
}

/// Returns a tag as a single token, where the vocabulary has one for it.
fn tag(text: &str, vocab: &dyn Vocabulary) -> String {
    match find(text, vocab) {
        Some(special) => format!("<[{}]>", special.token.0),
        None => quoted(text),
    }
}

fn find<'v>(text: &str, vocab: &'v dyn Vocabulary) -> Option<&'v SpecialToken> {
    let mut specials = vocab.specials().iter();
    specials.find(|special| special.text == text)
}

/// Lark's strings are JSON's.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{SpecialKind, Token};

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
        let function = CallableFunction {
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
