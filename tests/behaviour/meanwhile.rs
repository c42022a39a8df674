//! What other clients see while hostile ones hold connections, drip bytes or send bombs: nothing.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::gateway::{Gateway, Response, long_answer, question, read, read_all, request, send};

const PATH: &str = "/v1/chat/completions";
/// Far longer than an answer of three tokens takes, even on a machine that is busy with other tests.
const LONGEST_ANSWER: Duration = Duration::from_secs(15);

/// Hostile threads, which go on until this is dropped.
struct Attack {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Attack {
    /// Has each of `count` threads do `act` again and again.
    fn begin(count: usize, act: impl Fn() + Clone + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|_| {
            let (stop, act) = (Arc::clone(&stop), act.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    act();
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    /// Ends it. Fails if one of the threads did.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("answered as expected");
        }
    }
}

/// Sends a byte on each of these connections now and then, as far as they are open.
fn drip(mut streams: Vec<TcpStream>, byte: u8) -> Attack {
    for stream in &mut streams {
        stream.set_nonblocking(true).expect("set");
    }
    let streams = Arc::new(streams);
    Attack::begin(1, move || {
        for mut stream in streams.iter() {
            // Those that were closed refuse it.
            let _ = stream.write(&[byte]);
        }
        std::thread::park_timeout(Duration::from_millis(50));
    })
}

/// Asks some times as any other client.
fn others_are_served(gateway: &Gateway, during: &str) {
    let mut body = question("Where is the oat milk?");
    body["max_tokens"] = json!(3);
    for _ in 0..5 {
        let began = Instant::now();
        let response = gateway.chat(&body);
        assert_eq!(response.status, 200, "during {during}: {}", response.body);
        assert_eq!(gateway.get("/health").status, 200, "during {during}");
        let took = began.elapsed();
        assert!(took < LONGEST_ANSWER, "{took:?} during {during}");
    }
}

/// Answers to requests that may be refused before they are read to their end.
fn answer_to(address: SocketAddr, request: &str) -> Option<Response> {
    let mut stream = TcpStream::connect(address).ok()?;
    // The server may have refused it before all of it is written.
    let _ = stream.write_all(request.as_bytes());
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n")?;
    Some(Response {
        status: head[9..12].parse().expect("a status"),
        head: head.to_owned(),
        body: body.to_owned(),
    })
}

#[test]
fn others_are_served_while_many_send_their_headers_byte_by_byte() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__HEADER_TIMEOUT_SECONDS", "3")]);
    let mut slow: Vec<_> = (0..200).map(|_| gateway.connect()).collect();
    for stream in &mut slow {
        stream
            .write_all(b"GET /health HTTP/1.1\r\nx-slow: ")
            .expect("sent");
    }
    let watched = slow[0].try_clone().expect("a clone");
    let dripping = drip(slow, b'x');
    others_are_served(&gateway, "slow headers");
    // A byte now and then wins no time.
    watched.set_nonblocking(false).expect("set");
    let ended = (&watched).read(&mut [0]);
    assert!(!matches!(ended, Ok(1..)), "it was answered");
    dripping.end();
}

#[test]
fn others_are_served_while_many_send_their_bodies_byte_by_byte() {
    let gateway = Gateway::with_env(&[("EDGELLM__SERVER__BODY_TIMEOUT_SECONDS", "3")]);
    let mut slow: Vec<_> = (0..200).map(|_| gateway.connect()).collect();
    let head = request("POST", PATH, &" ".repeat(100_000))
        .replace(' '.to_string().repeat(100_000).as_str(), "");
    for stream in &mut slow {
        stream.write_all(head.as_bytes()).expect("sent");
    }
    let watched = slow[0].try_clone().expect("a clone");
    let dripping = drip(slow, b' ');
    others_are_served(&gateway, "slow bodies");
    watched.set_nonblocking(false).expect("set");
    let mut status = [0; 12];
    (&watched).read_exact(&mut status).expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 408");
    dripping.end();
}

#[test]
fn others_are_served_while_many_do_not_read_their_answers() {
    let gateway = Gateway::start();
    let mut body = long_answer(200);
    body["stream"] = json!(true);
    body["logprobs"] = json!(true);
    body["top_logprobs"] = json!(20);
    let unread: Vec<_> = (0..40)
        .map(|_| gateway.send("POST", PATH, &body.to_string()))
        .collect();
    let pages: Vec<_> = (0..40)
        .map(|_| {
            let mut stream = gateway.connect();
            let requests = b"GET /openapi.json HTTP/1.1\r\nhost: edgellm\r\n\r\n".repeat(100);
            stream.write_all(&requests).expect("sent");
            stream
        })
        .collect();
    others_are_served(&gateway, "slow readers");
    drop((unread, pages));
}

#[test]
fn others_are_served_while_many_have_closed_their_side() {
    let gateway = Gateway::start();
    let address = gateway.address;
    let attack = Attack::begin(4, move || {
        for part in [0, 10, 60, 200] {
            let request = request("POST", PATH, &question("hello").to_string());
            let mut stream = TcpStream::connect(address).expect("accepted");
            stream.write_all(&request.as_bytes()[..part]).expect("sent");
            stream.shutdown(Shutdown::Write).expect("closed");
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            let refused = rest.is_empty() || rest.starts_with(b"HTTP/1.1 400");
            assert!(refused, "{}", String::from_utf8_lossy(&rest));
        }
    });
    others_are_served(&gateway, "half-closed connections");
    attack.end();
}

#[test]
fn others_are_served_while_many_send_bombs_of_headers() {
    let gateway = Gateway::start();
    let address = gateway.address;
    let with = |headers: String| format!("GET /health HTTP/1.1\r\nhost: edgellm\r\n{headers}\r\n");
    let bombs = [
        with("x-a: b\r\n".repeat(5000)),
        with(format!("x-a: {}\r\n", "b".repeat(1 << 20))),
        with(format!("{}: b\r\n", "a".repeat(70_000))),
        with("x-request-id: a\r\n".repeat(101)),
        format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000)),
    ];
    let attack = Attack::begin(4, move || {
        for bomb in &bombs {
            let answer = answer_to(address, bomb);
            let statuses = [400, 414, 431];
            let is_refused = |answer: &Response| statuses.contains(&answer.status);
            // Bytes that were left unread may cost the client the answer.
            assert!(answer.as_ref().is_none_or(is_refused), "{answer:?}");
        }
    });
    others_are_served(&gateway, "header bombs");
    attack.end();
}

/// Bodies that cost much for their size, or would.
fn json_bombs() -> Vec<String> {
    const SIZE: usize = 1 << 20;
    let message =
        |content: &str| format!("{{\"messages\":[{{\"role\":\"user\",\"content\":{content}}}]");
    let joined =
        |count: usize, text: fn(usize) -> String| (0..count).map(text).collect::<Vec<_>>().concat();
    let keys = joined(SIZE / 12, |key| format!(",\"k{key}\":0"));
    let names = joined(SIZE / 16, |key| format!(",\"{key}\":{{}}"));
    vec![
        format!("{{\"messages\":{}", "[".repeat(SIZE)),
        format!(
            "{{\"messages\":{}{}}}",
            "[".repeat(SIZE / 2),
            "]".repeat(SIZE / 2)
        ),
        "{\"a\":".repeat(SIZE / 5),
        format!("{},\"n\":1e{}}}", message("\"hi\""), "9".repeat(SIZE)),
        format!("{},\"seed\":{}}}", message("\"hi\""), "7".repeat(SIZE)),
        format!("{},\"temperature\":0.{}1}}", message("1"), "0".repeat(SIZE)),
        format!("{}{keys}}}", message("1")),
        format!("{},\"metadata\":{{\"a\":1{names}}}}}", message("1")),
        format!("{{\"messages\":[{}null]}}", "null,".repeat(SIZE / 5)),
        format!("{{\"messages\":\"{}\"}}", "\\u0041".repeat(SIZE / 6)),
        format!("{{\"tools\":[{}{{}}]}}", "{},".repeat(SIZE / 3)),
    ]
}

#[test]
fn others_are_served_while_many_send_bombs_of_json() {
    let gateway = Gateway::start();
    let address = gateway.address;
    let bombs = json_bombs();
    let attack = Attack::begin(4, move || {
        for (number, bomb) in bombs.iter().enumerate() {
            let response = read(send(address, "POST", PATH, bomb));
            let told = &response.json()["error"]["message"];
            let is_refused = response.status == 400 && told.is_string();
            let is_full = response.status == 503 && response.head.contains("retry-after: ");
            assert!(is_refused || is_full, "bomb {number}: {response:?}");
        }
    });
    others_are_served(&gateway, "JSON bombs");
    attack.end();
}

#[test]
fn others_are_served_while_many_send_hundreds_of_requests_at_once() {
    const TOGETHER: usize = 300;
    let gateway = Gateway::start();
    let address = gateway.address;
    let keep_alive = |method: &str, path: &str, body: &Value| {
        let text = if body.is_null() {
            String::new()
        } else {
            body.to_string()
        };
        request(method, path, &text).replace("connection: close\r\n", "")
    };
    let mut body = question("hello");
    body["max_tokens"] = json!(1);
    let ask = keep_alive("POST", PATH, &body);
    let look = keep_alive("GET", "/v1/models", &Value::Null);
    let last = request("GET", "/health", "");
    let attack = Attack::begin(3, move || {
        let requests = look.repeat(TOGETHER) + &ask.repeat(10) + &last;
        let mut stream = TcpStream::connect(address).expect("accepted");
        let reader = stream.try_clone().expect("a clone");
        let reading = std::thread::spawn(move || read_all(reader));
        stream.write_all(requests.as_bytes()).expect("sent");
        let answers = reading.join().expect("read");
        assert_eq!(answers.len(), TOGETHER + 10 + 1, "each is answered");
        assert!(answers.iter().all(|answer| answer.status == 200));
        // In their order.
        assert!(answers[TOGETHER - 1].body.contains("\"object\":\"list\""));
        assert!(answers[TOGETHER].body.contains("\"finish_reason\""));
    });
    others_are_served(&gateway, "pipelining");
    attack.end();
}
