//! What holds for recorded streams, whatever their clients do.

use std::net::IpAddr;
use std::sync::Arc;

use futures_util::FutureExt;

use super::recording::{Recording, StreamListener};
use super::streams::StreamKey;
use super::{MOST_RECORDED_BYTES, RecordedStreams};
use crate::admission::{ClientId, Outbox, SendBudget};
use crate::http::sse::Frame;

/// Few, so that they are asked for again.
const KEYS: u8 = 4;
/// So large that some of them are all that may be recorded.
const LARGE_FRAME: usize = MOST_RECORDED_BYTES / 6;

/// Each two bytes are something that a stream or a client does: after all of them every listener has heard
/// each event once and in order, and no byte is counted any more.
///
/// # Panics
/// When that is not so.
#[cfg_attr(test, expect(unreachable_pub, reason = "fuzz/ calls it"))]
pub fn resume_streams(choices: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let streams = RecordedStreams::new(&SendBudget::new(usize::MAX));
        let mut world = World::new(streams.clone());
        for act in choices.chunks_exact(2) {
            world.act(act[0], act[1]);
        }
        world.forget();
        assert_eq!(streams.bytes(), 0);
    });
}

/// A stream, and what was written to it.
struct Stream {
    key: StreamKey,
    recording: Arc<Recording>,
    written: usize,
    ended: bool,
}

/// A listener, which stream it listens to, and how many events it has.
struct Hearer {
    listener: StreamListener,
    stream: usize,
    told: usize,
}

struct World {
    recorded: RecordedStreams,
    streams: Vec<Stream>,
    hearers: Vec<Hearer>,
    outbox: Outbox,
    /// Bytes of all frames so far.
    bytes: usize,
}

impl World {
    fn new(recorded: RecordedStreams) -> Self {
        Self {
            outbox: Outbox::new(recorded.send_budget()),
            recorded,
            streams: Vec::new(),
            hearers: Vec::new(),
            bytes: 0,
        }
    }

    /// Everybody leaves, and nobody comes back in time.
    fn forget(self) {
        drop(self.hearers);
        for stream in self.streams {
            self.recorded.forget(&stream.key, &stream.recording);
        }
    }

    fn act(&mut self, what: u8, which: u8) {
        match what % 8 {
            0 => self.begin(which),
            1 | 2 => self.write(which, 1),
            // A few of these fill the memory; more would only take time.
            3 if self.bytes < 2 * MOST_RECORDED_BYTES => self.write(which, LARGE_FRAME),
            4 => self.come_back(which, what / 8),
            3 | 5 => self.hear(which),
            6 => self.leave(which),
            _ => self.end(which),
        }
    }

    fn begin(&mut self, which: u8) {
        let owner = ClientId::Address(IpAddr::from([10, 0, 0, which % 3]));
        let key = StreamKey {
            path: "/v1/chat/completions".to_owned(),
            key_name: (which % 2 == 1).then(|| "till".to_owned()),
            id: (which % KEYS).to_string(),
            digest: [0; 32],
        };
        let Some((recording, listener)) = self.recorded.record(&key, owner) else {
            assert!(self.bytes > 0, "nothing takes room");
            return;
        };
        let stream = self.streams.len();
        self.streams.push(Stream {
            key,
            recording,
            written: 0,
            ended: false,
        });
        self.hearers.push(Hearer {
            listener,
            stream,
            told: 0,
        });
    }

    fn write(&mut self, which: u8, size: usize) {
        let Some(stream) = pick(&mut self.streams, which) else {
            return;
        };
        if !stream.ended && stream.recording.room().now_or_never().is_some() {
            stream.recording.write(frame(stream.written, size));
            stream.written += 1;
            self.bytes += size;
        }
    }

    /// A client comes back for the newest stream of a key.
    fn come_back(&mut self, which: u8, told: u8) {
        let told = usize::from(told);
        let id = (which % KEYS).to_string();
        let newest = self.streams.iter().rposition(|it| it.key.id == id);
        let Some(stream) = newest else {
            return;
        };
        let Some(listener) = self.recorded.listen(&self.streams[stream].key, told) else {
            assert!(self.bytes > LARGE_FRAME, "nothing had to be dropped");
            return;
        };
        assert_eq!(
            listener.has_come_so_far(),
            told <= self.streams[stream].written
        );
        if listener.has_come_so_far() {
            self.hearers.push(Hearer {
                listener,
                stream,
                told,
            });
        }
    }

    fn hear(&mut self, which: u8) {
        let Some(hearer) = pick(&mut self.hearers, which) else {
            return;
        };
        let stream = &self.streams[hearer.stream];
        match hearer.listener.hear(&self.outbox).now_or_never() {
            Some(Some(outgoing)) => {
                assert!(hearer.told < stream.written, "there is no such event");
                let expected = frame(hearer.told, outgoing.frame.size());
                assert_eq!(outgoing.frame, expected, "another was next");
                hearer.told += 1;
            }
            Some(None) => assert!(
                stream.ended && hearer.told == stream.written,
                "it has no end"
            ),
            None => assert!(
                !stream.ended && hearer.told == stream.written,
                "it waits for nothing"
            ),
        }
    }

    fn leave(&mut self, which: u8) {
        if !self.hearers.is_empty() {
            let hearer = usize::from(which) % self.hearers.len();
            self.hearers.swap_remove(hearer);
        }
    }

    fn end(&mut self, which: u8) {
        if let Some(stream) = pick(&mut self.streams, which) {
            stream.ended = true;
            stream.recording.end();
        }
    }
}

fn pick<T>(all: &mut [T], which: u8) -> Option<&mut T> {
    let count = all.len().max(1);
    all.get_mut(usize::from(which) % count)
}

/// The event of this number, with so many bytes or, if these are not enough for its number, a few more.
fn frame(number: usize, size: usize) -> Frame {
    let number = number.to_string();
    let rest = ".".repeat(size.saturating_sub(number.len()));
    Frame::Data(number + &rest)
}
