//! What is kept, for how long, and what gives way.

use proptest::prelude::*;

use super::*;
use crate::openai::responses::items::{ItemId, ItemPart, ItemRole, ItemStatus};

const HOUR: Duration = Duration::from_secs(3600);

fn message(id: &str, length: usize) -> ResponseItem {
    ResponseItem::Message {
        id: ItemId::fixed(id, true),
        status: ItemStatus::Completed,
        role: ItemRole::User,
        content: vec![ItemPart::InputText {
            text: "x".repeat(length),
        }],
    }
}

/// A response with one item of so many letters in, and one of ten out.
fn draft(id: &str, before: Vec<InputSource>, length: usize) -> ResponseDraft {
    let mut input = before;
    input.push(InputSource::New(message(&format!("in_{id}"), length)));
    ResponseDraft {
        id: id.to_owned(),
        body: "{}".to_owned(),
        input,
        output: vec![message(&format!("out_{id}"), 10)],
    }
}

fn contents(responses: usize, bytes: usize) -> StoreContents {
    StoreContents::new(StoreLimits {
        responses,
        bytes,
        age: HOUR,
    })
}

fn going_on_from(contents: &mut StoreContents, id: &str, now: Instant) -> Vec<InputSource> {
    let stored = contents.find(id, now).expect("stored");
    let items = stored.conversation().into_iter();
    items.map(InputSource::Stored).collect()
}

#[test]
fn a_conversation_goes_on_when_its_beginning_is_gone() {
    let now = Instant::now();
    let mut contents = contents(10, 1 << 20);
    assert!(contents.keep(draft("a", Vec::new(), 5), now));
    let before = going_on_from(&mut contents, "a", now);
    assert!(contents.keep(draft("b", before, 5), now));
    assert!(contents.forget("a", now));
    assert!(!contents.forget("a", now));
    let stored = contents.find("b", now).expect("stored");
    let conversation = stored.conversation();
    let ids: Vec<&str> = conversation
        .iter()
        .map(|kept| kept.item.id().as_str())
        .collect();
    assert_eq!(ids, ["in_a", "out_a", "in_b", "out_b"]);
    assert!(
        contents.item("in_a", now).is_none(),
        "deleted with its response"
    );
    assert!(contents.item("out_b", now).is_some());
}

#[test]
fn everything_is_forgotten_when_it_is_old() {
    let now = Instant::now();
    let mut contents = contents(10, 1 << 20);
    contents.keep(draft("a", Vec::new(), 5), now);
    contents.keep(draft("b", Vec::new(), 5), now + HOUR / 2);
    assert!(
        contents
            .find("a", now + HOUR - Duration::from_secs(1))
            .is_some()
    );
    assert!(contents.find("a", now + HOUR).is_none());
    assert!(contents.find("b", now + HOUR).is_some());
    assert!(contents.item("out_b", now + 2 * HOUR).is_none());
    assert_eq!(contents.bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn what_is_too_large_displaces_nothing() {
    let now = Instant::now();
    let mut contents = contents(10, 10_000);
    assert!(contents.keep(draft("a", Vec::new(), 5), now));
    assert!(!contents.keep(draft("b", Vec::new(), 10_000), now));
    assert!(contents.find("a", now).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_goes_even_if_nobody_asks() {
    let store = ResponseStore::new(StoreLimits {
        responses: 10,
        bytes: 1 << 20,
        age: HOUR,
    });
    for id in ["a", "b"] {
        assert!(store.keep(draft(id, Vec::new(), 5)));
        tokio::time::sleep(HOUR / 2).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(store.contents().responses.len(), 1);
    tokio::time::sleep(HOUR).await;
    assert_eq!(store.contents().bytes.load(Ordering::Relaxed), 0);
    // And again, once there is something again.
    assert!(store.keep(draft("c", Vec::new(), 5)));
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(store.contents().responses.len(), 0);
}

#[derive(Debug, Clone)]
enum Step {
    /// Goes on from the response of this number, if it is stored.
    Keep(usize, usize),
    Forget(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..40_usize, 0..3000_usize).prop_map(|(from, length)| Step::Keep(from, length)),
        1 => (0..40_usize).prop_map(Step::Forget),
        1 => (0..2400_u64).prop_map(Step::Wait),
    ]
}

impl StoreContents {
    #[allow(clippy::used_underscore_binding)] // nobody else looks at it
    /// What is counted is what is there, and nothing stays that nobody can reach.
    fn check_integrity(&self, now: Instant) {
        let limits = self.limits;
        let bytes = self.bytes.load(Ordering::Relaxed);
        assert!(bytes <= limits.bytes, "{bytes} bytes");
        assert!(self.responses.len() <= limits.responses);
        let mut held: HashMap<*const StoredItem, usize> = HashMap::new();
        let mut sum = 0;
        for (_, (expires, stored)) in &self.responses {
            assert!(*expires > now && *expires <= now + limits.age);
            sum += stored._charge.bytes;
            for kept in stored.input.iter().chain(&stored.output) {
                held.insert(Arc::as_ptr(kept), kept._charge.bytes);
            }
        }
        assert_eq!(sum + held.values().sum::<usize>(), bytes);
        for kept in self.items.values() {
            assert!(held.contains_key(&Arc::as_ptr(kept)), "a stray item");
        }
    }
}

proptest! {
    #[test]
    fn the_bounds_hold_whatever_comes(steps in prop::collection::vec(step(), 1..60)) {
        let mut now = Instant::now();
        let mut contents = contents(8, 16_000);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Keep(from, length) => {
                    let before = match contents.find(&from.to_string(), now) {
                        Some(_) => going_on_from(&mut contents, &from.to_string(), now),
                        None => Vec::new(),
                    };
                    let id = number.to_string();
                    let kept = contents.keep(draft(&id, before, length), now);
                    prop_assert!(kept, "it would fit into an empty store");
                }
                Step::Forget(id) => {
                    contents.forget(&id.to_string(), now);
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    contents.expire(now);
                }
            }
            contents.check_integrity(now);
        }
    }
}
