//! `/v1/responses`: conversations that the server remembers, within its bounds.

use std::io::{BufRead, BufReader, Write};

use serde_json::{Value, json};

use crate::gateway::{Gateway, Response, eventually, read};

const PATH: &str = "/v1/responses";
const INSTRUCTIONS: &str = "You are the assistant of Corner Shop.\n\
    Products:\n- Oat milk: $3.49, aisle 4, 12 in stock\n\
    - Garden hose: $18.99, aisle 12, 3 in stock";

fn question(text: &str) -> Value {
    json!({"model": "kiosk", "temperature": 0, "instructions": INSTRUCTIONS, "input": text})
}

fn following(text: &str, previous: &Value) -> Value {
    let mut body = question(text);
    body["previous_response_id"] = previous["id"].clone();
    body
}

impl Gateway {
    fn respond(&self, body: &Value) -> Response {
        read(self.send("POST", PATH, &body.to_string()))
    }

    /// The response object.
    fn responded(&self, body: &Value) -> Value {
        let response = self.respond(body);
        assert_eq!(response.status, 200, "{}", response.body);
        response.json()
    }

    fn stored(&self, response: &Value) -> Response {
        let id = response["id"].as_str().expect("an id");
        self.get(&format!("{PATH}/{id}"))
    }
}

fn text(response: &Value) -> &str {
    let part = &response["output"][0]["content"][0];
    part["text"].as_str().expect("a text")
}

fn code(response: &Response) -> Value {
    response.json()["error"]["code"].clone()
}

/// Every event: its id, its name and its data.
fn events(body: &str) -> Vec<(String, String, Value)> {
    let field = |event: &str, name: &str| {
        let mut lines = event.lines();
        let found = lines.find_map(|line| line.strip_prefix(name));
        found.unwrap_or_default().to_owned()
    };
    let events = body.split("\n\n").filter(|event| !event.is_empty());
    events
        .map(|event| {
            let data = field(event, "data: ");
            let data = serde_json::from_str(&data).expect("JSON");
            (field(event, "id: "), field(event, "event: "), data)
        })
        .collect()
}

#[test]
fn a_conversation_goes_on_from_its_last_response_as_if_all_of_it_were_sent() {
    let gateway = Gateway::start();
    let first = gateway.responded(&question("What does the oat milk cost?"));
    let second = gateway.responded(&following("And the hose?", &first));
    let mut whole = question("");
    whole["input"] = json!([
        {"role": "user", "content": "What does the oat milk cost?"},
        first["output"][0],
        {"role": "user", "content": "And the hose?"},
    ]);
    let whole = gateway.responded(&whole);
    assert_eq!(text(&second), text(&whole));
    let tokens = |response: &Value| response["usage"]["input_tokens"].clone();
    assert_eq!(tokens(&second), tokens(&whole));
}

#[test]
fn a_response_that_was_deleted_is_gone_and_what_followed_it_is_not() {
    let gateway = Gateway::start();
    let first = gateway.responded(&question("What does the oat milk cost?"));
    let second = gateway.responded(&following("And the hose?", &first));
    let path = format!("{PATH}/{}", first["id"].as_str().expect("an id"));
    let deleted = read(gateway.send("DELETE", &path, ""));
    let expected = json!({"id": first["id"], "object": "response", "deleted": true});
    assert_eq!(deleted.json(), expected);
    for method in ["GET", "DELETE"] {
        let gone = read(gateway.send(method, &path, ""));
        assert_eq!(
            (gone.status, code(&gone)),
            (404, json!("response_not_found"))
        );
    }
    let refused = gateway.respond(&following("And?", &first));
    let expected = (400, json!("previous_response_not_found"));
    assert_eq!((refused.status, code(&refused)), expected);
    let third = gateway.responded(&following("Thanks.", &second));
    let path = format!(
        "{PATH}/{}/input_items?order=asc",
        third["id"].as_str().expect("an id")
    );
    let items = gateway.get(&path).json();
    assert_eq!(items["data"].as_array().map(Vec::len), Some(5));
    assert_eq!(items["data"][1], first["output"][0]);
}

#[test]
fn the_oldest_response_gives_way_to_a_new_one() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__STORE_MAX_RESPONSES", "2")]);
    let mut said: Vec<Value> = Vec::new();
    for _ in 0..3 {
        said.push(gateway.responded(&question("What does the oat milk cost?")));
    }
    let found = said.iter().map(|response| gateway.stored(response).status);
    assert_eq!(found.collect::<Vec<_>>(), [404, 200, 200]);
    assert_eq!(gateway.stored(&said[2]).json(), said[2]);
}

#[test]
fn a_response_is_forgotten_when_its_time_is_over() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__STORE_SECONDS", "1")]);
    let response = gateway.responded(&question("What does the oat milk cost?"));
    eventually("forgotten", || gateway.stored(&response).status == 404);
}

#[test]
fn a_server_that_keeps_nothing_says_so() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__STORE_MAX_RESPONSES", "0")]);
    let mut body = question("What does the oat milk cost?");
    let response = gateway.responded(&body);
    assert_eq!(response["store"], false);
    assert_eq!(gateway.stored(&response).status, 404);
    body["store"] = json!(true);
    let refused = gateway.respond(&body);
    assert_eq!(
        (refused.status, &refused.json()["error"]["param"]),
        (400, &json!("store"))
    );
}

#[test]
fn a_conversation_that_outgrows_the_context_is_refused_or_loses_its_oldest_turns() {
    let gateway = Gateway::with_env(&[("EDGELLM__MODELS__CONTEXT", "512")]);
    let mut turns = vec![];
    for number in 0..60 {
        turns.push(json!({"role": "user", "content": format!("Is number {number} in stock?")}));
        turns.push(json!({"role": "assistant", "content": "Yes, we have 12 in stock."}));
    }
    turns.push(json!({"role": "user", "content": "What does the oat milk cost?"}));
    let mut body = question("");
    body["input"] = json!(turns);
    let refused = gateway.respond(&body);
    assert_eq!(
        (refused.status, code(&refused)),
        (400, json!("context_length_exceeded"))
    );
    assert_eq!(refused.json()["error"]["param"], "input");
    body["truncation"] = json!("auto");
    let response = gateway.responded(&body);
    assert_eq!(response["truncation"], "auto");
    assert!(text(&response).contains("3.49"), "{}", text(&response));
    let tokens = response["usage"]["input_tokens"].as_u64().expect("tokens");
    assert!((300..=448).contains(&tokens), "{tokens}");
    // All of it is remembered, and does not fit the next time either.
    let mut next = following("And the hose?", &response);
    next["truncation"] = json!("auto");
    assert_eq!(gateway.responded(&next)["status"], "completed");
    next["truncation"] = json!("disabled");
    assert_eq!(gateway.respond(&next).status, 400);

    // What cannot be left out is not even made into tokens where it is sure not to fit.
    body["input"] = json!("why? ".repeat(20_000));
    let refused = gateway.respond(&body).json()["error"].clone();
    assert_eq!(refused["code"], "context_length_exceeded");
    let message = refused["message"].as_str().expect("words");
    assert!(message.contains("in at least"), "{message}");
}

#[test]
fn a_stream_that_was_lost_goes_on_exactly_where_it_stopped_however_full_it_is() {
    let full = [
        ("EDGELLM__MODELS__MAX_RUNNING", "1"),
        ("EDGELLM__ADMISSION__MAX_WAITING", "0"),
    ];
    let gateway = Gateway::with_env(&full);
    let mut body = question("What do you sell?");
    body["stream"] = json!(true);
    body["ignore_eos"] = json!(true);
    body["max_output_tokens"] = json!(1500);
    let body = body.to_string();
    let ask = |more: &str| {
        let mut stream = gateway.connect();
        write!(
            stream,
            "POST {PATH} HTTP/1.1\r\nhost: edgellm\r\nconnection: close\r\nx-request-id: till-3\r\n\
             {more}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .expect("sent");
        stream
    };
    let mut lines = BufReader::new(ask("")).lines().map_while(Result::ok);
    assert!(lines.any(|line| line == "id: 5"), "it begins");
    drop(lines);
    // It is still being made, and there is room for one.
    assert_eq!(gateway.respond(&question("And you?")).status, 503);
    let rest = read(ask("last-event-id: 5\r\n"));
    let rest = events(&rest.body);
    let (id, _, first) = &rest[0];
    assert_eq!((id.as_str(), &first["sequence_number"]), ("6", &json!(5)));
    for (number, (_, name, event)) in rest.iter().enumerate() {
        assert_eq!(event["sequence_number"], json!(number + 5));
        assert_eq!(event["type"], json!(name));
    }
    let (_, name, last) = rest.last().expect("an end");
    assert_eq!(name, "response.incomplete");
    assert_eq!(gateway.stored(&last["response"]).json(), last["response"]);
}

#[test]
fn it_is_counted_as_every_endpoint_is() {
    let gateway = Gateway::start();
    gateway.responded(&question("What does the oat milk cost?"));
    let metrics = gateway.get("/metrics").body;
    let series = "edgellm_requests_total{endpoint=\"/v1/responses\",finish_reason=\"stop\",\
                  model=\"kiosk\",status=\"200\"} 1";
    assert!(metrics.contains(series), "{metrics}");
}

#[test]
fn an_item_that_is_referred_to_counts_each_time() {
    let gateway = Gateway::start();
    let message = json!({"role": "user", "id": "msg_a", "content": "a".repeat(1_000_000)});
    let mut input = vec![message];
    input.extend(vec![json!({"type": "item_reference", "id": "msg_a"}); 2000]);
    let before = gateway.megabytes("VmHWM");
    let refused = gateway.respond(&json!({"input": input, "max_output_tokens": 1}));
    assert_eq!(refused.status, 400, "{}", refused.body);
    let param = refused.json()["error"]["param"].clone();
    assert!(
        param
            .as_str()
            .is_some_and(|param| param.starts_with("input[")),
        "{param}"
    );
    let grown = gateway.megabytes("VmHWM") - before;
    assert!(grown < 80, "{grown} MB");
}

#[test]
fn thoughts_alone_are_nothing_to_answer_to() {
    let gateway = Gateway::start();
    let thought = json!({"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]});
    let refused = gateway.respond(&json!({"input": [thought]}));
    assert_eq!(refused.status, 400, "{}", refused.body);
    assert_eq!(refused.json()["error"]["param"], "input");
}
