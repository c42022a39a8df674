//! What the objects of an answer hold.

use serde_json::Value;

use super::*;
use crate::admission::ServiceTier;
use crate::engine::Token;
use crate::prompt::{ThoughtTags, ToolFormat};
use crate::sampling::Logprobs as Found;
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

fn answer(stream: bool, calls: CallLimit) -> ChatRenderer {
    let output = ChatOutputOptions {
        stream,
        usage_chunk: true,
        calls,
        logprobs: false,
    };
    let format = (calls != CallLimit::None).then_some(ToolFormat::Hermes);
    with(output, [OutputParser::new(None, format)])
}

fn with<const N: usize>(output: ChatOutputOptions, parsers: [OutputParser; N]) -> ChatRenderer {
    let header = ChatHeader::new("x", "kiosk", "0123456789abcdef", 1, Some(ServiceTier::Flex));
    ChatRenderer::new(header, output, Arc::new(Letters), parsers)
}

fn say(text: &str) -> AnswerText {
    AnswerText {
        text: text.to_owned(),
        tokens: 1,
        logprobs: Vec::new(),
    }
}

fn finished() -> AnswerEnd {
    AnswerEnd {
        reason: FinishReason::Stop,
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

/// The body of an answer of one choice.
fn body(mut answer: ChatRenderer, texts: &[&str]) -> Value {
    for text in texts {
        answer.text(0, &say(text));
    }
    answer.end(0, &finished());
    serde_json::from_str(&answer.whole(spent())).expect("JSON")
}

fn objects(frames: Vec<Frame>) -> Vec<Value> {
    let object = |frame| match frame {
        Frame::Data(data) => serde_json::from_str(&data).ok(),
        _ => None,
    };
    frames.into_iter().filter_map(object).collect()
}

#[test]
fn a_whole_answer_carries_text_usage_and_reason() {
    let body = body(
        answer(false, CallLimit::None),
        &["Oat milk ", "costs $3.49."],
    );
    let choice = &body["choices"][0];
    assert_eq!(choice["message"]["content"], "Oat milk costs $3.49.");
    assert_eq!(choice["finish_reason"], "stop");
    assert_eq!(body["usage"]["total_tokens"], 15);
    assert_eq!(body["service_tier"], "flex");
    assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 8);
}

#[test]
fn a_tool_call_is_no_content() {
    let body = body(answer(false, CallLimit::Any), &[CALL]);
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(
        message["tool_calls"][0]["function"]["arguments"],
        "{\"a\": 1}"
    );
    assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
}

/// The body of an answer that ended for this reason.
fn body_ended(mut answer: ChatRenderer, texts: &[&str], reason: FinishReason) -> Value {
    for text in texts {
        answer.text(0, &say(text));
    }
    let finished = AnswerEnd {
        reason,
        ..finished()
    };
    answer.end(0, &finished);
    serde_json::from_str(&answer.whole(spent())).expect("JSON")
}

#[test]
fn a_call_that_is_cut_off_shows_its_arguments_so_far_and_never_its_markup() {
    let written = "Well.\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";
    for end in 7..written.len() {
        let cut = &written[..end];
        let body = body_ended(answer(false, CallLimit::Any), &[cut], FinishReason::Length);
        let choice = &body["choices"][0];
        assert_eq!(choice["finish_reason"], "length");
        let content = choice["message"]["content"].as_str().expect("a text");
        assert!("Well.\n".starts_with(content), "{content} of {cut}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        if let Some(arguments) = call["arguments"].as_str() {
            assert_eq!(call["name"], "f");
            assert!("{\"a\": 1}".starts_with(arguments), "{arguments} of {cut}");
        }

        let mut streamed = answer(true, CallLimit::Any);
        let mut frames = streamed.text(0, &say(cut));
        let ended = AnswerEnd {
            reason: FinishReason::Length,
            ..finished()
        };
        frames.extend(streamed.end(0, &ended));
        let deltas = objects(frames);
        let sum = |pointer: &str| -> String {
            let texts = deltas
                .iter()
                .filter_map(|delta| delta.pointer(pointer)?.as_str());
            texts.collect()
        };
        assert_eq!(sum("/choices/0/delta/content"), content);
        let arguments = sum("/choices/0/delta/tool_calls/0/function/arguments");
        assert_eq!(arguments, call["arguments"].as_str().unwrap_or_default());
    }
}

#[test]
fn calls_are_the_reason_only_where_all_of_them_can_be_made() {
    for (texts, stream) in [
        (
            ["<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1"],
            false,
        ),
        (
            ["<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": }}</tool_call>"],
            false,
        ),
        (
            ["<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": [1"],
            true,
        ),
    ] {
        let mut broken = answer(stream, CallLimit::Any);
        let _ = broken.text(0, &say(CALL));
        let _ = broken.text(0, &say(texts[0]));
        let _ = broken.end(0, &finished());
        assert_eq!(
            ResponseRenderer::outcome(&broken),
            AnswerOutcome::Stop,
            "{texts:?}"
        );
    }
    for stream in [false, true] {
        let mut whole = answer(stream, CallLimit::Any);
        let _ = whole.text(0, &say(CALL));
        let _ = whole.end(0, &finished());
        assert_eq!(ResponseRenderer::outcome(&whole), AnswerOutcome::ToolCalls);
    }
}

#[test]
fn only_one_call_where_parallel_calls_are_not_wanted() {
    let two = format!("{CALL}\n{CALL}");
    let body = body(answer(false, CallLimit::One), &[&two]);
    let calls = body["choices"][0]["message"]["tool_calls"].as_array();
    assert_eq!(calls.map(Vec::len), Some(1));
}

#[test]
fn thoughts_are_told_apart_and_counted() {
    let tags = ThoughtTags::of("</think>").map(|tags| (tags, true));
    let output = ChatOutputOptions {
        stream: false,
        usage_chunk: false,
        calls: CallLimit::None,
        logprobs: false,
    };
    let answer = with(output, [OutputParser::new(tags, None)]);
    let body = body(answer, &["Hm,", " well", "</think>\n\n", "Yes."]);
    let message = &body["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Hm, well");
    assert_eq!(message["content"], "Yes.");
    let details = &body["usage"]["completion_tokens_details"];
    assert_eq!(details["reasoning_tokens"], 2);
}

#[test]
fn a_stream_ends_with_reason_then_usage_without_choices() {
    let mut answer = answer(true, CallLimit::Any);
    let mut frames = answer.opening();
    frames.extend(answer.text(0, &say("Hello")));
    frames.extend(answer.text(0, &say(CALL)));
    frames.extend(answer.end(0, &finished()));
    frames.extend(answer.close(spent()));
    assert_eq!(frames.last(), Some(&Frame::done()));
    let chunks = objects(frames);
    assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
    let [.., reason, usage] = chunks.as_slice() else {
        panic!("too few chunks");
    };
    assert_eq!(reason["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(usage["choices"], serde_json::json!([]));
    assert_eq!(usage["usage"]["completion_tokens"], 5);
    assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
    let call = |chunk: usize| &chunks[chunk]["choices"][0]["delta"]["tool_calls"][0];
    assert_eq!(call(2)["function"]["name"], "f");
    assert!(call(2)["id"].is_string() && call(3)["id"].is_null());
    assert_eq!(
        (&call(2)["index"], &call(3)["index"]),
        (&0.into(), &0.into())
    );
    assert_eq!(call(3)["function"]["arguments"], "{\"a\": 1}");
}

#[test]
fn likelihoods_come_with_the_text_that_they_are_of() {
    let output = ChatOutputOptions {
        stream: true,
        usage_chunk: false,
        calls: CallLimit::None,
        logprobs: true,
    };
    let mut answer = with(output, [OutputParser::new(None, None)]);
    let text = AnswerText {
        text: "b".to_owned(),
        tokens: 1,
        logprobs: vec![Found {
            token: Token(1),
            logprob: -0.5,
            top: vec![(Token(1), -0.5), (Token(0), f32::NEG_INFINITY)],
        }],
    };
    let chunks = objects(answer.text(0, &text));
    let content = &chunks[0]["choices"][0]["logprobs"]["content"][0];
    assert_eq!(content["token"], "b");
    assert_eq!(content["bytes"], serde_json::json!([98]));
    assert_eq!(content["top_logprobs"][1]["logprob"], -9999.0);
}

#[test]
fn choices_are_told_apart_by_their_index() {
    let output = ChatOutputOptions {
        stream: false,
        usage_chunk: false,
        calls: CallLimit::None,
        logprobs: false,
    };
    let parsers = [OutputParser::new(None, None), OutputParser::new(None, None)];
    let mut answer = with(output, parsers);
    answer.text(1, &say("two"));
    answer.text(0, &say("one"));
    answer.end(1, &finished());
    answer.end(0, &finished());
    let body: Value = serde_json::from_str(&answer.whole(spent())).expect("JSON");
    assert_eq!(body["choices"][1]["index"], 1);
    assert_eq!(body["choices"][1]["message"]["content"], "two");
}

#[test]
fn an_answer_that_its_deadline_cut_off_says_so_where_its_finish_reason_is() {
    let late = AnswerEnd {
        reason: FinishReason::Length,
        is_late: true,
        ..finished()
    };
    let mut whole = answer(false, CallLimit::Any);
    whole.text(0, &say("Aisle"));
    whole.end(0, &late);
    let body: Value = serde_json::from_str(&whole.whole(spent())).expect("JSON");
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["choices"][0]["message"]["content"], "Aisle");
    assert_eq!(body["edgellm"]["deadline"], true);

    let mut streamed = answer(true, CallLimit::Any);
    let mut frames = streamed.text(0, &say("Aisle"));
    frames.extend(streamed.end(0, &late));
    let chunks = objects(frames);
    for chunk in &chunks {
        let ends = chunk["choices"][0]["finish_reason"] == "length";
        assert_eq!(chunk.get("edgellm").is_some(), ends, "{chunk}");
    }
    assert_eq!(chunks.last().expect("chunks")["edgellm"]["deadline"], true);

    let usual = body_ended(
        answer(false, CallLimit::Any),
        &["Aisle"],
        FinishReason::Length,
    );
    assert!(usual.get("edgellm").is_none());
}
