//! What comes back, alone and in company.

use serde_json::{Value, json};

use crate::gateway::{Gateway, long_answer, question, read, stream_events, streamed_text};

#[test]
fn a_stream_is_the_plain_answer_in_pieces() {
    let gateway = Gateway::start();
    let mut body = question("How much is the oat milk?");
    let plain = gateway.answer(&body);
    assert!(!plain.is_empty());
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    let response = gateway.chat(&body);
    assert!(response.head.contains("text/event-stream"));
    assert_eq!(streamed_text(&response.body), plain);
    let events = stream_events(&response.body);
    let usage = &events.last().expect("events")["usage"];
    assert!(usage["completion_tokens"].as_u64().is_some_and(|n| n > 0));
}

#[test]
fn sixteen_streams_at_once_are_whole_and_say_what_each_says_alone() {
    let gateway = Gateway::start();
    let bodies: Vec<Value> = (0..16_u32)
        .map(|i| {
            let mut body = long_answer(40 + i);
            body["messages"][1]["content"] = json!(format!("Where is item {i}?"));
            body["stream"] = json!(true);
            body["logprobs"] = json!(true);
            body["top_logprobs"] = json!(5);
            body
        })
        .collect();
    let alone: Vec<Vec<Value>> = bodies
        .iter()
        .map(|body| stream_events(&gateway.chat(body).body))
        .collect();
    let streams: Vec<_> = bodies
        .iter()
        .map(|body| gateway.send("POST", "/v1/chat/completions", &body.to_string()))
        .collect();
    for (index, stream) in streams.into_iter().enumerate() {
        let events = stream_events(&read(stream).body);
        let end = events.last().expect("events");
        assert_eq!(end["choices"][0]["finish_reason"], "length");
        let (said, said_alone) = (tokens(&events), tokens(&alone[index]));
        assert_eq!(said.len(), 40 + index, "request {index}");
        assert_same_but_for_a_tie(&said, &said_alone);
    }
}

/// The tokens of a stream, each with its logprobs.
fn tokens(events: &[Value]) -> Vec<&Value> {
    let told = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array());
    told.flatten().collect()
}

/// The number of rows in a product decides its rounding, and that may move a logarithm of a
/// probability; where an answer is made to go on beyond its end, two tokens can be near to each
/// other. Then it has to be shown that they are, in company and alone.
fn assert_same_but_for_a_tie(said: &[&Value], said_alone: &[&Value]) {
    /// The furthest that one place was seen to move is 0.12, in the text beyond an answer's end.
    const MOVED: f64 = 0.2;
    const TIE: f64 = 0.1;
    let is_near =
        |pair: Option<(f64, f64)>, most: f64| pair.is_some_and(|(a, b)| (a - b).abs() < most);
    assert_eq!(said.len(), said_alone.len());
    for (other, one) in said.iter().zip(said_alone) {
        let told = logprob(one, other).zip(logprob(other, other));
        let kept = logprob(one, one).zip(logprob(other, one));
        assert!(
            is_near(told, MOVED) && is_near(kept, MOVED),
            "{one} but {other}"
        );
        if one["bytes"] != other["bytes"] {
            let tie = logprob(one, one).zip(logprob(one, other));
            assert!(is_near(tie, TIE), "{one} but {other}");
            return;
        }
    }
}

/// What the place of one token says of the token that stands at another.
fn logprob(place: &Value, token: &Value) -> Option<f64> {
    let among = place["top_logprobs"].as_array()?;
    let same = among.iter().find(|top| top["bytes"] == token["bytes"])?;
    same["logprob"].as_f64()
}

#[test]
fn the_same_seed_gives_the_same_answer_alone_and_in_company() {
    let gateway = Gateway::start();
    let mut body = question("hello");
    body["temperature"] = json!(1.0);
    body["max_tokens"] = json!(30);
    body["seed"] = json!(7);
    let alone = gateway.answer(&body);
    assert_eq!(gateway.answer(&body), alone);
    let company: Vec<_> = (0..7)
        .map(|_| {
            gateway.send(
                "POST",
                "/v1/chat/completions",
                &long_answer(100).to_string(),
            )
        })
        .collect();
    assert_eq!(gateway.answer(&body), alone);
    for stream in company {
        assert_eq!(read(stream).status, 200);
    }
    let mut body = long_answer(60);
    body["temperature"] = json!(2.0);
    let [one, two] = [1, 2].map(|seed| {
        body["seed"] = json!(seed);
        gateway.answer(&body)
    });
    assert_ne!(one, two);
}

#[test]
fn a_stop_string_is_not_part_of_the_answer() {
    let gateway = Gateway::start();
    let whole = gateway.answer(&question("How much is the oat milk?"));
    let (before, _) = whole.split_once(' ').expect("more than one word");
    let mut body = question("How much is the oat milk?");
    body["stop"] = json!([" "]);
    let response = gateway.chat(&body).json();
    assert_eq!(response["choices"][0]["message"]["content"], before);
    assert_eq!(response["choices"][0]["finish_reason"], "stop");
}

#[test]
fn an_answer_ends_at_the_models_context_with_reason_length() {
    let gateway = Gateway::start();
    let response = gateway.chat(&long_answer(1_000_000)).json();
    assert_eq!(response["choices"][0]["finish_reason"], "length");
    let context = gateway.get("/v1/models/kiosk").json()["edgellm"]["context"].clone();
    assert_eq!(response["usage"]["total_tokens"], context);
}

#[test]
fn a_full_cache_delays_answers_and_fails_none() {
    // Room for one whole answer, or for few at a time.
    let gateway = Gateway::with_env(&[("EDGELLM__MODELS__CONTEXT", "512")]);
    let streams: Vec<_> = (0..8)
        .map(|_| {
            gateway.send(
                "POST",
                "/v1/chat/completions",
                &long_answer(200).to_string(),
            )
        })
        .collect();
    for stream in streams {
        let response = read(stream);
        assert_eq!(response.status, 200, "{}", response.body);
        assert_eq!(response.json()["usage"]["completion_tokens"], 200);
    }
    assert!(
        gateway.metric("edgellm_preemptions_total") != "0",
        "the case is not hit"
    );
}

/// Names that have nothing in common with their neighbours': what is said of them is no near tie,
/// which llama.cpp's rounding could decide.
fn product(number: usize) -> String {
    const COLOURS: [&str; 7] = ["red", "blue", "green", "white", "black", "golden", "pink"];
    const THINGS: [&str; 11] = [
        "lamp", "kettle", "socks", "honey", "pasta", "tape", "gloves", "soap", "juice", "bread",
        "pencil",
    ];
    let (colour, thing) = (COLOURS[number % 7], THINGS[number % 11]);
    format!("{colour} {thing}")
}

/// Usage tells all that was cached.
const EXACT: (&str, &str) = ("EDGELLM__TELEMETRY__CACHED_TOKENS_IN_USAGE", "exact");

/// Asks a shop with thirty products, numbered from `first` on, for number `item`.
fn asked_in_shop(first: usize, item: usize) -> Value {
    let products: Vec<String> = (first..first + 30)
        .map(|i| format!("- {}: ${i}.49, aisle {i}, {i} in stock", product(i)))
        .collect();
    let mut body = question(&format!("How much is the {}?", product(item)));
    body["messages"][0]["content"] = json!(format!("Products:\n{}", products.join("\n")));
    body
}

#[test]
fn kiosks_with_one_store_prompt_share_it_and_say_what_each_says_alone() {
    let body = |i| asked_in_shop(0, i);
    // A fresh server for each: nobody's prompt is there before.
    let alone: Vec<String> = (0..8).map(|i| Gateway::start().answer(&body(i))).collect();
    let gateway = Gateway::with_env(&[EXACT]);
    let streams: Vec<_> = (0..8)
        .map(|i| gateway.send("POST", "/v1/chat/completions", &body(i).to_string()))
        .collect();
    let mut cached = 0;
    for (index, stream) in streams.into_iter().enumerate() {
        let response = read(stream).json();
        assert_eq!(response["choices"][0]["message"]["content"], alone[index]);
        cached += response["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a number");
    }
    // Seven of eight find all but their question.
    assert!(cached > 7 * 400, "only {cached} tokens were shared");
}

#[test]
fn shops_that_take_turns_find_their_prompts_again() {
    let gateway = Gateway::with_env(&[EXACT]);
    let ask = |shop: usize, item: usize| {
        let response = gateway
            .chat(&asked_in_shop(30 * shop, 30 * shop + item))
            .json();
        let cached = &response["usage"]["prompt_tokens_details"]["cached_tokens"];
        let text = response["choices"][0]["message"]["content"].clone();
        (text, cached.as_u64().expect("a number"))
    };
    // More than there are banks of the cache to keep them in.
    let first: Vec<_> = (0..12).map(|shop| ask(shop, 7)).collect();
    assert!(first.iter().all(|(_, cached)| *cached < 100));
    for (shop, (text, _)) in first.into_iter().enumerate() {
        let (again, cached) = ask(shop, 7);
        assert!(cached > 400, "shop {shop}: {cached}");
        assert_eq!(again, text);
        let (_, cached) = ask(shop, 8);
        assert!(cached > 400, "another question: {cached}");
    }
    let parked =
        gateway.metric(r#"edgellm_model_memory_bytes{kind="parked_prompts",model="kiosk"}"#);
    assert!(
        parked.parse::<u64>().is_ok_and(|bytes| bytes > 1 << 20),
        "{parked}"
    );
}

#[test]
fn the_smallest_batches_that_can_be_configured_answer_as_well() {
    let small = Gateway::with_env(&[("EDGELLM__SCHEDULER__MAX_BATCH_TOKENS", "16")]);
    let usual = Gateway::start();
    let body = question("How much is the oat milk?");
    assert_eq!(small.answer(&body), usual.answer(&body));
}
