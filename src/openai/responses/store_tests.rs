//! What is kept, for how long, and what gives way.

use proptest::prelude::*;

use super::*;
use crate::openai::responses::items::{ItemId, ItemPart, ItemRole, ItemStatus};

/// Who asks where there are no keys.
const NOBODY: Owner = None;

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

fn principal(name: Option<&str>) -> Arc<Principal> {
    Arc::new(Principal {
        name: owner(name),
        ..Principal::anyone()
    })
}

fn owner(name: Option<&str>) -> Owner {
    name.map(str::to_owned)
}

fn responses(contents: &StoreContents) -> usize {
    contents.owners.values().map(OwnerContents::len).sum()
}

fn going_on_from(
    contents: &mut StoreContents,
    owner: &Owner,
    id: &str,
    now: Instant,
) -> Vec<InputSource> {
    let stored = contents.find(owner, id, now).expect("stored");
    let items = stored.conversation().into_iter();
    items.map(InputSource::Stored).collect()
}

#[test]
fn a_conversation_goes_on_when_its_beginning_is_gone() {
    let now = Instant::now();
    let mut contents = contents(10, 1 << 20);
    assert!(contents.keep(&NOBODY, draft("a", Vec::new(), 5), now));
    let before = going_on_from(&mut contents, &NOBODY, "a", now);
    assert!(contents.keep(&NOBODY, draft("b", before, 5), now));
    assert!(contents.forget(&NOBODY, "a", now));
    assert!(!contents.forget(&NOBODY, "a", now));
    let stored = contents.find(&NOBODY, "b", now).expect("stored");
    let conversation = stored.conversation();
    let ids: Vec<&str> = conversation
        .iter()
        .map(|kept| kept.item.id().as_str())
        .collect();
    assert_eq!(ids, ["in_a", "out_a", "in_b", "out_b"]);
    assert!(
        contents.item(&NOBODY, "in_a", now).is_none(),
        "deleted with its response"
    );
    assert!(contents.item(&NOBODY, "out_b", now).is_some());
}

#[test]
fn everything_is_forgotten_when_it_is_old() {
    let now = Instant::now();
    let mut contents = contents(10, 1 << 20);
    contents.keep(&NOBODY, draft("a", Vec::new(), 5), now);
    contents.keep(&NOBODY, draft("b", Vec::new(), 5), now + HOUR / 2);
    assert!(
        contents
            .find(&NOBODY, "a", now + HOUR - Duration::from_secs(1))
            .is_some()
    );
    assert!(contents.find(&NOBODY, "a", now + HOUR).is_none());
    assert!(contents.find(&NOBODY, "b", now + HOUR).is_some());
    assert!(contents.item(&NOBODY, "out_b", now + 2 * HOUR).is_none());
    assert_eq!(contents.bytes.load(Ordering::Relaxed), 0);
    assert!(contents.owners.is_empty());
}

#[test]
fn what_is_too_large_displaces_nothing() {
    let now = Instant::now();
    let mut contents = contents(10, 10_000);
    assert!(contents.keep(&NOBODY, draft("a", Vec::new(), 5), now));
    assert!(!contents.keep(&NOBODY, draft("b", Vec::new(), 10_000), now));
    assert!(contents.find(&NOBODY, "a", now).is_some());
}

#[tokio::test(start_paused = true)]
async fn what_is_too_old_goes_even_if_nobody_asks() {
    let store = ResponseStore::new(StoreLimits {
        responses: 10,
        bytes: 1 << 20,
        age: HOUR,
    });
    let ours = store.of(&principal(None));
    for id in ["a", "b"] {
        assert!(ours.keep(draft(id, Vec::new(), 5)));
        tokio::time::sleep(HOUR / 2).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(responses(&store.contents()), 1);
    tokio::time::sleep(HOUR).await;
    assert_eq!(store.contents().bytes.load(Ordering::Relaxed), 0);
    // And again, once there is something again.
    assert!(ours.keep(draft("c", Vec::new(), 5)));
    tokio::time::sleep(2 * HOUR).await;
    assert_eq!(responses(&store.contents()), 0);
}

#[tokio::test]
async fn what_another_key_stored_does_not_exist() {
    let store = ResponseStore::new(StoreLimits {
        responses: 10,
        bytes: 1 << 20,
        age: HOUR,
    });
    let till = store.of(&principal(Some("till")));
    let others = [Some("tablet"), Some(""), None].map(|name| store.of(&principal(name)));
    assert!(till.keep(draft("a", Vec::new(), 5)));
    for other in &others {
        assert!(other.find("a").is_none() && other.item("in_a").is_none());
        assert!(!other.forget("a"));
        // Nor does it take an id over.
        assert!(other.keep(draft("a", Vec::new(), 50)));
        assert!(other.forget("a"));
    }
    // The key again, after it was read again from its file.
    let till = store.of(&principal(Some("till")));
    let stored = till.find("a").expect("stored");
    let item = till.item("in_a").expect("stored");
    assert!(Arc::ptr_eq(&stored.input[0], &item));
    assert!(till.forget("a") && till.find("a").is_none());
}

#[test]
fn a_key_that_floods_the_store_pushes_out_its_own() {
    let now = Instant::now();
    let (till, tablet) = (owner(Some("till")), owner(Some("tablet")));
    // Short of bytes, then of responses.
    for (responses, bytes, length) in [(10_000, 100_000, 5000), (20, 1 << 30, 5)] {
        let mut contents = contents(responses, bytes);
        for id in ["first", "second"] {
            assert!(contents.keep(&till, draft(id, Vec::new(), 20_000), now));
        }
        for number in 0..1000 {
            let id = number.to_string();
            assert!(contents.keep(&tablet, draft(&id, Vec::new(), length), now));
            contents.check_integrity(now);
        }
        for id in ["first", "second"] {
            assert!(contents.find(&till, id, now).is_some());
        }
        assert!(contents.find(&tablet, "0", now).is_none());
        assert!(contents.find(&tablet, "999", now).is_some());
    }
}

#[test]
fn a_key_that_filled_the_store_makes_room_for_another() {
    let now = Instant::now();
    let (till, tablet) = (owner(Some("till")), owner(Some("tablet")));
    let mut contents = contents(100, 20_000);
    for number in 0..100 {
        let id = number.to_string();
        assert!(contents.keep(&tablet, draft(&id, Vec::new(), 500), now));
    }
    let held = contents.owners[&tablet].len();
    assert!(contents.keep(&till, draft("a", Vec::new(), 5000), now));
    assert!(contents.find(&till, "a", now).is_some());
    assert!((1..held).contains(&contents.owners[&tablet].len()));
    // What would push out others that have less is refused, and nothing is lost for it.
    let held = responses(&contents);
    assert!(!contents.keep(&tablet, draft("large", Vec::new(), 16_000), now));
    assert_eq!(responses(&contents), held);
    assert!(contents.forget(&till, "a", now));
    assert!(contents.keep(&tablet, draft("large", Vec::new(), 16_000), now));
}

#[test]
fn a_conversation_that_outgrows_the_store_is_refused_and_its_beginning_stays() {
    let now = Instant::now();
    let mut contents = contents(10, 10_000);
    assert!(contents.keep(&NOBODY, draft("a", Vec::new(), 5000), now));
    let before = going_on_from(&mut contents, &NOBODY, "a", now);
    assert!(!contents.keep(&NOBODY, draft("b", before, 4000), now));
    assert!(contents.find(&NOBODY, "a", now).is_some());
    assert!(contents.find(&NOBODY, "b", now).is_none());
}

#[derive(Debug, Clone)]
enum Step {
    /// Goes on from the response of this number, if it is stored.
    Keep(Owner, usize, usize),
    Forget(Owner, usize),
    Wait(u64),
}

fn any_owner() -> impl Strategy<Value = Owner> {
    prop::sample::select(vec![NOBODY, owner(Some("till")), owner(Some("tablet"))])
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any_owner(), 0..40_usize, 0..3000_usize)
            .prop_map(|(owner, from, length)| Step::Keep(owner, from, length)),
        1 => (any_owner(), 0..40_usize).prop_map(|(owner, id)| Step::Forget(owner, id)),
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
        assert!(responses(self) <= limits.responses);
        let own = self.owners.values();
        assert_eq!(
            own.map(|own| own.check_integrity(limits, now))
                .sum::<usize>(),
            bytes
        );
    }
}

impl OwnerContents {
    /// Returns the bytes that it takes.
    #[allow(clippy::used_underscore_binding)] // as above
    fn check_integrity(&self, limits: StoreLimits, now: Instant) -> usize {
        let mut held: HashMap<*const StoredItem, usize> = HashMap::new();
        let mut sum = 0;
        for (_, (expires, stored)) in &self.responses {
            assert!(*expires > now && *expires <= now + limits.age);
            sum += stored._charge.bytes;
            for kept in stored.input.iter().chain(&stored.output) {
                assert!(Arc::ptr_eq(&kept._charge.account.own, &self.account.own));
                held.insert(Arc::as_ptr(kept), kept._charge.bytes);
            }
        }
        for kept in self.items.values() {
            assert!(held.contains_key(&Arc::as_ptr(kept)), "a stray item");
        }
        assert_eq!(sum + held.values().sum::<usize>(), self.bytes());
        self.bytes()
    }
}

proptest! {
    #[test]
    fn the_bounds_hold_whatever_comes(steps in prop::collection::vec(step(), 1..60)) {
        let mut now = Instant::now();
        let mut contents = contents(8, 16_000);
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Keep(owner, from, length) => {
                    let from = from.to_string();
                    let before = match contents.find(&owner, &from, now) {
                        Some(_) => going_on_from(&mut contents, &owner, &from, now),
                        None => Vec::new(),
                    };
                    let draft = draft(&number.to_string(), before, length);
                    let size = draft.whole_size();
                    let held = |contents: &StoreContents| -> HashMap<Owner, usize> {
                        let each = contents.owners.iter();
                        each.map(|(owner, held)| (owner.clone(), held.bytes())).collect()
                    };
                    let earlier = held(&contents);
                    let kept = contents.keep(&owner, draft, now);
                    prop_assert_eq!(kept, contents.find(&owner, &number.to_string(), now).is_some());
                    // Three fit in any case.
                    prop_assert!(kept || size > 16_000 / 3);
                    if !kept {
                        prop_assert_eq!(held(&contents), earlier);
                    }
                }
                Step::Forget(owner, id) => {
                    contents.forget(&owner, &id.to_string(), now);
                }
                Step::Wait(seconds) => {
                    now += Duration::from_secs(seconds);
                    contents.expire(now);
                }
            }
            contents.check_integrity(now);
        }
    }

    #[test]
    fn who_has_less_loses_nothing_to_who_has_more(
        lengths in prop::collection::vec((any::<bool>(), 0..6000_usize), 1..60),
    ) {
        let now = Instant::now();
        let mut contents = contents(1000, 20_000);
        for (number, (of_till, length)) in lengths.into_iter().enumerate() {
            let (owner, other) = if of_till {
                (owner(Some("till")), owner(Some("tablet")))
            } else {
                (owner(Some("tablet")), owner(Some("till")))
            };
            let bytes = |contents: &StoreContents, owner| {
                contents.owners.get(owner).map_or(0, OwnerContents::bytes)
            };
            let (before, lost) = (bytes(&contents, &owner), bytes(&contents, &other));
            contents.keep(&owner, draft(&number.to_string(), Vec::new(), length), now);
            let lost = lost - bytes(&contents, &other);
            // It had as much at the time, or more, than the one that has it now.
            let has = bytes(&contents, &owner);
            prop_assert!(lost == 0 || bytes(&contents, &other) + lost >= has);
            prop_assert!(has > 0 || before == 0);
            contents.check_integrity(now);
        }
    }
}
