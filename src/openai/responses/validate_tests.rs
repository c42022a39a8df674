//! What a client may write, and what it is told otherwise.

use serde_json::{Value, json};

use super::*;
use crate::field::FieldPath;
use crate::inference::params::OutputFormat;
use crate::openai::responses::items::{ItemPart, ItemRole, ResponseItem};
use crate::openai::responses::turns::Turns;
use crate::prompt;

fn with(extra: Value) -> Result<ValidResponseRequest, ApiError> {
    let mut body = json!({"input": "hi"});
    let (Some(all), Value::Object(extra)) = (body.as_object_mut(), extra) else {
        panic!("objects");
    };
    all.extend(extra);
    ValidResponseRequest::try_from(understand::<wire::ResponseRequest>("", &body)?)
}

/// The parameter that is named.
fn refused(extra: Value) -> String {
    let body = with(extra).expect_err("refused").body();
    let message = body["error"]["message"].as_str().expect("words");
    let param = body["error"]["param"].as_str().expect("a parameter");
    assert!(message.contains(param), "{message}");
    param.to_owned()
}

/// The turns of an input.
fn turns(input: &Value) -> Result<Vec<prompt::Message>, ApiError> {
    let asked = with(json!({"input": input}))?;
    let mut turns = Turns::new(Some("Be brief."), usize::MAX);
    for (index, given) in asked.input.iter().enumerate() {
        let ResponseItemInput::Item(item) = given else {
            panic!("no references here");
        };
        turns.add(item, &FieldPath::from("input").index(index))?;
    }
    Ok(turns.into_messages())
}

#[test]
fn a_text_is_a_message_of_the_user() {
    let asked = with(json!({})).expect("valid");
    let [ResponseItemInput::Item(ResponseItem::Message { role, content, .. })] = &asked.input[..]
    else {
        panic!("one message");
    };
    let text = "hi".to_owned();
    assert_eq!(*role, ItemRole::User);
    assert_eq!(content[..], [ItemPart::InputText { text }]);
    assert!(asked.echo.store && asked.echo.tools.is_empty());
}

#[test]
fn items_become_the_turns_that_templates_know() {
    let turns = turns(&json!([
        {"role": "user", "content": [{"type": "input_text", "text": "Where is "}, {"type": "input_text", "text": "it?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Let me see.", "annotations": []}]},
        {"type": "function_call", "call_id": "call_1", "name": "find", "arguments": "{\"a\": 1}"},
        {"type": "function_call", "call_id": "call_2", "name": "find", "arguments": ""},
        {"type": "function_call_output", "call_id": "call_1", "output": "aisle 7"},
        {"type": "function_call_output", "call_id": "call_2", "output": [{"type": "input_text", "text": "aisle 8"}]},
        {"role": "developer", "content": "Be kind."},
    ]))
    .expect("valid");
    let roles: Vec<prompt::Role> = turns.iter().map(|turn| turn.role).collect();
    assert_eq!(
        roles,
        [
            prompt::Role::System,
            prompt::Role::User,
            prompt::Role::Assistant,
            prompt::Role::Tool,
            prompt::Role::Tool,
            prompt::Role::Developer,
        ]
    );
    assert_eq!(turns[1].content.as_deref(), Some("Where is it?"));
    assert_eq!(turns[2].content.as_deref(), Some("Let me see."));
    let arguments: Vec<&Value> = turns[2].tool_calls.iter().map(|c| &c.arguments).collect();
    assert_eq!(arguments, [&json!({"a": 1}), &json!({})]);
    assert_eq!(turns[4].tool_call_id.as_deref(), Some("call_2"));
    assert_eq!(turns[4].content.as_deref(), Some("aisle 8"));
}

#[test]
fn a_call_that_was_cut_off_is_no_turn() {
    let call = json!({"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{\"a", "status": "incomplete"});
    assert_eq!(turns(&json!([call])).expect("valid").len(), 1);
}

#[test]
fn an_output_needs_its_call() {
    let output = json!({"type": "function_call_output", "call_id": "call_9", "output": "aisle 7"});
    let error = turns(&json!([output])).expect_err("refused").body();
    assert_eq!(error["error"]["param"], "input[0].call_id");
}

#[test]
fn what_is_wrong_about_items_is_named() {
    for (item, param) in [
        (json!(5), "input[0]"),
        (json!({}), "input[0].type"),
        (json!({"type": 5}), "input[0].type"),
        (json!({"type": "song"}), "input[0].type"),
        (
            json!({"type": "web_search_call", "id": "ws_1"}),
            "input[0].type",
        ),
        (json!({"role": "user"}), "input[0].content"),
        (json!({"role": "tool", "content": "x"}), "input[0].role"),
        (json!({"role": "user", "content": 5}), "input[0].content"),
        (json!({"role": "user", "content": []}), "input[0].content"),
        (
            json!({"role": "user", "content": [{"type": "input_text"}]}),
            "input[0].content[0].text",
        ),
        (
            json!({"role": "user", "content": [{"type": "input_text", "text": 5}]}),
            "input[0].content[0].text",
        ),
        (
            json!({"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}),
            "input[0].content[0].type",
        ),
        (
            json!({"role": "user", "content": [{"type": "output_text", "text": "x"}]}),
            "input[0].content[0].type",
        ),
        (
            json!({"role": "user", "content": "x", "status": "sung"}),
            "input[0].status",
        ),
        (
            json!({"type": "function_call", "name": "f", "arguments": "{}"}),
            "input[0].call_id",
        ),
        (
            json!({"type": "function_call_output", "call_id": "c"}),
            "input[0].output",
        ),
        (json!({"type": "item_reference"}), "input[0].id"),
    ] {
        assert_eq!(refused(json!({"input": [item]})), param, "{item}");
    }
    assert_eq!(refused(json!({"input": null})), "input");
    assert_eq!(refused(json!({"input": []})), "input");
}

#[test]
fn what_cannot_be_honoured_is_refused_by_name() {
    for (extra, param) in [
        (json!({"background": true}), "background"),
        (json!({"conversation": "conv_1"}), "conversation"),
        (json!({"prompt": {"id": "pmpt_1"}}), "prompt"),
        (json!({"truncation": "some"}), "truncation"),
        (json!({"text": {"verbosity": "low"}}), "text.verbosity"),
        (
            json!({"text": {"format": {"type": "xml"}}}),
            "text.format.type",
        ),
        (
            json!({"text": {"format": {"type": "json_schema", "name": "x"}}}),
            "text.format.schema",
        ),
        (
            json!({"text": {"format": {"type": "json_schema", "schema": {}}}}),
            "text.format.name",
        ),
        (
            json!({"include": ["file_search_call.results"]}),
            "include[0]",
        ),
        (json!({"include": ["everything"]}), "include[0]"),
        (
            json!({"reasoning": {"effort": "utmost"}}),
            "reasoning.effort",
        ),
        (
            json!({"reasoning": {"summary": "detailed"}}),
            "reasoning.summary",
        ),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"max_tokens": 5}), "max_tokens"),
        (json!({"messages": []}), "messages"),
        (
            json!({"response_format": {"type": "text"}}),
            "response_format",
        ),
        (json!({"stream_options": {}}), "stream_options"),
        (json!({"json_schema": {}}), "json_schema"),
        (json!({"grammar": "root ::= x"}), "grammar"),
        (json!({"guided_regex": "a"}), "guided_regex"),
        (json!({"guided_choice": ["a"]}), "guided_choice"),
        (json!({"guided_grammar": "a"}), "guided_grammar"),
        (
            json!({"text": {"format": {"type": "json_object", "schema": {}}}}),
            "text.format.schema",
        ),
        (
            json!({"text": {"format": {"type": "text", "schema": {}}}}),
            "text.format.schema",
        ),
        (
            json!({"safety_identifier": "x".repeat(65)}),
            "safety_identifier",
        ),
        (json!({"tools": [{"type": "web_search"}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].name"),
        (
            json!({"tools": [{"type": "function", "name": "f", "strict": "yes"}]}),
            "tools[0].strict",
        ),
        (json!({"tools": [5]}), "tools[0]"),
        (json!({"tool_choice": "sometimes"}), "tool_choice"),
        (json!({"user": "x".repeat(257)}), "user"),
        (
            json!({"prompt_cache_key": "x".repeat(4_000_000)}),
            "prompt_cache_key",
        ),
        (
            json!({"previous_response_id": "x".repeat(257)}),
            "previous_response_id",
        ),
        (json!({"tool_choice": {"type": "mcp"}}), "tool_choice.type"),
        (json!({"metadata": {"a": 5}}), "metadata"),
        (json!({"previous_response_id": 5}), "previous_response_id"),
    ] {
        assert_eq!(refused(extra.clone()), param, "{extra}");
    }
}

#[test]
fn ids_and_names_have_bounds_and_those_of_other_servers_fit() {
    let items = |text: &str| {
        [
            (json!({"role": "user", "content": "x", "id": text}), "id"),
            (json!({"type": "item_reference", "id": text}), "id"),
            (
                json!({"type": "reasoning", "id": text, "summary": []}),
                "id",
            ),
            (
                json!({"type": "function_call", "call_id": text, "name": "f", "arguments": "{}"}),
                "call_id",
            ),
            (
                json!({"type": "function_call", "call_id": "c", "name": text, "arguments": "{}"}),
                "name",
            ),
            (
                json!({"type": "function_call_output", "call_id": text, "output": "x"}),
                "call_id",
            ),
        ]
    };
    for (item, field) in items(&"é".repeat(257)) {
        let param = format!("input[0].{field}");
        assert_eq!(refused(json!({"input": [item]})), param);
    }
    for (item, _) in items(&"é".repeat(256)) {
        assert!(with(json!({"input": [item]})).is_ok(), "{item}");
    }
    let thoughts = json!({"type": "reasoning", "encrypted_content": "x".repeat(1 << 20)});
    assert_eq!(refused(json!({"input": [thoughts]})), "input[0]");
    let described =
        json!({"type": "json_schema", "name": "f", "schema": {}, "description": "x".repeat(8193)});
    assert_eq!(
        refused(json!({"text": {"format": described}})),
        "text.format.description"
    );
}

#[test]
fn a_choice_is_told_again_without_what_was_not_understood_of_it() {
    let tool = json!({"type": "function", "name": "f"});
    let junk = "x".repeat(100_000);
    for (choice, told) in [
        (json!("none"), json!("none")),
        (
            json!({"type": "function", "name": "f", "x": junk}),
            tool.clone(),
        ),
        (
            json!({"type": "allowed_tools", "mode": "auto", "tools": [tool], "x": junk}),
            json!({"type": "allowed_tools", "mode": "auto", "tools": [tool]}),
        ),
    ] {
        let asked = with(json!({"tools": [tool], "tool_choice": choice})).expect("valid");
        assert_eq!(asked.echo.tool_choice, told);
    }
    assert_eq!(with(json!({})).expect("valid").echo.tool_choice, "auto");
    let many = vec![tool.clone(); 129];
    let choice = json!({"type": "allowed_tools", "mode": "auto", "tools": many});
    let body = json!({"tools": [tool], "tool_choice": choice});
    assert_eq!(refused(body), "tool_choice.tools");
}

#[test]
fn tools_that_say_nothing_are_strict_if_they_can_be() {
    let parameters = |required: Value| {
        json!({
            "type": "object",
            "properties": {"aisle": {"type": "integer"}},
            "required": required,
            "additionalProperties": false,
        })
    };
    let tool =
        |required| json!({"type": "function", "name": "f", "parameters": parameters(required)});
    for (required, strict) in [(json!(["aisle"]), true), (json!([]), false)] {
        let asked = with(json!({"tools": [tool(required)]})).expect("valid");
        let told = serde_json::to_value(&asked.echo.tools).expect("JSON");
        assert_eq!(told[0]["strict"], strict);
        assert_eq!(told[0]["parameters"]["type"], "object");
        assert_eq!(asked.tools[0]["function"]["name"], "f");
    }
    let mut strict = tool(json!([]));
    strict["strict"] = json!(true);
    let place = refused(json!({"tools": [strict]}));
    assert!(place.starts_with("tools[0].parameters"), "{place}");
}

#[test]
fn likelihoods_are_told_to_whoever_includes_them_or_asks_for_rivals() {
    let asked = with(json!({"include": ["message.output_text.logprobs"]})).expect("valid");
    assert_eq!(asked.params.logprobs, Some(0));
    let asked = with(json!({"top_logprobs": 3})).expect("valid");
    assert_eq!(
        (asked.params.logprobs, asked.echo.top_logprobs),
        (Some(3), 3)
    );
    assert_eq!(with(json!({})).expect("valid").params.logprobs, None);
}

#[test]
fn a_format_is_told_again_and_obeyed() {
    let format = json!({"type": "json_schema", "name": "place", "strict": false, "schema": {"type": "object"}});
    let asked = with(json!({"text": {"format": format}})).expect("valid");
    assert!(matches!(asked.params.format, OutputFormat::Json(_)));
    let told = serde_json::to_value(&asked.echo.text).expect("JSON");
    assert_eq!(told["format"]["schema"], format["schema"]);
    assert_eq!(told["format"]["name"], "place");
}
