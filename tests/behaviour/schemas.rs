//! Schemas of clients that would end a compiler, or hold it up, cost nobody else anything.

use std::fs;
use std::process::Command;
use std::sync::mpsc::channel;

use serde_json::{Map, Value, json};

use crate::gateway::{Gateway, Response, eventually, question, read, send};

fn with_schema(schema: &Value) -> Value {
    let mut body = question("What do you sell?");
    body["max_tokens"] = json!(2);
    body["response_format"] =
        json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
    body
}

fn ask(gateway: &Gateway, schema: &Value) -> Response {
    gateway.chat(&with_schema(schema))
}

fn named(count: usize, prefix: &str, value: &Value) -> Value {
    let named = (0..count).map(|index| (format!("{prefix}{index}"), value.clone()));
    Value::Object(named.collect())
}

fn names(count: usize, prefix: &str) -> Value {
    (0..count).map(|index| format!("{prefix}{index}")).collect()
}

/// As large as a schema may be: it takes longer than a first try may, and is compiled all the same.
fn largest(prefix: &str) -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object", "properties": named(4900, prefix, &text), "required": names(4900, prefix),
        "additionalProperties": false,
    })
}

/// Its compiler takes more memory and time than it may, and the checks do not know that.
fn too_large() -> Value {
    let text = json!({"type": "string"});
    json!({
        "type": "object", "properties": named(500, "k", &text), "minProperties": 1,
        "additionalProperties": false,
    })
}

/// The processes that compile grammars.
fn compilers(gateway: &Gateway) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("running");
    let children =
        tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok());
    let children: Vec<String> = children.collect();
    let pids = children.iter().flat_map(|line| line.split_whitespace());
    pids.map(str::to_owned).collect()
}

#[test]
fn a_schema_that_would_end_the_compiler_is_refused_and_costs_little() {
    let gateway = Gateway::start();
    let links: Map<_, _> = (0..3000)
        .map(|index| {
            (
                format!("a{index}"),
                json!({"$ref": format!("#/$defs/a{}", index + 1)}),
            )
        })
        .chain([("a3000".to_owned(), json!({}))])
        .collect();
    let behind = json!({"type": "string", "maxLength": 1_000_000_000});
    let null = json!({"type": "null"});
    let large = json!({"type": "object", "properties": named(1000, "k", &null), "required": names(1000, "k")});
    let cut = "é".repeat(200);
    let before = gateway.megabytes("VmHWM");
    for (name, schema) in [
        ("references", json!({"$ref": "#/$defs/a0", "$defs": links})),
        (
            "required",
            json!({"type": "object", "required": names(12_000, "k")}),
        ),
        (
            "patterns",
            json!({"type": "object", "patternProperties": named(400, "^a", &null)}),
        ),
        (
            "alternatives",
            json!({"allOf": [large, {"anyOf": vec![json!({"type": "object"}); 500]}]}),
        ),
        (
            "behind",
            json!({"$ref": "#/x", "x": {"properties": {"a": behind}}}),
        ),
        (
            "counts",
            json!({"type": "object", "maxProperties": 1_000_000_000}),
        ),
        ("memory", too_large()),
        (
            "panic",
            json!({"type": "number", "minimum": format!("x{cut}")}),
        ),
    ] {
        let response = ask(&gateway, &schema);
        assert_eq!(response.status, 400, "{name}: {}", response.body);
        let error = &response.json()["error"];
        let param = error["param"].as_str().unwrap_or_default();
        assert!(
            param.starts_with("response_format.json_schema.schema"),
            "{name}: {error}"
        );
        let message = error["message"].as_str().unwrap_or_default();
        assert!(
            !message.contains("panic") && !message.contains("boundary"),
            "{name}: {error}"
        );
    }
    assert_eq!(ask(&gateway, &json!({"type": "object"})).status, 200);
    let grown = gateway.megabytes("VmHWM") - before;
    assert!(grown < 80, "{grown} MB");
}

#[test]
fn a_grammar_that_its_compiler_cannot_take_holds_up_nothing_else() {
    let gateway = Gateway::start();
    let response = ask(&gateway, &too_large());
    // Which of its limits it meets first depends on the machine.
    let meets = [
        "more memory than a schema may",
        "longer to compile than a schema may",
    ];
    let is_met = |limit: &&str| response.body.contains(*limit);
    assert!(meets.iter().any(is_met), "{}", response.body);
    let enough =
        json!({"type": "object", "properties": {"name": {"type": "string"}}, "minProperties": 1});
    assert_eq!(ask(&gateway, &enough).status, 200);
}

#[test]
fn what_cannot_be_followed_is_refused_at_its_place() {
    let gateway = Gateway::start();
    let digit = json!({"type": "integer", "minimum": 0, "maximum": 9});
    for (culprit, strict, place) in [
        (
            json!({"type": "string", "pattern": "^(?!x)y$"}),
            true,
            "culprit.pattern",
        ),
        (json!({"type": "str"}), false, "culprit.type"),
        (json!({"type": ["string", 5]}), false, "culprit.type"),
        (
            json!({"type": "string", "format": "binary"}),
            true,
            "culprit.format",
        ),
        (
            json!({"type": "integer", "minimum": 5, "maximum": 4}),
            true,
            "culprit",
        ),
        (
            json!({"type": "string", "minLength": 5, "maxLength": 4}),
            false,
            "culprit",
        ),
        (
            json!({"type": "array", "items": {"type": "string", "pattern": "^ab$", "maxLength": 1}, "minItems": 1}),
            false,
            "culprit.items",
        ),
        (
            json!({"type": "number", "multipleOf": 1e-300}),
            false,
            "culprit.multipleOf",
        ),
        (json!({"const": 1e40}), false, "culprit.const"),
    ] {
        let mut properties = named(5, "p", &digit);
        properties["culprit"] = culprit.clone();
        let required = properties
            .as_object()
            .expect("an object")
            .keys()
            .cloned()
            .collect::<Value>();
        let schema = json!({
            "type": "object", "properties": properties, "required": required,
            "additionalProperties": false,
        });
        let mut form = with_schema(&schema);
        form["response_format"]["json_schema"]["strict"] = json!(strict);
        let mut tool = question("What do you sell?");
        tool["tools"] = json!([
            {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
            {"type": "function", "function": {"name": "g", "parameters": schema, "strict": strict}},
        ]);
        tool["tool_choice"] = json!("required");
        for (body, at) in [
            (form, "response_format.json_schema.schema"),
            (tool, "tools[1].function.parameters"),
        ] {
            let response = gateway.chat(&body);
            assert_eq!(response.status, 400, "{culprit}: {}", response.body);
            let param = response.json()["error"]["param"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let expected = format!("{at}.properties.{place}");
            assert_eq!(param, expected, "{}", response.body);
        }
    }
}

#[test]
fn a_compiler_that_was_killed_is_replaced() {
    let gateway = Gateway::start();
    let schema = |name: &str| json!({"type": "object", "properties": {name: {"type": "string"}}});
    assert_eq!(ask(&gateway, &schema("a")).status, 200);
    let killed = compilers(&gateway);
    assert!(!killed.is_empty(), "the case is not hit");
    let status = Command::new("kill").arg("-9").args(&killed).status();
    assert!(status.is_ok_and(|status| status.success()));
    assert_eq!(ask(&gateway, &schema("b")).status, 200);
}

#[test]
fn compilers_end_with_their_server() {
    let mut gateway = Gateway::start();
    assert_eq!(
        ask(&gateway, &json!({"type": "string", "maxLength": 5})).status,
        200
    );
    let compilers = compilers(&gateway);
    assert!(!compilers.is_empty(), "the case is not hit");
    gateway.signal("KILL");
    gateway.exit_code();
    eventually("ended", || {
        let running = |pid: &String| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"edgellm")
        };
        !compilers.iter().any(running)
    });
}

#[test]
fn an_ordinary_schema_overtakes_many_slow_ones() {
    const SLOW: usize = 8;
    let gateway = Gateway::start();
    let (sender, ended) = channel();
    for index in 0..SLOW {
        let (sender, address) = (sender.clone(), gateway.address);
        std::thread::spawn(move || {
            let body = with_schema(&largest(&format!("{index}k"))).to_string();
            let response = read(send(address, "POST", "/v1/chat/completions", &body));
            // Nobody listens any more once the test has failed.
            let _ = sender.send(response.status);
        });
    }
    eventually("slow ones under way", || {
        gateway.metric("edgellm_requests_waiting") != "0" || compilers(&gateway).len() > 1
    });
    let ordinary = json!({"type": "object", "properties": {"name": {"type": "string"}}});
    assert_eq!(ask(&gateway, &ordinary).status, 200);
    let before = ended.try_iter().count();
    assert!(before <= SLOW / 2, "it waited for {before} of {SLOW}");
    drop(sender);
    assert_eq!(ended.iter().find(|status| *status != 200), None);
}
