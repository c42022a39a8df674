//! What a client may write, and what it is told otherwise.

use serde_json::{Map, Value, json};

use super::*;
use crate::engine::SamplingDefaults;
use crate::http::parse::read_value;
use crate::inference::params::OutputFormat;
use crate::prompt::{PromptEnd, is_exact_number};

fn chat(body: Value) -> Result<ValidChatRequest, ApiError> {
    ValidChatRequest::try_from(
        serde_json::from_value::<wire::ChatCompletionRequest>(body).expect("of the right types"),
    )
}

fn with(extra: Value) -> Result<ValidChatRequest, ApiError> {
    let mut body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let (Some(body_map), Value::Object(extra)) = (body.as_object_mut(), extra) else {
        panic!("objects");
    };
    body_map.extend(extra);
    chat(body)
}

fn refused(extra: Value) -> (String, Option<&'static str>) {
    let error = with(extra).expect_err("refused");
    let body = error.body();
    let code = matches!(error, ApiError::Unsupported { .. }).then_some("unsupported_parameter");
    (
        body["error"]["param"].as_str().unwrap_or("").to_owned(),
        code,
    )
}

#[test]
fn numbers_out_of_range_are_refused_by_name() {
    for (param, value) in [
        ("temperature", json!(2.1)),
        ("temperature", json!(-0.1)),
        ("top_p", json!(1.5)),
        ("top_k", json!(-2)),
        ("min_p", json!(-1)),
        ("presence_penalty", json!(3)),
        ("frequency_penalty", json!(-3)),
        ("repeat_penalty", json!(0)),
        ("max_tokens", json!(0)),
        ("max_completion_tokens", json!(-5)),
        ("n", json!(0)),
        ("n", json!(129)),
        ("top_logprobs", json!(3)),
        ("tool_choice", json!("required")),
        ("stream_options", json!({"include_usage": true})),
        ("reasoning_effort", json!("extreme")),
        ("metadata", json!({"a": 1})),
        ("stop", json!("")),
        ("service_tier", json!("scale")),
        ("stop", json!(vec!["a"; 65])),
        ("stop", json!("a".repeat(1025))),
        ("stop", json!(vec!["a".repeat(1024); 5])),
        ("messages", json!([])),
    ] {
        let mut extra = Map::new();
        extra.insert(param.to_owned(), value);
        assert_eq!(refused(Value::Object(extra)), (param.to_owned(), None));
    }
}

#[test]
fn a_top_k_of_0_or_minus_1_means_all_tokens() {
    let top_k = |asked: i64| {
        let chat = with(json!({"top_k": asked})).expect("accepted");
        let model = SamplingDefaults {
            top_k: Some(40),
            ..Default::default()
        };
        chat.params.sampling.resolve(&model, 0, 0).top_k
    };
    assert_eq!([-1, 0, 1, 40].map(top_k), [0, 0, 1, 40]);
}

#[test]
fn an_answer_goes_on_with_the_last_message_where_that_is_asked_for() {
    let begun = |more: Value| {
        let mut body = json!({"messages": [
            {"role": "user", "content": "Say a letter."},
            {"role": "assistant", "content": [{"type": "text", "text": "It is"}]},
        ]});
        let more = more.as_object().expect("an object").clone();
        body.as_object_mut().expect("an object").extend(more);
        chat(body)
    };
    for (asked, end) in [
        (json!({}), PromptEnd::OpenAnswer),
        (json!({"continue_final_message": true}), PromptEnd::LastText),
        (
            json!({"continue_final_message": true, "add_generation_prompt": false}),
            PromptEnd::LastText,
        ),
        (
            json!({"add_generation_prompt": false}),
            PromptEnd::LastMessage,
        ),
    ] {
        assert_eq!(begun(asked).expect("accepted").conversation.end, end);
    }
    for more in [
        json!({"add_generation_prompt": true}),
        json!({"response_format": {"type": "json_object"}}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"}),
        json!({"messages": [{"role": "user", "content": "a"}]}),
    ] {
        let mut asked = json!({"continue_final_message": true});
        asked
            .as_object_mut()
            .expect("an object")
            .extend(more.as_object().expect("an object").clone());
        let error = begun(asked).expect_err("refused").body();
        assert_eq!(error["error"]["param"], "continue_final_message", "{more}");
    }
}

#[test]
fn what_is_known_and_not_built_is_refused_by_name() {
    for (param, value) in [
        ("store", json!(true)),
        ("functions", json!([])),
        ("modalities", json!(["text", "audio"])),
        ("verbosity", json!("high")),
    ] {
        let mut extra = Map::new();
        extra.insert(param.to_owned(), value);
        let code = Some("unsupported_parameter");
        assert_eq!(refused(Value::Object(extra)), (param.to_owned(), code));
    }
}

#[test]
fn a_prediction_is_text_in_either_form() {
    for content in [
        json!("a b"),
        json!([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]),
    ] {
        let chat = with(json!({"prediction": {"type": "content", "content": content}}));
        assert_eq!(
            chat.expect("valid").params.prediction.as_deref(),
            Some("a b")
        );
    }
    let other = json!({"prediction": {"type": "tool", "content": "x"}});
    let code = Some("unsupported_parameter");
    assert_eq!(refused(other), ("prediction.type".to_owned(), code));
}

#[test]
fn harmless_values_and_unknown_keys_pass() {
    let chat = with(json!({
        "n": 1, "logprobs": false, "store": false, "service_tier": "auto",
        "response_format": {"type": "text"}, "user": "till 3", "metadata": {"a": "b"},
        "prompt_cache_key": "x", "temperature": null, "something_new": [1, 2],
    }))
    .expect("accepted");
    assert_eq!(chat.output.calls, CallLimit::None);
}

#[test]
fn text_parts_are_joined_and_other_parts_refused() {
    let message = |parts: Value| json!({"messages": [{"role": "user", "content": parts}]});
    let chat = chat(message(json!([
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
    ])))
    .expect("text");
    assert_eq!(chat.conversation.messages[0].content.as_deref(), Some("ab"));
    let error = self::chat(message(
        json!([{"type": "image_url", "image_url": {"url": "x"}}]),
    ));
    let body = error.expect_err("an image").body();
    assert_eq!(body["error"]["param"], "messages[0].content[0].type");
}

#[test]
fn tools_keep_the_order_of_their_keys_and_none_hides_them() {
    let tool = json!({"type": "function", "function": {
        "name": "f", "description": "d", "parameters": {"type": "object", "properties": {}},
    }});
    let offered = with(json!({"tools": [tool]})).expect("accepted");
    assert_eq!(offered.output.calls, CallLimit::Any);
    assert_eq!(offered.conversation.tools[0].to_string(), tool.to_string());
    let hidden = with(json!({"tools": [tool], "tool_choice": "none"})).expect("accepted");
    assert!(hidden.conversation.tools.is_empty());
}

#[test]
fn the_arguments_of_an_earlier_call_are_an_object_or_what_the_model_wrote() {
    let body = |arguments: &str| {
        json!({"messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}},
            ]},
            {"role": "tool", "tool_call_id": "1", "content": "3"},
        ]})
    };
    for (written, shown) in [
        ("{\"a\": 1}", json!({"a": 1})),
        ("", json!({})),
        ("{\"a\": 1", json!("{\"a\": 1")),
        ("5", json!("5")),
    ] {
        let chat = chat(body(written)).expect("accepted");
        let call = &chat.conversation.messages[1].tool_calls[0];
        assert_eq!(call.arguments, shown);
    }
}

#[test]
fn calls_and_their_answers_go_together() {
    let user = json!({"role": "user", "content": "hi"});
    let calls = |ids: &[&str]| {
        let calls = ids.iter().map(|id| {
            json!({"id": id, "type": "function", "function": {"name": "f", "arguments": "{}"}})
        });
        json!({"role": "assistant", "content": null, "tool_calls": calls.collect::<Vec<_>>()})
    };
    let answer = |id: &str| json!({"role": "tool", "tool_call_id": id, "content": "3"});
    let both = calls(&["a", "b"]);
    for messages in [
        json!([user, both, answer("b"), answer("a"), user]),
        json!([user, calls(&["a"]), answer("a"), calls(&["a"]), answer("a")]),
    ] {
        assert!(chat(json!({"messages": messages})).is_ok(), "{messages}");
    }
    for (param, messages) in [
        ("messages[1].role", json!([user, answer("a")])),
        (
            "messages[4].role",
            json!([user, calls(&["a"]), answer("a"), user, answer("a")]),
        ),
        ("messages[2].tool_call_id", json!([user, both, answer("c")])),
        (
            "messages[1].tool_calls",
            json!([user, both, answer("b"), user, answer("a")]),
        ),
        ("messages[1].tool_calls", json!([user, both, answer("b")])),
        ("messages[1].tool_calls", json!([user, both])),
    ] {
        let error = chat(json!({"messages": messages})).expect_err("refused");
        assert_eq!(error.body()["error"]["param"], param, "{messages}");
    }
}

#[test]
fn content_without_parts_is_refused() {
    for role in ["user", "system", "assistant"] {
        let message = json!({"role": role, "content": []});
        let error = chat(json!({"messages": [message]})).expect_err("empty");
        assert_eq!(error.body()["error"]["param"], "messages[0].content");
    }
}

#[test]
fn a_request_overrides_the_model_and_the_model_overrides_openai() {
    let model = SamplingDefaults {
        temperature: Some(0.0),
        top_p: Some(0.5),
        ..SamplingDefaults::default()
    };
    let params = with(json!({"top_p": 0.9}))
        .expect("accepted")
        .params
        .sampling
        .resolve(&model, 7, 0);
    assert_eq!(
        (params.temperature, params.top_p, params.seed),
        (0.0, 0.9, 7)
    );
}

#[test]
fn a_schema_is_refused_at_its_place() {
    let format = |schema: Value| {
        json!({"response_format": {"type": "json_schema", "json_schema": {
            "name": "answer", "strict": true, "schema": schema,
        }}})
    };
    let (param, _) = refused(format(json!({"type": "object", "properties": {}})));
    assert_eq!(
        param,
        "response_format.json_schema.schema.additionalProperties"
    );
    let closed = json!({"type": "object", "properties": {}, "additionalProperties": false});
    let chat = with(format(closed)).expect("strict");
    assert!(matches!(chat.params.format, OutputFormat::Json(_)));
}

#[test]
fn a_tool_can_be_named_and_its_schema_is_checked() {
    let tool = |strict: bool| {
        json!({"type": "function", "function": {
            "name": "f", "strict": strict, "parameters": {"type": "object", "properties": {}},
        }})
    };
    let named = json!({"type": "function", "function": {"name": "f"}});
    let chat = with(json!({"tools": [tool(false)], "tool_choice": named})).expect("valid");
    assert!(matches!(chat.params.format, OutputFormat::Calls { .. }));
    let (param, _) = refused(json!({"tools": [tool(true)]}));
    assert_eq!(param, "tools[0].function.parameters.additionalProperties");
    let other = json!({"type": "function", "function": {"name": "g"}});
    let (param, _) = refused(json!({"tools": [tool(false)], "tool_choice": other}));
    assert_eq!(param, "tool_choice");
    let allowed = json!({"type": "allowed_tools", "allowed_tools": {
        "mode": "required", "tools": [{"type": "function", "function": {"name": "f"}}],
    }});
    let chat = with(json!({"tools": [tool(false)], "tool_choice": allowed})).expect("valid");
    assert!(matches!(chat.params.format, OutputFormat::Calls { .. }));
}

#[test]
fn what_an_assistant_refused_comes_back_as_its_text() {
    let user = json!({"role": "user", "content": "hi"});
    let part = json!({"type": "refusal", "refusal": "No."});
    let text = json!({"type": "text", "text": "Well. "});
    for (said, expected) in [
        (json!({"content": [part]}), "No."),
        (json!({"content": [text, part]}), "Well. No."),
        (json!({"content": null, "refusal": "No."}), "No."),
        (json!({"refusal": "No."}), "No."),
        (json!({"content": "Well.", "refusal": null}), "Well."),
        (
            json!({"content": "Well.", "refusal": "No."}),
            "Well.\n\nNo.",
        ),
        (json!({"content": "", "refusal": "No."}), "No."),
        (json!({"content": "Well.", "refusal": ""}), "Well."),
    ] {
        let mut message = said;
        message["role"] = json!("assistant");
        let chat = chat(json!({"messages": [user, message, user]})).expect("accepted");
        assert_eq!(
            chat.conversation.messages[1].content.as_deref(),
            Some(expected)
        );
    }
    for (param, message) in [
        (
            "messages[0].content[0].type",
            json!({"role": "user", "content": [part]}),
        ),
        (
            "messages[0].content[0].refusal",
            json!({"role": "assistant", "content": [{"type": "refusal"}]}),
        ),
        (
            "messages[0].content",
            json!({"role": "user", "refusal": "No."}),
        ),
        (
            "messages[0].content",
            json!({"role": "assistant", "content": null}),
        ),
    ] {
        let error = chat(json!({"messages": [message]})).expect_err("refused");
        assert_eq!(error.body()["error"]["param"], param);
    }
}

#[test]
fn the_model_is_shown_numbers_of_tools_as_they_are_written() {
    let body = br#"{"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function",
        "x": 1, "function": {"description": "d", "name": "f", "parameters": {"type": "object",
        "properties": {"a": {"const": 12345678901234567890123, "minimum": 5}}}}}]}"#;
    let request: wire::ChatCompletionRequest = read_value(body).expect("a request");
    let chat = ValidChatRequest::try_from(request).expect("a hint is never an error");
    let shown = chat.conversation.tools[0].to_string();
    let name = r#"{"type":"function","function":{"name":"f","description":"d","#;
    assert!(
        shown.starts_with(name) && shown.ends_with(r#","x":1}"#),
        "{shown}"
    );
    let property = &chat.conversation.tools[0]["function"]["parameters"]["properties"]["a"];
    let number = property["const"].as_str().expect("kept as it is written");
    assert!(is_exact_number(number) && number.ends_with(":12345678901234567890123"));
    assert_eq!(property["minimum"], 5);
}

#[test]
fn a_schema_may_stand_where_llama_cpp_and_vllm_have_it() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
    for asked in [
        json!({"response_format": {"type": "json_object", "schema": schema}}),
        json!({"response_format": {"type": "json_schema", "schema": schema}}),
        json!({"structured_outputs": {"json": schema}}),
        json!({"structured_outputs": {"json_object": true}}),
        json!({"guided_json": schema}),
        json!({"guided_json": schema.to_string()}),
        json!({"json_schema": schema}),
    ] {
        let chat = with(asked.clone()).expect("accepted");
        assert!(
            matches!(chat.params.format, OutputFormat::Json(_)),
            "{asked}"
        );
    }
    let bad = json!(5);
    for (param, asked) in [
        (
            "response_format.schema",
            json!({"response_format": {"type": "json_object", "schema": bad}}),
        ),
        (
            "response_format.schema",
            json!({"response_format": {"type": "text", "schema": schema}}),
        ),
        ("guided_json", json!({"guided_json": bad})),
        (
            "guided_json",
            json!({"guided_json": schema, "response_format": {"type": "json_object"}}),
        ),
        (
            "structured_outputs.regex",
            json!({"structured_outputs": {"regex": "a+"}}),
        ),
        ("guided_choice", json!({"guided_choice": ["a", "b"]})),
        ("guided_regex", json!({"guided_regex": "a"})),
        ("grammar", json!({"grammar": "root ::= \"a\""})),
    ] {
        assert!(refused(asked.clone()).0.starts_with(param), "{asked}");
    }
}

#[test]
fn variables_of_the_template_are_taken_and_other_templates_refused() {
    let chat = with(json!({"chat_template_kwargs": {"enable_thinking": false}})).expect("accepted");
    assert_eq!(
        chat.conversation.template_kwargs["enable_thinking"],
        json!(false)
    );
    for (param, asked) in [
        (
            "chat_template_kwargs.messages",
            json!({"chat_template_kwargs": {"messages": []}}),
        ),
        ("chat_template", json!({"chat_template": "{{ messages }}"})),
        ("documents", json!({"documents": []})),
        (
            "continue_final_message",
            json!({"continue_final_message": true}),
        ),
    ] {
        assert_eq!(refused(asked).0, param);
    }
}
