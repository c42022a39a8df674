//! Starts the binary on a free port and speaks HTTP/1.1 to it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// Longer than anything takes on a machine that is busy with something else.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at something that is waited for.
const GLANCE: Duration = Duration::from_millis(20);

pub const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/kiosk/kiosk.gguf");

pub struct Gateway {
    child: Child,
    pub address: SocketAddr,
    log: Receiver<String>,
}

/// A whole response.
#[derive(Debug)]
pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}

impl Gateway {
    pub fn start() -> Self {
        Self::with_env(&[])
    }

    /// Starts it with configuration variables and waits until it is ready.
    pub fn with_env(env: &[(&str, &str)]) -> Self {
        Self::with_model(Path::new(MODEL), env)
    }

    /// Starts it with another model and waits until it is ready.
    pub fn with_model(model: &Path, env: &[(&str, &str)]) -> Self {
        let mut gateway = Self::launch(model, env);
        let line = gateway.log_line("listening on http://");
        let at = line.find("http://").expect("a URL") + "http://".len();
        let end = at + line[at..].find('"').expect("its end");
        gateway.address = line[at..end].parse().expect("an address");
        eventually("ready", || gateway.get("/ready").status == 200);
        gateway
    }

    /// Starts it and waits for nothing.
    pub fn launch(model: &Path, env: &[(&str, &str)]) -> Self {
        let mut child = Command::new(binary())
            .args(["serve", "--listen", "127.0.0.1:0", "--model"])
            .arg(model)
            // The model is small and the tests run side by side.
            .env("EDGELLM__MODELS__THREADS", "1")
            // What else runs on the machine is not what tests are about.
            .env("EDGELLM__GOVERNOR__ENABLED", "false")
            .envs(env.iter().copied())
            .env("EDGELLM__TELEMETRY__LOG_FORMAT", "json")
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let (sender, log) = channel();
        let stderr = BufReader::new(child.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody listens any more once the test is over.
                let _ = sender.send(line);
            }
        });
        Self {
            child,
            address: ([127, 0, 0, 1], 0).into(),
            log,
        }
    }

    /// Waits for a log line that holds `text`.
    pub fn log_line(&self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        while let Ok(line) = self
            .log
            .recv_timeout(deadline.saturating_duration_since(Instant::now()))
        {
            if line.contains(text) {
                return line;
            }
        }
        panic!("no log line holds {text:?}");
    }

    pub fn connect(&self) -> TcpStream {
        connect(self.address)
    }

    /// Sends a request with `connection: close` and leaves the answer unread.
    pub fn send(&self, method: &str, path: &str, body: &str) -> TcpStream {
        send(self.address, method, path, body)
    }

    pub fn get(&self, path: &str) -> Response {
        read(self.send("GET", path, ""))
    }

    pub fn chat(&self, body: &Value) -> Response {
        read(self.send("POST", "/v1/chat/completions", &body.to_string()))
    }

    /// The text of an answer.
    pub fn answer(&self, body: &Value) -> String {
        let response = self.chat(body);
        assert_eq!(response.status, 200, "{}", response.body);
        let content = response.json()["choices"][0]["message"]["content"].clone();
        content.as_str().expect("text").to_owned()
    }

    /// The value of a metric's first series as it is written, `0` when there is none yet.
    pub fn metric(&self, name: &str) -> String {
        let text = self.get("/metrics").body;
        text.lines()
            .filter(|line| {
                line.strip_prefix(name)
                    .is_some_and(|rest| rest.starts_with(['{', ' ']))
            })
            .find_map(|line| line.rsplit(' ').next())
            .unwrap_or("0")
            .to_owned()
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A line of its `/proc/PID/status`, in megabytes.
    pub fn megabytes(&self, line: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()));
        let status = status.expect("it runs");
        let text = status.lines().find_map(|text| text.strip_prefix(line));
        let number = text.and_then(|text| text.trim_start_matches(':').split_whitespace().next());
        let kilobytes: u64 = number.expect("a line").parse().expect("a number");
        kilobytes / 1024
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill")
            .args([format!("-{name}"), self.child.id().to_string()])
            .status();
        assert!(status.is_ok_and(|status| status.success()));
    }

    /// Sends SIGTERM twice, and checks that the second one does not wait for anything.
    pub fn ends_at_once_when_asked_twice(&mut self) {
        self.signal("TERM");
        self.log_line("draining: no new requests");
        self.signal("TERM");
        let began = Instant::now();
        assert_eq!(self.exit_code(), Some(0));
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4), "{took:?}");
    }

    /// Waits for the end of the process.
    pub fn exit_code(&mut self) -> Option<i32> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return status.code();
            }
            assert!(Instant::now() < deadline, "the process does not end");
            std::thread::park_timeout(GLANCE);
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The binary that was built with the tests, or another one, as for `tests/clients`.
fn binary() -> OsString {
    std::env::var_os("EDGELLM_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_edgellm").into())
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("accepted");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream
}

/// A request with `connection: close`, as it is written to a socket.
pub fn request(method: &str, path: &str, body: &str) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nhost: edgellm\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// [`Gateway::send`] for threads that have the address only.
pub fn send(address: SocketAddr, method: &str, path: &str, body: &str) -> TcpStream {
    let mut stream = connect(address);
    let request = request(method, path, body);
    stream.write_all(request.as_bytes()).expect("sent");
    stream
}

/// The responses that come on a connection until it is closed, each with a `content-length`.
pub fn read_all(mut stream: TcpStream) -> Vec<Response> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("no reset");
    let text = String::from_utf8(bytes).expect("text");
    let mut rest = text.as_str();
    let mut responses = Vec::new();
    while let Some((head, tail)) = rest.split_once("\r\n\r\n") {
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        let length: usize = length.expect("a length").parse().expect("a number");
        let (body, tail) = tail.split_at(length);
        responses.push(Response {
            status: head[9..12].parse().expect("a status"),
            head: head.to_owned(),
            body: body.to_owned(),
        });
        rest = tail;
    }
    responses
}

/// Reads to the end of the connection.
pub fn read(mut stream: TcpStream) -> Response {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("a whole response");
    let text = String::from_utf8(bytes).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let chunked = head
        .to_ascii_lowercase()
        .contains("transfer-encoding: chunked");
    Response {
        status: head[9..12].parse().expect("a status"),
        head: head.to_owned(),
        body: if chunked {
            dechunk(body)
        } else {
            body.to_owned()
        },
    }
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).expect("a chunk size");
        if size == 0 {
            return body;
        }
        body.push_str(&tail[..size]);
        rest = &tail[size + 2..];
    }
    panic!("the stream broke off: {body}");
}

/// The objects of a stream; panics unless `[DONE]` ends it.
pub fn stream_events(body: &str) -> Vec<Value> {
    let mut data: Vec<&str> = body
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{body}");
    data.iter()
        .map(|event| serde_json::from_str(event).expect("JSON"))
        .collect()
}

/// The text of a stream.
pub fn streamed_text(body: &str) -> String {
    stream_events(body)
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str())
        .collect()
}

/// Looks again until `condition` holds.
pub fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "never {what}");
        std::thread::park_timeout(GLANCE);
    }
}

/// A question to a small store that fits any shop.
pub fn question(text: &str) -> Value {
    json!({
        "model": "kiosk",
        "temperature": 0,
        "messages": [
            {"role": "system", "content": "You are the assistant of Corner Shop.\n\
              Products:\n- Oat milk: $3.49, aisle 4, 12 in stock\n\
              - Garden hose: $18.99, aisle 12, 3 in stock"},
            {"role": "user", "content": text},
        ],
    })
}

/// An answer of exactly `tokens` tokens that is the same wherever and beside whatever it is computed: it
/// goes on with a word that the model repeats, each token at least e⁸ times as likely as the next. Any
/// other long answer is past what the model has to say, where rounding decides between near ties.
pub fn steady_answer(tokens: u32) -> Value {
    let mut body = long_answer(tokens);
    let turns = body["messages"].as_array_mut().expect("turns");
    turns.push(json!({"role": "assistant", "content": "ha".repeat(24)}));
    body["continue_final_message"] = json!(true);
    body
}

/// An answer of exactly `tokens` tokens, whatever the model would say.
pub fn long_answer(tokens: u32) -> Value {
    let mut body = question("What do you sell?");
    body["ignore_eos"] = json!(true);
    body["max_tokens"] = json!(tokens);
    body
}
