//! The body of `POST /v1/embeddings` and its answer, as OpenAI documents them. `null` means
//! absent, unknown keys are ignored.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, DeserializeSeed, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use super::vectors::VectorEncoding;
use crate::http::json_count::CountScope;
use crate::http::openapi::{EmbeddingModel, among, at_least, each, within};
use crate::http::parse::{Wire, only_objects};
use crate::inference::bounds::{MOST_EMBEDDED_TOKENS, TOKEN_ID};
use crate::inference::embed::EmbeddingInput;

/// Texts per request at most, as for OpenAI.
pub(super) const MOST_EMBEDDING_INPUTS: usize = 2048;

pub(super) const LEAST_DIMENSIONS: i64 = 1;
pub(super) const ENCODINGS: [(&str, VectorEncoding); 2] = [
    ("float", VectorEncoding::Float),
    ("base64", VectorEncoding::Base64),
];

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(remote = "Self")]
#[schemars(!remote)]
pub(super) struct EmbeddingRequest {
    #[schemars(with = "Option<EmbeddingModel>")]
    pub(super) model: Option<String>,
    pub(super) input: EmbeddingInputField,
    /// How numbers are written; `base64` is little-endian 32-bit floats.
    #[schemars(transform = among(ENCODINGS.map(|(name, _)| name)))]
    pub(super) encoding_format: Option<String>,
    /// So many numbers of each vector, scaled to the length of 1; no more than the model's.
    #[schemars(transform = at_least(LEAST_DIMENSIONS))]
    pub(super) dimensions: Option<i64>,
    /// For OpenAI's own records; of no use here, but of the type that they document.
    #[serde(rename = "user")]
    pub(super) _user: Option<String>,
}

/// What is to be embedded: a text, several, the tokens of one, or those of several.
#[derive(Debug, PartialEq, Eq, JsonSchema)]
#[schemars(rename = "EmbeddingInput", untagged)]
pub(super) enum EmbeddingInputField {
    Text(#[schemars(length(min = 1))] String),
    Texts(
        #[schemars(length(min = 1, max = MOST_EMBEDDING_INPUTS), inner(length(min = 1)))]
        Vec<String>,
    ),
    Tokens(
        #[schemars(length(min = 1, max = MOST_EMBEDDED_TOKENS), transform = each(within(TOKEN_ID)))]
         Vec<i64>,
    ),
    TokenLists(
        #[schemars(
            length(min = 1, max = MOST_EMBEDDING_INPUTS),
            inner(length(min = 1, max = MOST_EMBEDDED_TOKENS)),
            transform = each(each(within(TOKEN_ID)))
        )]
        Vec<Vec<i64>>,
    ),
}

impl From<EmbeddingInputField> for EmbeddingInput {
    fn from(input: EmbeddingInputField) -> Self {
        match input {
            EmbeddingInputField::Text(text) => Self::Text(text),
            EmbeddingInputField::Texts(texts) => Self::Texts(texts),
            EmbeddingInputField::Tokens(ids) => Self::Tokens(ids),
            EmbeddingInputField::TokenLists(lists) => Self::TokenLists(lists),
        }
    }
}

/// Implemented by hand, so that an entry of the wrong type is named with its path, and parsing stops at the
/// first entry too many.
impl<'de> Deserialize<'de> for EmbeddingInputField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(InputVisitor)
    }
}

struct InputVisitor;

impl<'de> Visitor<'de> for InputVisitor {
    type Value = EmbeddingInputField;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a string, an array of strings, an array of token ids or an array of such arrays",
        )
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<EmbeddingInputField, E> {
        Ok(EmbeddingInputField::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<EmbeddingInputField, E> {
        Ok(EmbeddingInputField::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<EmbeddingInputField, A::Error> {
        let Some(first) = array.next_element_seed(EntrySeed(None))? else {
            return Err(de::Error::custom("the array must not be empty"));
        };
        let kind = EntrySeed(Some(first.kind()));
        let mut rest = |most: usize, first: InputEntry| -> Result<Vec<InputEntry>, A::Error> {
            let mut all = vec![first];
            while let Some(entry) = array.next_element_seed(kind)? {
                if all.len() == most {
                    let message = format!("the array must have at most {most} entries");
                    return Err(de::Error::custom(message));
                }
                all.push(entry);
            }
            Ok(all)
        };
        // Every entry is of the kind of the first.
        Ok(match first.kind() {
            EntryKind::Text => {
                let all = rest(MOST_EMBEDDING_INPUTS, first)?.into_iter();
                EmbeddingInputField::Texts(all.filter_map(InputEntry::text).collect())
            }
            EntryKind::Token => {
                let all = rest(MOST_EMBEDDED_TOKENS, first)?.into_iter();
                EmbeddingInputField::Tokens(all.filter_map(InputEntry::token).collect())
            }
            EntryKind::Tokens => {
                let all = rest(MOST_EMBEDDING_INPUTS, first)?.into_iter();
                EmbeddingInputField::TokenLists(all.filter_map(InputEntry::tokens).collect())
            }
        })
    }
}

/// An entry of the input array.
enum InputEntry {
    Text(String),
    Token(i64),
    Tokens(Vec<i64>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EntryKind {
    Text,
    Token,
    Tokens,
}

impl InputEntry {
    fn kind(&self) -> EntryKind {
        match self {
            Self::Text(_) => EntryKind::Text,
            Self::Token(_) => EntryKind::Token,
            Self::Tokens(_) => EntryKind::Tokens,
        }
    }

    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    fn token(self) -> Option<i64> {
        match self {
            Self::Token(id) => Some(id),
            _ => None,
        }
    }

    fn tokens(self) -> Option<Vec<i64>> {
        match self {
            Self::Tokens(ids) => Some(ids),
            _ => None,
        }
    }
}

/// Reads an entry of this kind; `None` for the first entry, which may be of any kind.
#[derive(Clone, Copy)]
struct EntrySeed(Option<EntryKind>);

impl EntrySeed {
    fn admits(self, kind: EntryKind) -> bool {
        self.0.is_none_or(|expected| expected == kind)
    }
}

impl<'de> DeserializeSeed<'de> for EntrySeed {
    type Value = InputEntry;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InputEntry, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for EntrySeed {
    type Value = InputEntry;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            None => "a string, a token id or an array of token ids",
            Some(EntryKind::Text) => "a string like the entries before it",
            Some(EntryKind::Token) => "a token id like the entries before it",
            Some(EntryKind::Tokens) => "an array of token ids like the entries before it",
        })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<InputEntry, E> {
        if self.admits(EntryKind::Text) {
            Ok(InputEntry::Text(text.to_owned()))
        } else {
            Err(E::invalid_type(de::Unexpected::Str(text), &self))
        }
    }

    fn visit_i64<E: de::Error>(self, id: i64) -> Result<InputEntry, E> {
        if self.admits(EntryKind::Token) {
            Ok(InputEntry::Token(id))
        } else {
            Err(E::invalid_type(de::Unexpected::Signed(id), &self))
        }
    }

    fn visit_u64<E: de::Error>(self, id: u64) -> Result<InputEntry, E> {
        // An id that does not fit is in no vocabulary; that is checked later.
        self.visit_i64(i64::try_from(id).unwrap_or(i64::MAX))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<InputEntry, A::Error> {
        if !self.admits(EntryKind::Tokens) {
            return Err(de::Error::invalid_type(de::Unexpected::Seq, &self));
        }
        let mut ids = Vec::new();
        while let Some(id) = array.next_element::<i64>()? {
            if ids.len() == MOST_EMBEDDED_TOKENS {
                let message = format!("the array must have at most {MOST_EMBEDDED_TOKENS} entries");
                return Err(de::Error::custom(message));
            }
            ids.push(id);
        }
        Ok(InputEntry::Tokens(ids))
    }
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct EmbeddingResponse<'a> {
    #[schemars(transform = among(["list"]))]
    pub(super) object: &'static str,
    pub(super) data: Vec<EmbeddingObject>,
    pub(super) model: &'a str,
    pub(super) usage: EmbeddingUsage,
}

#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Embedding")]
pub(super) struct EmbeddingObject {
    #[schemars(transform = among(["embedding"]))]
    pub(super) object: &'static str,
    pub(super) index: usize,
    pub(super) embedding: Vector,
}

#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Vector {
    Float(Vec<f32>),
    /// Little-endian 32-bit floats.
    Base64(String),
}

#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct EmbeddingUsage {
    pub(super) prompt_tokens: usize,
    pub(super) total_tokens: usize,
}

impl Wire for EmbeddingRequest {
    const COUNT_SCOPE: CountScope = CountScope::AllButTokens;
}

only_objects!(EmbeddingRequest,);

#[cfg(test)]
mod tests {
    use super::*;

    fn input(json: &str) -> Result<EmbeddingInputField, String> {
        serde_json::from_str(json).map_err(|error: serde_json::Error| error.to_string())
    }

    #[test]
    fn all_four_forms_are_read() {
        assert_eq!(input(r#""a""#), Ok(EmbeddingInputField::Text("a".into())));
        let texts = vec!["a".into(), String::new()];
        assert_eq!(input(r#"["a",""]"#), Ok(EmbeddingInputField::Texts(texts)));
        assert_eq!(
            input("[1,-2]"),
            Ok(EmbeddingInputField::Tokens(vec![1, -2]))
        );
        let lists = vec![vec![1], vec![]];
        assert_eq!(
            input("[[1],[]]"),
            Ok(EmbeddingInputField::TokenLists(lists))
        );
    }

    #[test]
    fn forms_are_not_mixed() {
        for mixed in [
            r#"["a",1]"#,
            r#"[1,"a"]"#,
            "[[1],1]",
            "[1,[1]]",
            r#"["a",null]"#,
        ] {
            let error = input(mixed).expect_err(mixed);
            assert!(error.contains("like the entries before it"), "{error}");
        }
        for wrong in [
            "null",
            "5",
            "true",
            "{}",
            "[]",
            "[null]",
            "[1.5]",
            "[[[1]]]",
            r#"[["a"]]"#,
        ] {
            assert!(input(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_entry_too_many_ends_the_reading() {
        let array = |count: usize, entry: &str| format!("[{}]", vec![entry; count].join(","));
        assert!(input(&array(MOST_EMBEDDING_INPUTS, r#""a""#)).is_ok());
        for entry in [r#""a""#, "[1]"] {
            let error = input(&array(MOST_EMBEDDING_INPUTS + 1, entry)).expect_err("too many");
            assert!(error.contains("at most 2048"), "{error}");
        }
        assert!(input(&array(MOST_EMBEDDED_TOKENS, "1")).is_ok());
        assert!(input(&array(MOST_EMBEDDED_TOKENS + 1, "1")).is_err());
    }

    #[test]
    fn a_number_beyond_all_vocabularies_is_still_a_number() {
        assert_eq!(
            input("[18446744073709551615]"),
            Ok(EmbeddingInputField::Tokens(vec![i64::MAX]))
        );
    }
}
