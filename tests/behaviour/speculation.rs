//! Drafts make answers faster and never different: real engine, real model.

use serde_json::json;

use crate::gateway::{Gateway, steady_answer};

const STORE: &str = "You are the assistant of Corner Fresh.\n\
    - Zorvex Quinlo Tea: $8.80, aisle 5, 3 in stock\n\
    - Oat milk: $3.49, aisle 4, 12 in stock\n\
    - Free-range eggs: $6.10, aisle 3, 20 in stock\n\
    - Kalamata olives: $4.35, aisle 7, 15 in stock";

fn question(text: &str, temperature: f64) -> serde_json::Value {
    json!({
        "messages": [
            {"role": "system", "content": STORE},
            {"role": "user", "content": text},
        ],
        "temperature": temperature,
        "seed": 7,
        "max_tokens": 60,
    })
}

#[test]
fn answers_are_the_same_with_and_without_drafts_greedy_and_seeded() {
    let drafts = Gateway::with_env(&[("EDGELLM__SCHEDULER__SPECULATION", "on")]);
    let plain = Gateway::with_env(&[("EDGELLM__SCHEDULER__SPECULATION", "off")]);
    for text in [
        "How much is the Zorvex Quinlo Tea?",
        "Where are the Kalamata olives?",
        "How many free-range eggs do you have?",
        "oat milk?",
    ] {
        for temperature in [0.0, 1.0] {
            let body = question(text, temperature);
            assert_eq!(drafts.answer(&body), plain.answer(&body), "{text}");
        }
    }
    // Where the model repeats itself drafts are long.
    let body = steady_answer(400);
    assert_eq!(drafts.answer(&body), plain.answer(&body));
    assert_eq!(
        plain.metric("edgellm_speculative_drafted_tokens_total"),
        "0"
    );
    let drafted = drafts.metric("edgellm_speculative_drafted_tokens_total");
    assert_ne!(drafted, "0", "the case is not hit");
}

#[test]
fn a_prediction_is_accounted_for_in_the_usage() {
    let gateway = Gateway::start();
    let mut body = question("How much is the oat milk?", 0.0);
    let answer = gateway.answer(&body);
    body["prediction"] = json!({"type": "content", "content": answer});
    let response = gateway.chat(&body).json();
    assert_eq!(
        response["choices"][0]["message"]["content"],
        answer.as_str()
    );
    let details = &response["usage"]["completion_tokens_details"];
    assert_eq!(details["rejected_prediction_tokens"], 0);
    // All but the token that ends the answer.
    let accepted = details["accepted_prediction_tokens"].as_u64();
    let generated = response["usage"]["completion_tokens"].as_u64();
    assert_eq!(accepted.map(|count| count + 1), generated);
}

#[test]
fn a_prediction_longer_than_any_answer_is_refused_by_name() {
    let gateway = Gateway::with_env(&[("EDGELLM__MODELS__CONTEXT", "512")]);
    let mut body = question("How much is the oat milk?", 0.0);
    body["prediction"] = json!({"type": "content", "content": "word ".repeat(4000)});
    let response = gateway.chat(&body);
    assert_eq!(response.status, 400);
    assert_eq!(response.json()["error"]["param"], "prediction.content");
}
