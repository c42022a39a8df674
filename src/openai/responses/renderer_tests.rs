//! The items of a response and the events of its stream, from text as models write it.

use std::time::Duration;

use serde_json::{Value, json};

use super::*;
use crate::admission::Principal;
use crate::engine::Token;
use crate::openai::responses::reply::{
    RequestEcho, ResponseReasoning, ResponseText as OutputFormat, ResponseTextFormat,
};
use crate::openai::responses::store::{ResponseStore, StoreLimits};
use crate::prompt::{ThoughtTags, ToolFormat};
use crate::sampling::{Logprobs, SamplingParams};
use crate::scheduler::Timings;

const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";

struct Letters;

impl Pieces for Letters {
    fn piece(&self, token: Token) -> &[u8] {
        let at = usize::try_from(token.0).expect("a letter");
        &b"abcdefgh"[at..=at]
    }

    fn is_end(&self, _token: Token) -> bool {
        false
    }
}

fn echo() -> RequestEcho {
    RequestEcho {
        instructions: None,
        max_output_tokens: None,
        max_tool_calls: None,
        metadata: serde_json::Map::new(),
        parallel_tool_calls: true,
        previous_response_id: None,
        prompt_cache_key: None,
        reasoning: ResponseReasoning::default(),
        safety_identifier: None,
        service_tier: "default",
        store: true,
        text: OutputFormat {
            format: ResponseTextFormat::Text,
            verbosity: "medium",
        },
        tool_choice: json!("auto"),
        tools: Vec::new(),
        top_logprobs: 0,
        truncation: "disabled",
        user: None,
    }
}

/// An answer of a model that thinks and calls functions as Hermes does.
fn answer(stream: bool, calls: CallLimit, keeping: Option<StoreTarget>) -> ResponseItemRenderer {
    let output = ResponseOutputOptions {
        stream,
        obfuscate: false,
        calls,
        logprobs: true,
    };
    let thoughts = ThoughtTags::of("</think>").map(|tags| (tags, false));
    let format = (calls != CallLimit::None).then_some(ToolFormat::Hermes);
    ResponseItemRenderer::new(
        ResponseObject::new("kiosk", &SamplingParams::default(), echo()),
        output,
        Arc::new(Letters),
        OutputParser::new(thoughts, format),
        keeping,
    )
}

fn say(text: &str) -> AnswerText {
    AnswerText {
        text: text.to_owned(),
        tokens: 1,
        logprobs: Vec::new(),
    }
}

fn finished(reason: FinishReason) -> AnswerEnd {
    AnswerEnd {
        reason,
        is_late: false,
        prompt_tokens: 10,
        cached_tokens: 8,
        generated_tokens: 5,
        predicted_tokens: None,
        energy_joules: None,
        timings: Timings::default(),
    }
}

fn spent() -> UsageTotals {
    UsageTotals {
        prompt_tokens: 10,
        cached_tokens: 8,
        generated_tokens: 5,
        ..UsageTotals::default()
    }
}

fn whole(mut answer: ResponseItemRenderer, texts: &[&str], reason: FinishReason) -> Value {
    for text in texts {
        assert!(answer.text(0, &say(text)).is_empty(), "nobody listens");
    }
    answer.end(0, &finished(reason));
    serde_json::from_str(&answer.whole(spent())).expect("JSON")
}

/// All events of a stream, after checking that they are numbered through and named.
fn stream(mut answer: ResponseItemRenderer, texts: &[&str], reason: FinishReason) -> Vec<Value> {
    let mut frames = answer.opening();
    for text in texts {
        frames.extend(answer.text(0, &say(text)));
    }
    frames.extend(answer.end(0, &finished(reason)));
    frames.extend(ResponseRenderer::close(&mut answer, spent()));
    read(frames)
}

fn read(frames: Vec<Frame>) -> Vec<Value> {
    let event = |(number, frame)| {
        let Frame::Named(name, data) = frame else {
            panic!("every event has a name");
        };
        let event: Value = serde_json::from_str(&data).expect("JSON");
        assert_eq!(event["type"], name);
        assert_eq!(event["sequence_number"], json!(number));
        event
    };
    frames.into_iter().enumerate().map(event).collect()
}

/// The names without the common beginning; repetitions once.
fn names(events: &[Value]) -> Vec<&str> {
    let names = events.iter().filter_map(|event| event["type"].as_str());
    let mut names: Vec<&str> = names
        .map(|name| name.trim_start_matches("response."))
        .collect();
    names.dedup();
    names
}

#[test]
fn a_text_is_a_message_with_one_part() {
    let body = whole(
        answer(false, CallLimit::None, None),
        &["Aisle ", "7."],
        FinishReason::Stop,
    );
    assert_eq!(body["status"], "completed");
    assert!(body["completed_at"].is_u64());
    let part =
        json!({"type": "output_text", "text": "Aisle 7.", "annotations": [], "logprobs": []});
    assert_eq!(body["output"][0]["content"], json!([part]));
    assert_eq!(body["output"][0]["status"], "completed");
    let usage = json!({
        "input_tokens": 10,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 2},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 15,
    });
    assert_eq!(body["usage"], usage);
}

#[test]
fn thoughts_text_and_calls_are_items_of_their_own_in_their_order() {
    let said = ["<think>", "Hm.", "</think>", "Let me see. ", CALL, CALL];
    let body = whole(
        answer(false, CallLimit::Any, None),
        &said,
        FinishReason::Stop,
    );
    let kinds: Vec<&str> = body["output"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|item| item["type"].as_str())
        .collect();
    let expected = ["reasoning", "message", "function_call", "function_call"];
    assert_eq!(kinds, expected);
    let output = &body["output"];
    assert_eq!(output[0]["content"][0]["type"], "reasoning_text");
    assert_eq!(output[0]["content"][0]["text"], "Hm.");
    assert_eq!(output[2]["arguments"], "{\"a\": 1}");
    assert_ne!(output[2]["call_id"], output[3]["call_id"]);
    assert_ne!(output[2]["call_id"], output[2]["id"]);
    assert!(body["usage"]["output_tokens_details"]["reasoning_tokens"].as_u64() > Some(0));
}

#[test]
fn the_events_of_a_text_come_in_their_order() {
    let answer = answer(true, CallLimit::None, None);
    let events = stream(answer, &["Aisle ", "7."], FinishReason::Stop);
    assert_eq!(
        names(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "output_text.delta",
            "output_text.done",
            "content_part.done",
            "output_item.done",
            "completed",
        ]
    );
    let created = &events[0]["response"];
    assert_eq!(created["status"], "in_progress");
    assert_eq!(created["output"], json!([]));
    assert!(created.get("usage").is_none());
    assert_eq!(events[2]["item"]["content"], json!([]));
    assert_eq!(events[3]["part"]["text"], "");
    let last = events.last().expect("an end");
    assert_eq!(
        last["response"]["output"][0],
        events[events.len() - 2]["item"]
    );
}

#[test]
fn the_events_of_thoughts_and_calls_come_in_their_order() {
    let said = ["<think>Hm.</think>", CALL];
    let events = stream(
        answer(true, CallLimit::Any, None),
        &said,
        FinishReason::Stop,
    );
    assert_eq!(
        names(&events),
        [
            "created",
            "in_progress",
            "output_item.added",
            "content_part.added",
            "reasoning_text.delta",
            "reasoning_text.done",
            "content_part.done",
            "output_item.done",
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
            "completed",
        ]
    );
    let done = |name: &str| {
        let found = events.iter().find(|event| event["type"] == name);
        found.unwrap_or_else(|| panic!("no {name}"))
    };
    let arguments = done("response.function_call_arguments.done");
    assert_eq!(arguments["arguments"], "{\"a\": 1}");
    assert_eq!(arguments["name"], "f");
    assert_eq!(arguments["output_index"], 1);
    assert_eq!(done("response.reasoning_text.done")["text"], "Hm.");
}

#[test]
fn what_was_cut_off_is_incomplete() {
    let answer = answer(true, CallLimit::None, None);
    let events = stream(answer, &["Aisle "], FinishReason::Length);
    let last = events.last().expect("an end");
    assert_eq!(last["type"], "response.incomplete");
    let reason = &last["response"]["incomplete_details"]["reason"];
    assert_eq!(reason, "max_output_tokens");
    assert_eq!(last["response"]["completed_at"], Value::Null);
    assert_eq!(last["response"]["output"][0]["status"], "incomplete");
}

#[test]
fn a_call_that_is_cut_off_is_incomplete_and_its_markup_is_never_read() {
    let written = format!("Well.\n{CALL}\n{CALL}");
    for end in 7..written.len() {
        let said = [&written[..end]];
        let body = whole(
            answer(false, CallLimit::Any, None),
            &said,
            FinishReason::Length,
        );
        assert_eq!(body["status"], "incomplete");
        let output = body["output"].as_array().expect("a list");
        assert_eq!(output[0]["content"][0]["text"], "Well.\n", "{said:?}");
        for item in &output[1..] {
            assert_eq!(item["type"], "function_call");
            let arguments = item["arguments"].as_str().expect("a text");
            assert!("{\"a\": 1}".starts_with(arguments), "{arguments}");
            let is_whole = item["status"] == "completed";
            assert_eq!(is_whole, arguments == "{\"a\": 1}");
        }
        let answer = answer(true, CallLimit::Any, None);
        let events = stream(answer, &said, FinishReason::Length);
        let last = &events.last().expect("an end")["response"];
        let told = |response: &Value| -> Vec<Value> {
            let items = response["output"].as_array().into_iter().flatten();
            items
                .map(|item| json!([item["type"], item["status"], item["arguments"]]))
                .collect()
        };
        assert_eq!(told(last), told(&body));
    }
}

#[test]
fn a_call_that_the_model_left_in_the_middle_is_none_to_be_made() {
    let broken = "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1";
    let mut ended = answer(false, CallLimit::Any, None);
    let _ = ended.text(0, &say(broken));
    let _ = ended.end(0, &finished(FinishReason::Stop));
    assert_eq!(ResponseRenderer::outcome(&ended), AnswerOutcome::Stop);
    assert_eq!(ended.response.output.len(), 1);
    let body: Value = serde_json::from_str(&ended.whole(spent())).expect("JSON");
    assert_eq!(body["output"][0]["status"], "incomplete");
}

#[test]
fn one_call_is_taken_where_more_are_not_wanted() {
    let body = whole(
        answer(false, CallLimit::One, None),
        &[CALL, CALL],
        FinishReason::Stop,
    );
    assert_eq!(body["output"].as_array().map(Vec::len), Some(1));
}

#[test]
fn who_says_nothing_has_said_an_empty_message() {
    let body = whole(answer(false, CallLimit::Any, None), &[], FinishReason::Stop);
    assert_eq!(body["output"][0]["content"][0]["text"], "");
}

#[test]
fn a_failure_ends_the_stream_with_what_there_was() {
    let mut answer = answer(true, CallLimit::None, None);
    let mut frames = answer.opening();
    frames.extend(answer.text(0, &say("Aisle ")));
    let error = ApiError::Job(WorkError::Engine);
    frames.push(answer.failure(&error));
    let events = read(frames);
    let last = events.last().expect("an end");
    assert_eq!(last["type"], "response.failed");
    let response = &last["response"];
    assert_eq!(response["status"], "failed");
    assert_eq!(response["error"]["code"], "server_error");
    assert_eq!(response["output"][0]["status"], "incomplete");
    assert_eq!(response["output"][0]["content"][0]["text"], "Aisle ");
}

#[test]
fn likelihoods_go_with_the_text_that_they_are_of() {
    let mut answer = answer(true, CallLimit::Any, None);
    answer.opening();
    let likely = |text: &str, token| AnswerText {
        logprobs: vec![Logprobs {
            token: Token(token),
            logprob: -0.5,
            top: vec![(Token(token), -0.5)],
        }],
        ..say(text)
    };
    let mut frames = answer.text(0, &likely("<think>a</think>", 0));
    frames.extend(answer.text(0, &likely("b", 1)));
    frames.extend(answer.text(0, &likely("c", 2)));
    frames.extend(answer.text(0, &likely(CALL, 3)));
    frames.extend(answer.end(0, &finished(FinishReason::Stop)));
    let Frame::Named(_, last) = ResponseRenderer::close(&mut answer, spent()).remove(0) else {
        panic!("a named event");
    };
    let last: Value = serde_json::from_str(&last).expect("JSON");
    let part = &last["response"]["output"][1]["content"][0];
    assert_eq!(part["text"], "bc");
    let tokens: Vec<&str> = part["logprobs"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|found| found["token"].as_str())
        .collect();
    assert_eq!(tokens, ["b", "c"]);
    assert_eq!(part["logprobs"][0]["top_logprobs"][0]["bytes"], json!([98]));
}

#[tokio::test]
async fn a_response_is_stored_before_its_client_knows_that_it_ended() {
    let store = ResponseStore::new(StoreLimits {
        responses: 1,
        bytes: 1 << 20,
        age: Duration::from_secs(1),
    });
    let store = store.of(&Arc::new(Principal::anyone()));
    let keeping = StoreTarget {
        store: store.clone(),
        input: Vec::new(),
    };
    let answer = answer(true, CallLimit::None, Some(keeping));
    let id = answer.response.id.clone();
    assert!(store.find(&id).is_none());
    let events = stream(answer, &["Aisle 7."], FinishReason::Stop);
    let stored = store.find(&id).expect("stored");
    let body: Value = serde_json::from_str(&stored.body).expect("JSON");
    assert_eq!(body, events.last().expect("an end")["response"]);
    assert_eq!(stored.output.len(), 1);
}

#[test]
fn a_response_that_its_deadline_cut_off_is_incomplete_and_says_why() {
    let mut answer = answer(false, CallLimit::Any, None);
    drop(answer.opening());
    drop(answer.text(0, &say("Aisle ")));
    let late = AnswerEnd {
        is_late: true,
        ..finished(FinishReason::Length)
    };
    drop(answer.end(0, &late));
    let body: Value = serde_json::from_str(&answer.whole(spent())).expect("JSON");
    assert_eq!(body["status"], "incomplete");
    assert_eq!(body["incomplete_details"]["reason"], "max_output_tokens");
    assert_eq!(body["edgellm"]["deadline"], true);
}
