//! Tool calls of the real model, and of one whose tags are tokens without a text.

use std::path::Path;

use serde_json::{Value, json};

use crate::gateway::{Gateway, MODEL, question, read, stream_events};

/// llama.cpp's `LLAMA_TOKEN_TYPE_CONTROL`.
const CONTROL: i32 = 3;

fn lookup(strict: bool) -> Value {
    json!({"type": "function", "function": {
        "name": "find_product", "description": "Find price, aisle and stock of a product",
        "strict": strict,
        "parameters": {
            "type": "object", "additionalProperties": false,
            "properties": {"name": {"type": "string"}}, "required": ["name"],
        },
    }})
}

/// Where the items of an array in a GGUF's metadata begin, and how many they are.
fn array(file: &[u8], key: &str) -> (usize, usize) {
    let key_at = file
        .windows(key.len())
        .position(|window| window == key.as_bytes())
        .expect("the key");
    // Behind the key stand the type of the value (array), that of its items, and their number.
    let items = key_at + key.len() + 16;
    (items, number(file, items - 8))
}

fn number(file: &[u8], at: usize) -> usize {
    let bytes = file[at..at + 8].try_into().expect("eight bytes");
    usize::try_from(u64::from_le_bytes(bytes)).expect("small")
}

/// The token that stands for `text`.
fn token(file: &[u8], text: &str) -> usize {
    let (mut at, count) = array(file, "tokenizer.ggml.tokens");
    let mut is_it = |_: &usize| {
        let length = number(file, at);
        let found = &file[at + 8..at + 8 + length] == text.as_bytes();
        at += 8 + length;
        found
    };
    (0..count).find(&mut is_it).expect("a token")
}

/// The shipped model, in which `texts` are control tokens.
fn write_with_control_tokens(path: &Path, texts: &[&str]) {
    let mut file = std::fs::read(MODEL).expect("the shipped model");
    let (types, _) = array(&file, "tokenizer.ggml.token_type");
    for text in texts {
        let kind = types + 4 * token(&file, text);
        file[kind..kind + 4].copy_from_slice(&CONTROL.to_le_bytes());
    }
    std::fs::write(path, file).expect("written");
}

#[test]
fn calls_whose_tags_are_control_tokens_are_found_and_the_tags_never_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let model = folder.path().join("kiosk.gguf");
    write_with_control_tokens(&model, &["<tool_call>", "</tool_call>"]);
    let gateway = Gateway::with_model(&model, &[]);

    let mut body = question("How much is the oat milk?");
    body["tools"] = json!([lookup(false)]);
    body["tool_choice"] = json!("required");
    let choice = gateway.chat(&body).json()["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
    assert_eq!(choice["message"]["content"], Value::Null);
    let call = &choice["message"]["tool_calls"][0]["function"];
    assert_eq!(call["name"], "find_product");
    let arguments = call["arguments"].as_str().expect("a text");
    let arguments: Value = serde_json::from_str(arguments).expect("JSON");
    assert!(arguments["name"].is_string());

    body["stream"] = json!(true);
    let streamed = read(gateway.send("POST", "/v1/chat/completions", &body.to_string()));
    let events = stream_events(&streamed.body);
    let calls = events
        .iter()
        .filter(|event| event["choices"][0]["delta"]["tool_calls"][0]["id"].is_string());
    assert_eq!(calls.count(), 1, "{}", streamed.body);

    // Where nobody looks for calls, the same tokens are nothing to read.
    let mut free = question("How much is the oat milk?");
    let tag = token(&std::fs::read(MODEL).expect("a file"), "<tool_call>");
    free["logit_bias"] = json!({tag.to_string(): 100});
    free["max_tokens"] = json!(4);
    assert_eq!(gateway.answer(&free), "");
}

#[test]
fn calls_that_the_model_makes_of_itself_fit_a_strict_schema() {
    let gateway = Gateway::start();
    let mut body = question("How much is the oat milk?");
    let tag = token(&std::fs::read(MODEL).expect("a file"), "<tool_call>");
    // It calls whenever it is free to.
    body["logit_bias"] = json!({tag.to_string(): 100});
    body["temperature"] = json!(2);
    body["seed"] = json!(5);
    body["max_tokens"] = json!(200);
    body["tools"] = json!([lookup(true)]);
    let choice = gateway.chat(&body).json()["choices"][0].clone();
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    assert!(calls.len() > 1, "{choice}");
    for call in calls {
        assert_eq!(call["function"]["name"], "find_product");
        let arguments = call["function"]["arguments"].as_str().expect("a text");
        let arguments: Value = serde_json::from_str(arguments).expect("JSON");
        let keys: Vec<_> = arguments.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["name"]);
    }
}

#[test]
fn tools_that_do_not_fit_into_the_context_are_refused_before_a_grammar_is_made_of_them() {
    let gateway = Gateway::start();
    let mut body = question("How much is the oat milk?");
    body["tool_choice"] = json!("required");
    let mut tool = lookup(false);
    // Nothing can follow it.
    tool["function"]["parameters"]["properties"]["name"] =
        json!({"type": "integer", "minimum": 3, "maximum": 2});
    body["tools"] = json!([tool]);
    let error = gateway.chat(&body).json()["error"].clone();
    let place = "tools[0].function.parameters.properties.name";
    assert_eq!(error["param"], place, "{error}");

    for words in [3_000, 500_000] {
        body["tools"][0]["function"]["description"] = json!("word ".repeat(words));
        let answer = gateway.chat(&body);
        assert_eq!(answer.status, 400);
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], "context_length_exceeded", "{error}");
    }
}
