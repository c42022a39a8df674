//! What one client can learn of another, or do to it.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};

use crate::gateway::{Gateway, long_answer, read};

/// Everything that tells what was cached: a path, and whether as a stream.
const TELLERS: [(&str, bool); 6] = [
    ("/v1/chat/completions", false),
    ("/v1/chat/completions", true),
    ("/v1/completions", false),
    ("/v1/completions", true),
    ("/v1/responses", false),
    ("/v1/responses", true),
];

/// Digit by digit, because the model has tokens for some numbers of two.
const SECRET: &str = "4-7-1-1-";

/// A request whose prompt begins with `text`.
fn beginning_with(path: &str, stream: bool, text: &str) -> Value {
    let system = json!({"role": "system", "content": text});
    let user = json!({"role": "user", "content": "hello"});
    match (path, stream) {
        ("/v1/responses", _) => {
            json!({"input": [system, user], "max_output_tokens": 1, "store": false, "stream": stream})
        }
        (_, false) if path.ends_with("chat/completions") => {
            json!({"messages": [system, user], "max_tokens": 1})
        }
        (_, true) if path.ends_with("chat/completions") => {
            json!({"messages": [system, user], "max_tokens": 1, "stream": true,
                   "stream_options": {"include_usage": true}})
        }
        (_, false) => json!({"prompt": text, "max_tokens": 1}),
        (_, true) => {
            json!({"prompt": text, "max_tokens": 1, "stream": true,
                   "stream_options": {"include_usage": true}})
        }
    }
}

/// What the answer tells of the cache.
fn cached(gateway: &Gateway, path: &str, stream: bool, text: &str) -> u64 {
    let mut body = beginning_with(path, stream, text);
    // A greedy one that is alone takes less of what is cached.
    body["temperature"] = json!(1);
    let answer = read(gateway.send("POST", path, &body.to_string()));
    assert_eq!(answer.status, 200, "{}", answer.body);
    let objects = if stream {
        let data = answer
            .body
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        data.filter_map(|data| serde_json::from_str(data).ok())
            .collect()
    } else {
        vec![answer.json()]
    };
    let told = objects.iter().find_map(|object: &Value| {
        let usage = object
            .get("usage")
            .or_else(|| object.pointer("/response/usage"))?;
        let details = ["prompt_tokens_details", "input_tokens_details"];
        details
            .iter()
            .find_map(|name| usage[name]["cached_tokens"].as_u64())
    });
    told.unwrap_or_else(|| panic!("nothing is told: {}", answer.body))
}

/// A prompt of another client, up to its secret. The secret is in the middle between two steps of what
/// is told: at a step, a guess of all that is before it would show.
fn before_secret(gateway: &Gateway, path: &str, stream: bool) -> String {
    let mut text = format!("Notes of {path} {stream}.");
    loop {
        text.push_str(" Milk is in aisle four.");
        let body = match beginning_with(path, stream, &text) {
            Value::Object(body) if body.contains_key("prompt") => json!({"prompt": text}),
            _ => json!({"messages": [{"role": "system", "content": text}]}),
        };
        let tokens = read(gateway.send("POST", "/tokenize", &body.to_string())).json();
        let count = tokens["count"].as_u64().expect("a number");
        if count > 256 && (40..80).contains(&(count % 128)) {
            return text + " The code is ";
        }
    }
}

/// Ten guesses a digit, each by what is told of it: the digits that stand out.
fn guessed(gateway: &Gateway, path: &str, stream: bool) -> String {
    let before = before_secret(gateway, path, stream);
    cached(gateway, path, stream, &format!("{before}{SECRET} today."));
    let mut known = String::new();
    while known.len() < SECRET.len() {
        let told: Vec<u64> = (0..10)
            .map(|digit| cached(gateway, path, stream, &format!("{before}{known}{digit}-x")))
            .collect();
        let most = told.iter().max().expect("ten");
        let best: Vec<usize> = (0..10).filter(|digit| told[*digit] == *most).collect();
        match best[..] {
            [digit] => known = format!("{known}{digit}-"),
            // Nothing stands out.
            _ => return known + "?",
        }
    }
    known
}

#[test]
fn a_secret_in_anothers_prompt_cannot_be_guessed_by_cached_tokens() {
    let gateway = Gateway::start();
    for (path, stream) in TELLERS {
        assert_eq!(guessed(&gateway, path, stream), "?", "{path}, {stream}");
    }
}

#[test]
fn where_exact_numbers_are_configured_they_are_told() {
    let exact = [("EDGELLM__TELEMETRY__CACHED_TOKENS_IN_USAGE", "exact")];
    let gateway = Gateway::with_env(&exact);
    // This also shows that the attack would work. (Later digits may hide: where a guess is computed in another
    // bank of the cache than the secret, a single token more is not worth copying.)
    for (path, stream) in TELLERS {
        let found = guessed(&gateway, path, stream);
        assert!(found.starts_with(&SECRET[..2]), "{path}, {stream}: {found}");
    }
}

#[test]
fn where_they_are_hidden_nothing_was_cached() {
    let hidden = [("EDGELLM__TELEMETRY__CACHED_TOKENS_IN_USAGE", "hidden")];
    let gateway = Gateway::with_env(&hidden);
    let text = "Milk is in aisle four. ".repeat(60);
    for (path, stream) in TELLERS {
        for _ in 0..2 {
            assert_eq!(cached(&gateway, path, stream, &text), 0, "{path}, {stream}");
        }
    }
    assert_ne!(gateway.metric("edgellm_prompt_tokens_cached_total"), "0");
}

#[test]
fn several_prompts_together_tell_no_more_than_each_alone() {
    let gateway = Gateway::start();
    let texts: Vec<String> = (0..3)
        .map(|number| format!("Shop {number}. {}", "Milk is in aisle four. ".repeat(28)))
        .collect();
    let ask = |prompt: Value| {
        let body = json!({"prompt": prompt, "max_tokens": 1}).to_string();
        let usage = read(gateway.send("POST", "/v1/completions", &body)).json()["usage"].clone();
        let told = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
        (
            told.expect("a number"),
            usage["prompt_tokens"].as_u64().expect("a number"),
        )
    };
    ask(json!(texts));
    let (told, prompt) = ask(json!(texts));
    let alone: u64 = texts.iter().map(|text| ask(json!(text)).0).sum();
    assert_eq!(told, alone);
    assert_ne!(
        told,
        prompt / 128 * 128,
        "the case is not hit: a sum would be rounded to the same"
    );
}

fn respond(gateway: &Gateway, body: &Value) -> Value {
    let answer = read(gateway.send("POST", "/v1/responses", &body.to_string()));
    assert!([200, 400].contains(&answer.status), "{}", answer.body);
    answer.json()
}

fn input_items(gateway: &Gateway, response: &Value, query: &str) -> Value {
    let id = response["id"].as_str().expect("an id");
    gateway
        .get(&format!("/v1/responses/{id}/input_items?{query}"))
        .json()
}

#[test]
fn an_item_is_found_by_an_id_of_the_servers_and_by_no_other() {
    let gateway = Gateway::start();
    let mine = json!({"role": "user", "id": "msg_1", "content": "till secret 4711"});
    let first = respond(&gateway, &json!({"input": [mine], "max_output_tokens": 4}));
    let reference = json!({"type": "item_reference", "id": "msg_1"});
    let hi = json!({"role": "user", "content": "hi"});
    let other = respond(
        &gateway,
        &json!({"input": [reference, hi], "max_output_tokens": 1}),
    );
    assert_eq!(other["error"]["param"], "input[0].id");
    let going_on = json!({"previous_response_id": first["id"], "input": [reference, hi], "max_output_tokens": 1});
    let own = respond(&gateway, &going_on);
    assert_eq!(own["object"], "response", "{own}");
    let items = input_items(&gateway, &own, "order=asc");
    assert_eq!(items["data"][0]["id"], "msg_1", "shown as it was given");
    let made = json!({"type": "item_reference", "id": first["output"][0]["id"]});
    let anybody = respond(
        &gateway,
        &json!({"input": [made, hi], "max_output_tokens": 1}),
    );
    assert_eq!(anybody["object"], "response", "{anybody}");
}

#[test]
fn who_sends_an_item_of_the_servers_again_does_not_take_its_id_over() {
    let gateway = Gateway::start();
    let first = respond(&gateway, &json!({"input": "hello", "max_output_tokens": 4}));
    let id = &first["output"][0]["id"];
    let claim = json!({"role": "user", "id": id, "content": "claimed"});
    let claimed = json!({"input": [claim], "max_output_tokens": 1});
    respond(&gateway, &claimed);
    let hi = json!({"role": "user", "content": "hi"});
    let referring =
        json!({"input": [{"type": "item_reference", "id": id}, hi], "max_output_tokens": 1});
    let found = respond(&gateway, &referring);
    let items = input_items(&gateway, &found, "order=asc");
    assert_eq!(items["data"][0]["content"], first["output"][0]["content"]);
    let path = format!("/v1/responses/{}", first["id"].as_str().expect("an id"));
    assert_eq!(read(gateway.send("DELETE", &path, "")).status, 200);
    // Found by nobody now, but for the response above, which has it in its conversation.
    respond(&gateway, &claimed);
    assert_eq!(
        respond(&gateway, &referring)["error"]["param"],
        "input[0].id"
    );
}

#[test]
fn pages_of_items_come_to_an_end_whatever_ids_a_client_gives() {
    let gateway = Gateway::start();
    let item =
        |number: usize| json!({"role": "user", "id": "msg_1", "content": format!("word {number}")});
    let body = json!({"input": (0..5).map(item).collect::<Vec<_>>(), "max_output_tokens": 1});
    let response = respond(&gateway, &body);
    let (mut texts, mut after) = (Vec::new(), String::new());
    for _ in 0..5 {
        let page = input_items(&gateway, &response, &format!("order=asc&limit=1{after}"));
        texts.push(page["data"][0]["content"][0]["text"].clone());
        after = format!("&after={}", page["last_id"].as_str().expect("an id"));
        assert_eq!(page["has_more"], texts.len() < 5, "{page}");
    }
    let expected: Vec<String> = (0..5).map(|number| format!("word {number}")).collect();
    assert_eq!(texts, expected);
}

/// The first events of a stream; their ids and data.
fn some_events(gateway: &Gateway, body: &Value, headers: &str, count: usize) -> Vec<String> {
    use std::io::Write;
    let body = body.to_string();
    let mut stream = gateway.connect();
    write!(
        stream,
        "POST /v1/chat/completions HTTP/1.1\r\nhost: edgellm\r\ncontent-type: application/json\r\n\
         {headers}content-length: {}\r\n\r\n{body}",
        body.len()
    )
    .expect("sent");
    let lines = BufReader::new(stream).lines().map_while(Result::ok);
    let ids = lines.filter_map(|line| line.strip_prefix("id: ").map(str::to_owned));
    ids.take(count).collect()
}

#[test]
fn another_body_under_the_same_id_ends_no_stream() {
    let gateway = Gateway::start();
    let mut mine = long_answer(60);
    mine["stream"] = json!(true);
    let name = "x-request-id: till-3:42\r\n";
    let first = some_events(&gateway, &mine, name, 3);
    assert_eq!(first, ["1", "2", "3"]);
    let mut other = long_answer(2);
    other["stream"] = json!(true);
    assert_eq!(some_events(&gateway, &other, name, 1), ["1"]);
    let rest = some_events(&gateway, &mine, &format!("{name}last-event-id: 3\r\n"), 3);
    assert_eq!(rest, ["4", "5", "6"]);
}

#[test]
fn texts_that_are_told_again_are_refused_where_they_are_long() {
    let gateway = Gateway::start();
    let long = "x".repeat(3_000_000);
    for path in ["/v1/chat/completions", "/v1/responses", "/v1/completions"] {
        for field in ["user", "prompt_cache_key", "safety_identifier"] {
            if path == "/v1/completions" && field != "user" {
                continue;
            }
            let mut body = beginning_with(path, false, "hello");
            body[field] = json!("x".repeat(64));
            let answer = read(gateway.send("POST", path, &body.to_string()));
            assert_eq!(answer.status, 200, "{}", answer.body);
            body[field] = json!(long);
            let answer = read(gateway.send("POST", path, &body.to_string()));
            assert_eq!(answer.status, 400, "{path} {field}");
            assert_eq!(answer.json()["error"]["param"], field);
        }
    }
}
