//! What the client gets: one completion object, or its chunks.

use serde_json::{Value, json};

use crate::prompt::{Part, ToolCallParser};
use crate::scheduler::{Class, FinishReason, Finished};

use super::validate::{Output, ToolCalls};

/// What every object of an answer repeats.
#[derive(Debug, Clone)]
pub(super) struct Header {
    id: String,
    created: u64,
    model: String,
    fingerprint: String,
    /// Echoed to requests that name one.
    tier: Option<Class>,
}

impl Header {
    /// A new id; the fingerprint says which model file answers.
    pub(super) fn new(model: &str, digest: &str, created: u64, tier: Option<Class>) -> Self {
        Self {
            id: format!("chatcmpl-{}", uuid::Uuid::new_v4().simple()),
            created,
            model: model.to_owned(),
            fingerprint: format!("fp_{}", digest.get(..10).unwrap_or(digest)),
            tier,
        }
    }
}

/// Turns generated text into content and tool calls, whole or in chunks.
#[derive(Debug)]
pub(super) struct Answer {
    header: Header,
    output: Output,
    /// Present while tool calls are looked for.
    parser: Option<ToolCallParser>,
    content: String,
    calls: Vec<Value>,
}

/// A completed object.
pub(super) struct Complete {
    pub(super) json: Value,
    pub(super) finish_reason: &'static str,
}

/// The end of a stream.
pub(super) struct End {
    pub(super) chunks: Vec<String>,
    pub(super) finish_reason: &'static str,
}

impl Answer {
    pub(super) fn new(header: Header, output: Output) -> Self {
        Self {
            header,
            output,
            parser: (output.tool_calls != ToolCalls::None).then(ToolCallParser::new),
            content: String::new(),
            calls: Vec::new(),
        }
    }

    /// Adds generated text to the whole.
    pub(super) fn collect(&mut self, text: &str) {
        let parts = self.parse(text);
        self.take(parts, |_| {});
    }

    /// The completion object.
    pub(super) fn complete(mut self, finished: &Finished) -> Complete {
        let rest = self.rest();
        self.take(rest, |_| {});
        let finish_reason = self.finish_reason(finished.reason);
        let has_calls = !self.calls.is_empty();
        let content = if has_calls && self.content.is_empty() {
            Value::Null
        } else {
            Value::String(std::mem::take(&mut self.content))
        };
        let mut message = json!({
            "role": "assistant",
            "content": content,
            "refusal": null,
        });
        if has_calls {
            message["tool_calls"] = Value::Array(std::mem::take(&mut self.calls));
        }
        let mut json = self.envelope("chat.completion");
        json["choices"] = json!([{
            "index": 0,
            "message": message,
            "logprobs": null,
            "finish_reason": finish_reason,
        }]);
        json["usage"] = usage(finished);
        Complete {
            json,
            finish_reason,
        }
    }

    /// The chunk that opens a stream: it carries the role alone.
    pub(super) fn first_chunk(&self) -> String {
        let delta = json!({"role": "assistant", "content": "", "refusal": null});
        self.chunk(&delta, None)
    }

    /// Chunks for more generated text.
    pub(super) fn chunks(&mut self, text: &str) -> Vec<String> {
        let parts = self.parse(text);
        self.deltas(parts)
    }

    /// What was held back, the finish reason, and the usage if it was asked for.
    pub(super) fn last_chunks(&mut self, finished: &Finished) -> End {
        let rest = self.rest();
        let mut chunks = self.deltas(rest);
        let finish_reason = self.finish_reason(finished.reason);
        chunks.push(self.chunk(&json!({}), Some(finish_reason)));
        if self.output.usage_chunk {
            let mut json = self.envelope("chat.completion.chunk");
            json["choices"] = json!([]);
            json["usage"] = usage(finished);
            chunks.push(json.to_string());
        }
        End {
            chunks,
            finish_reason,
        }
    }

    fn deltas(&mut self, parts: Vec<Part>) -> Vec<String> {
        let mut deltas = Vec::new();
        self.take(parts, |delta| deltas.push(delta));
        deltas.iter().map(|delta| self.chunk(delta, None)).collect()
    }

    fn parse(&mut self, text: &str) -> Vec<Part> {
        match &mut self.parser {
            Some(parser) => parser.push(text),
            None => vec![Part::Text(text.to_owned())],
        }
    }

    fn rest(&mut self) -> Vec<Part> {
        self.parser
            .take()
            .map(ToolCallParser::finish)
            .unwrap_or_default()
    }

    /// Keeps what a whole answer needs and tells what a stream sends. A stream keeps its
    /// calls too, for their indices and the finish reason.
    fn take(&mut self, parts: Vec<Part>, mut delta: impl FnMut(Value)) {
        for part in parts {
            match part {
                Part::Text(text) if self.output.stream => delta(json!({"content": text})),
                Part::Text(text) => self.content.push_str(&text),
                Part::Call { name, arguments } => {
                    if self.output.tool_calls == ToolCalls::One && !self.calls.is_empty() {
                        continue;
                    }
                    let call = json!({
                        "id": format!("call_{}", uuid::Uuid::new_v4().simple()),
                        "type": "function",
                        "function": {"name": name, "arguments": arguments},
                    });
                    let mut streamed = json!({"index": self.calls.len()});
                    if let (Some(to), Some(from)) = (streamed.as_object_mut(), call.as_object()) {
                        to.extend(from.clone());
                    }
                    delta(json!({"tool_calls": [streamed]}));
                    self.calls.push(call);
                }
            }
        }
    }

    fn finish_reason(&self, reason: FinishReason) -> &'static str {
        match reason {
            FinishReason::Length => "length",
            FinishReason::Stop if self.calls.is_empty() => "stop",
            FinishReason::Stop => "tool_calls",
        }
    }

    fn chunk(&self, delta: &Value, finish_reason: Option<&str>) -> String {
        let mut json = self.envelope("chat.completion.chunk");
        json["choices"] = json!([{
            "index": 0,
            "delta": delta,
            "logprobs": null,
            "finish_reason": finish_reason,
        }]);
        if self.output.usage_chunk {
            json["usage"] = Value::Null;
        }
        json.to_string()
    }

    fn envelope(&self, object: &str) -> Value {
        let mut json = json!({
            "id": self.header.id,
            "object": object,
            "created": self.header.created,
            "model": self.header.model,
            "system_fingerprint": self.header.fingerprint,
        });
        if let Some(tier) = self.header.tier {
            json["service_tier"] = tier.as_str().into();
        }
        json
    }
}

fn usage(finished: &Finished) -> Value {
    let mut usage = json!({
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.generated_tokens,
        "total_tokens": finished.prompt_tokens + finished.generated_tokens,
        "prompt_tokens_details": {"cached_tokens": finished.cached_tokens},
    });
    if let Some(predicted) = finished.predicted_tokens {
        usage["completion_tokens_details"] = json!({
            "accepted_prediction_tokens": predicted.accepted,
            "rejected_prediction_tokens": predicted.rejected,
        });
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scheduler::Timings;

    const CALL: &str = "<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": 1}}\n</tool_call>";

    fn answer(stream: bool, tool_calls: ToolCalls) -> Answer {
        let output = Output {
            stream,
            usage_chunk: true,
            tool_calls,
        };
        Answer::new(
            Header::new("kiosk", "0123456789abcdef", 1, Some(Class::Flex)),
            output,
        )
    }

    fn finished() -> Finished {
        Finished {
            reason: FinishReason::Stop,
            prompt_tokens: 10,
            cached_tokens: 8,
            generated_tokens: 5,
            predicted_tokens: None,
            energy_joules: None,
            timings: Timings::default(),
        }
    }

    #[test]
    fn a_whole_answer_carries_text_usage_and_reason() {
        let mut answer = answer(false, ToolCalls::None);
        answer.collect("Oat milk ");
        answer.collect("costs $3.49.");
        let body = answer.complete(&finished()).json;
        let choice = &body["choices"][0];
        assert_eq!(choice["message"]["content"], "Oat milk costs $3.49.");
        assert_eq!(choice["finish_reason"], "stop");
        assert_eq!(body["usage"]["total_tokens"], 15);
        assert_eq!(body["service_tier"], "flex");
        assert_eq!(body["usage"]["prompt_tokens_details"]["cached_tokens"], 8);
    }

    #[test]
    fn a_tool_call_is_no_content() {
        let mut answer = answer(false, ToolCalls::Any);
        answer.collect(CALL);
        let body = answer.complete(&finished()).json;
        let message = &body["choices"][0]["message"];
        assert_eq!(message["content"], Value::Null);
        assert_eq!(message["tool_calls"][0]["function"]["name"], "f");
        assert_eq!(body["choices"][0]["finish_reason"], "tool_calls");
    }

    #[test]
    fn only_one_call_where_parallel_calls_are_not_wanted() {
        let mut answer = answer(false, ToolCalls::One);
        answer.collect(&format!("{CALL}\n{CALL}"));
        let body = answer.complete(&finished()).json;
        let calls = body["choices"][0]["message"]["tool_calls"].as_array();
        assert_eq!(calls.map(Vec::len), Some(1));
    }

    #[test]
    fn a_stream_ends_with_reason_then_usage_without_choices() {
        let mut answer = answer(true, ToolCalls::Any);
        let mut chunks = vec![answer.first_chunk()];
        chunks.extend(answer.chunks("Hello"));
        chunks.extend(answer.chunks(CALL));
        chunks.extend(answer.last_chunks(&finished()).chunks);
        let chunks: Vec<Value> = chunks
            .iter()
            .map(|chunk| serde_json::from_str(chunk).expect("JSON"))
            .collect();
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let [.., reason, usage] = chunks.as_slice() else {
            panic!("too few chunks");
        };
        assert_eq!(reason["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["completion_tokens"], 5);
        assert!(chunks.iter().all(|chunk| chunk["id"] == chunks[0]["id"]));
        let call = &chunks[2]["choices"][0]["delta"]["tool_calls"][0];
        assert_eq!(
            (call["index"].as_u64(), call["function"]["name"].as_str()),
            (Some(0), Some("f"))
        );
    }
}
