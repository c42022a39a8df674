//! What holds for the body of a request, whatever it is.

use axum::http::StatusCode;
use serde_json::Value;

use super::description::parameters;
use super::error::ApiError;
use super::{chat, completions, embeddings, responses, tokenize};

pub(super) type Read = fn(&[u8]) -> Result<(), ApiError>;

/// Everything that reads JSON.
pub(super) const READERS: [(&str, Read); 6] = [
    ("/v1/chat/completions", chat::read_body),
    ("/v1/completions", completions::read_body),
    ("/v1/embeddings", embeddings::read_body),
    ("/v1/responses", responses::read_body),
    ("/tokenize", tokenize::read_body),
    ("/detokenize", tokenize::read_tokens),
];

/// A body is either fit for a model or refused in words, which name a parameter that exists.
///
/// # Panics
/// When it is neither.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn read_body(body: &[u8]) {
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
                read_body(&body[..end]);
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
