//! What holds for the body of a request, whatever it is.

use std::time::{Duration, Instant};

use axum::http::StatusCode;
use serde_json::Value;

use super::document::parameters;
use crate::http::error::ApiError;
use crate::openai::chat;
use crate::openai::completions;
use crate::openai::embeddings;
use crate::openai::responses;
use crate::openai::tokenize;
use crate::operator::models as pool;

pub(crate) type Read = fn(&[u8]) -> Result<(), ApiError>;

/// Everything that reads JSON.
pub(crate) const READERS: [(&str, Read); 7] = [
    ("/v1/chat/completions", chat::read_body),
    ("/v1/completions", completions::read_body),
    ("/v1/embeddings", embeddings::read_body),
    ("/v1/responses", responses::read_body),
    ("/tokenize", tokenize::read_body),
    ("/detokenize", tokenize::read_tokens),
    ("/models/load", pool::read_body),
];

/// A body is either fit for a model or refused in words, which name a parameter that exists.
///
/// # Panics
/// When it is neither.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn read_body(body: &[u8]) {
    read_as_all(body);
    if let Some(body) = amplified(body) {
        let began = Instant::now();
        read_as_all(&body);
        let took = began.elapsed();
        assert!(took < LONGEST, "{took:?} for {} bytes", body.len());
    }
}

/// What a body of an amplified size may take, read as each kind of request. It is far more than it
/// should, because others may be at work on the machine.
const LONGEST: Duration = Duration::from_secs(4);
const AMPLIFIED: usize = 1 << 20;

/// A body with one part of it repeated until it is large, as its last bytes say.
fn amplified(body: &[u8]) -> Option<Vec<u8>> {
    let (body, &[from, length, times]) = body.split_last_chunk()?;
    let at = usize::from(from) * body.len() / 256;
    let (before, rest) = body.split_at(at);
    let (part, after) = rest.split_at(rest.len().min(1 + usize::from(length)));
    let times = (1_usize << (times % 20)).min(AMPLIFIED / part.len().max(1));
    (times > 1).then(|| [before, &part.repeat(times), after].concat())
}

fn read_as_all(body: &[u8]) {
    for (path, read) in READERS {
        match read(body) {
            Ok(()) => assert!(
                body.trim_ascii_start().starts_with(b"{"),
                "{path} takes no object"
            ),
            Err(error) => check(path, &error),
        }
    }
}

fn check(path: &str, error: &ApiError) {
    assert_eq!(error.status(), StatusCode::BAD_REQUEST, "{path}: {error}");
    let body = error.body();
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "{path}: nothing is said");
    assert!(message.chars().count() <= 401, "{path}: {message}");
    if let Value::String(param) = &body["error"]["param"] {
        let parameter = param.split(['.', '[']).next().unwrap_or_default();
        let known = parameters(path).is_some_and(|all| all.contains_key(parameter));
        assert!(known, "{path} has no parameter `{param}`: {message}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seeds_are_taken_or_refused_in_words() {
        let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/body");
        let seeds: Vec<_> = fs::read_dir(seeds).expect("seeds").collect();
        assert!(seeds.len() > 20);
        for seed in seeds {
            let body = fs::read(seed.expect("a file").path()).expect("readable");
            read_body(&body);
            // What a client sends that loses its connection.
            for end in 0..body.len() {
                read_as_all(&body[..end]);
            }
        }
    }

    #[test]
    fn an_object_is_not_to_be_written_as_an_array() {
        for message in [
            r#"["user", "hi"]"#,
            r#"{"role": "user", "content": [["text", "hi"]]}"#,
        ] {
            let body = format!(r#"{{"messages": [{message}]}}"#);
            assert!(chat::read_body(body.as_bytes()).is_err(), "{body}");
            let body = format!(
                r#"{{"input": [{}]}}"#,
                message.replace("text", "input_text")
            );
            assert!(responses::read_body(body.as_bytes()).is_err(), "{body}");
        }
    }

    #[test]
    fn a_part_of_a_body_is_repeated_as_its_last_bytes_say() {
        assert_eq!(amplified(b"abcd\x80\x00\x02"), Some(b"abccccd".to_vec()));
        assert_eq!(amplified(b"abcd\x80\x00\x00"), None);
        let lists = [
            br#"{"tools":["#.as_slice(),
            &b"[0],".repeat(300_000),
            b"0]}",
        ]
        .concat();
        read_body(&lists);
    }

    proptest! {
        #[test]
        fn any_value_of_any_parameter_is_taken_or_refused_in_words(
            which in 0..READERS.len(),
            parameter in any::<prop::sample::Index>(),
            value in prop::sample::select(vec![
                "null", "true", "0", "-1", "1.5", "1e308", "9223372036854775808", "\"\"", "\"auto\"", "[]",
                "[null]", "[1]", "[\"a\"]", "[[1]]", "[{}]", "{}", "{\"type\":1}", "{\"type\":\"function\"}",
            ]),
        ) {
            let (path, read) = READERS[which];
            let names: Vec<_> = parameters(path).expect("described").keys().collect();
            let name = parameter.get(&names);
            let body = format!(
                "{{\"messages\":[{{\"role\":\"user\",\"content\":\"a\"}}],\"{name}\":{value}}}"
            );
            if let Err(error) = read(body.as_bytes()) {
                check(path, &error);
            }
        }
    }
}
