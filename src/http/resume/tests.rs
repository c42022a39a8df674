//! What is kept of a stream, for whom, and what gives way.

use futures_util::FutureExt;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::*;
use crate::admission::{ClientId, SendBudget};

const CLIENT: ClientId = ClientId::Connection(0);

fn streams() -> RecordedStreams {
    RecordedStreams::new(&SendBudget::new(usize::MAX))
}

fn key(digest: u8) -> StreamKey {
    StreamKey {
        key_name: None,
        path: "/v1/chat/completions".to_owned(),
        id: "till-3".to_owned(),
        digest: [digest; 32],
    }
}

fn ticket_for(streams: &RecordedStreams, key: StreamKey) -> RecordingTicket {
    RecordingTicket {
        streams: streams.clone(),
        key,
        client: CLIENT,
    }
}

fn ticket(streams: &RecordedStreams) -> RecordingTicket {
    ticket_for(streams, key(7))
}

fn frames(of: mpsc::Receiver<Frame>) -> impl Stream<Item = OutgoingFrame> {
    stream::unfold(of, |mut of| async {
        Some((OutgoingFrame::from(of.recv().await?), of))
    })
}

fn say(word: &str) -> Frame {
    Frame::Data(word.to_owned())
}

/// A quarter of what every recording may keep.
fn page() -> Frame {
    Frame::Data("x".repeat(LEAST_KEPT_BYTES / 4))
}

async fn text(response: Response) -> String {
    let body = response.into_body().collect().await.expect("a body");
    String::from_utf8(body.to_bytes().to_vec()).expect("text")
}

#[tokio::test]
async fn the_rest_comes_exactly_once_however_the_connection_was_lost() {
    let streams = streams();
    let (sender, receiver) = mpsc::channel(8);
    let first = respond(frames(receiver), Some(ticket(&streams)));
    sender.send(say("one")).await.expect("recorded");
    sender.send(say("two")).await.expect("recorded");
    drop(first);
    sender.send(say("three")).await.expect("still recorded");
    let listener = streams.listen(&key(7), 1).expect("kept");
    let rest = heard(listener, 1, &streams);
    drop(sender);
    let rest = text(rest).await;
    assert_eq!(rest, "id: 2\ndata: two\n\nid: 3\ndata: three\n\n");
}

#[tokio::test]
async fn another_body_with_the_same_id_neither_ends_nor_reads_a_stream() {
    let streams = streams();
    let (sender, receiver) = mpsc::channel(8);
    let first = respond(frames(receiver), Some(ticket(&streams)));
    sender.send(say("one")).await.expect("recorded");
    drop(first);
    assert!(streams.listen(&key(8), 0).is_none(), "another body");
    let (_other, receiver) = mpsc::channel(8);
    let _second = respond(frames(receiver), Some(ticket_for(&streams, key(8))));
    sender.send(say("two")).await.expect("still recorded");
    drop(sender);
    let listener = streams.listen(&key(7), 0).expect("still kept");
    let rest = text(heard(listener, 0, &streams)).await;
    assert_eq!(rest, "id: 1\ndata: one\n\nid: 2\ndata: two\n\n");
}

#[tokio::test]
async fn another_key_neither_reads_nor_replaces_a_stream_whose_request_it_knows() {
    let streams = streams();
    let key_of = |name: Option<&str>| StreamKey {
        key_name: name.map(str::to_owned),
        ..key(7)
    };
    let mut senders = Vec::new();
    for name in [Some("till"), Some("tablet"), None] {
        let stranger = streams.listen(&key_of(name), 0);
        assert!(stranger.is_none(), "of {name:?} there is none yet");
        let (sender, receiver) = mpsc::channel(8);
        drop(respond(
            frames(receiver),
            Some(ticket_for(&streams, key_of(name))),
        ));
        let word = name.unwrap_or("anyone");
        sender.send(say(word)).await.expect("recorded");
        senders.push(sender);
    }
    drop(senders);
    for name in [Some("till"), Some("tablet"), None] {
        let listener = streams.listen(&key_of(name), 0).expect("kept");
        let whole = text(heard(listener, 0, &streams)).await;
        let word = name.unwrap_or("anyone");
        assert_eq!(whole, format!("id: 1\ndata: {word}\n\n"));
    }
}

/// Writes as a recorder does; whether there was room.
fn write(recording: &Recording, frame: Frame) -> bool {
    let has_room = recording.room().now_or_never().is_some();
    if has_room {
        recording.write(frame);
    }
    has_room
}

#[tokio::test]
async fn what_is_written_down_takes_so_much_memory_and_no_more() {
    let streams = streams();
    let (recording, listener) = streams.record(&key(7), CLIENT).expect("room");
    drop(listener);
    let pages = MOST_RECORDED_BYTES / (LEAST_KEPT_BYTES / 4);
    for _ in 0..pages + 8 {
        assert!(write(&recording, page()), "nobody listens");
    }
    assert!(streams.bytes() <= MOST_RECORDED_BYTES + LEAST_KEPT_BYTES / 4);
    assert!(streams.listen(&key(7), 6).is_none() && streams.listen(&key(7), 7).is_some());
    recording.end();
    let listener = streams.listen(&key(7), pages + 6).expect("kept");
    let rest = text(heard(listener, pages + 6, &streams)).await;
    assert!(rest.starts_with(&format!("id: {}\n", pages + 7)));
    // What nobody listens to gives way to a new one.
    let (few, _listener) = streams.record(&key(8), CLIENT).expect("room");
    assert_eq!(streams.bytes(), 0);
    assert!(write(&few, page()));
    drop(recording);
    assert!(streams.listen(&key(8), 0).is_some(), "a short one is whole");
}

#[tokio::test]
async fn what_listeners_have_not_read_is_waited_for_not_dropped() {
    let streams = streams();
    let outbox = Outbox::new(&SendBudget::new(usize::MAX));
    let (recording, mut slow) = streams.record(&key(7), CLIENT).expect("room");
    let mut fast = streams.listen(&key(7), 0).expect("kept");
    let mut written = 0;
    while write(&recording, page()) {
        written += 1;
    }
    for _ in 0..written {
        assert!(fast.hear(&outbox).await.is_some());
    }
    let mut room = pin!(recording.room());
    assert!(room.as_mut().now_or_never().is_none(), "one is behind");
    for _ in 0..2 {
        assert!(slow.hear(&outbox).await.is_some());
    }
    assert!(room.now_or_never().is_some(), "it has read on");
    let mut more = 0;
    while write(&recording, page()) {
        more += 1;
    }
    assert!(more > 0);
    // Nothing is lost to either.
    for _ in 2..written + more {
        assert!(slow.hear(&outbox).await.is_some());
    }
    for _ in 0..more {
        assert!(fast.hear(&outbox).await.is_some());
    }
}

#[tokio::test]
async fn a_listener_that_leaves_holds_nothing_up() {
    let streams = streams();
    let (recording, listener) = streams.record(&key(7), CLIENT).expect("room");
    while write(&recording, page()) {}
    let room = tokio::spawn({
        let recording = Arc::clone(&recording);
        async move { recording.room().await }
    });
    tokio::task::yield_now().await;
    assert!(!room.is_finished());
    drop(listener);
    room.await.expect("room");
    assert!(write(&recording, page()));
}

#[tokio::test]
async fn whoever_asks_anew_does_not_come_back_for_the_older_answer() {
    let streams = streams();
    for leaves_first in [true, false] {
        let (sender, receiver) = mpsc::channel(8);
        let first = respond(frames(receiver), Some(ticket(&streams)));
        let stays = (!leaves_first).then_some(first);
        let (_other, receiver) = mpsc::channel(8);
        let _second = respond(frames(receiver), Some(ticket(&streams)));
        if let Some(stays) = stays {
            let still = tokio::time::timeout(Duration::from_millis(20), sender.closed());
            still.await.expect_err("somebody reads it");
            drop(stays);
        }
        let given_up = tokio::time::timeout(LONGEST_ABSENCE / 2, sender.closed());
        given_up.await.expect("at once");
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_comes_back_for_is_given_up_and_forgotten() {
    let streams = streams();
    let (sender, receiver) = mpsc::channel(8);
    let first = respond(frames(receiver), Some(ticket(&streams)));
    sender.send(Frame::done()).await.expect("recorded");
    drop(first);
    sender.closed().await;
    tokio::time::sleep(2 * LONGEST_ABSENCE).await;
    assert!(streams.listen(&key(7), 0).is_none());
    assert_eq!(streams.bytes(), 0);
}
