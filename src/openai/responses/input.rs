//! Assembles the input items of a response and keeps their ids distinct.

use std::collections::HashMap;

use super::items::ResponseItem;
use super::store::{InputSource, OwnResponses};

/// The items of the conversation so far, oldest first. No two of them have the same id.
#[derive(Debug, Default)]
pub(super) struct InputItems {
    pub(super) sources: Vec<InputSource>,
    places: HashMap<String, usize>,
}

impl InputItems {
    /// Returns the item of a source that is about to be added.
    pub(super) fn item<'a>(&'a self, source: &'a InputSource) -> Option<&'a ResponseItem> {
        match source {
            InputSource::New(item) => Some(item),
            InputSource::Stored(kept) => Some(&kept.item),
            InputSource::Repeated(place) => match self.sources.get(*place)? {
                InputSource::New(item) => Some(item),
                InputSource::Stored(kept) => Some(&kept.item),
                // `referred` returns the index of the first occurrence.
                InputSource::Repeated(_) => None,
            },
        }
    }

    /// Appends an item. If the conversation already has its id, as when a client sends an item again, the new
    /// item gets an id of ours.
    pub(super) fn add(&mut self, mut source: InputSource) {
        if let InputSource::New(item) = &mut source
            && self.places.contains_key(item.id().as_str())
        {
            item.rename();
        }
        if let (false, Some(item)) = (
            matches!(source, InputSource::Repeated(_)),
            self.item(&source),
        ) {
            let id = item.id().as_str().to_owned();
            self.places.entry(id).or_insert(self.sources.len());
        }
        self.sources.push(source);
    }

    /// Resolves an item reference: to an item of this conversation, or to one that the same principal stored
    /// and whose id is ours. Ids that clients chose in other conversations are not visible here.
    pub(super) fn referred(&self, store: &OwnResponses, id: &str) -> Option<InputSource> {
        if let Some(place) = self.places.get(id) {
            return Some(InputSource::Repeated(*place));
        }
        store.item(id).map(InputSource::Stored)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::admission::Principal;
    use crate::openai::responses::items::{ItemId, ItemPart, ItemRole, ItemStatus};
    use crate::openai::responses::store::{ResponseDraft, ResponseStore, StoreLimits};

    fn message(id: ItemId, text: &str) -> ResponseItem {
        ResponseItem::Message {
            id,
            status: ItemStatus::Completed,
            role: ItemRole::User,
            content: vec![ItemPart::InputText {
                text: text.to_owned(),
            }],
        }
    }

    fn store() -> OwnResponses {
        let store = ResponseStore::new(StoreLimits {
            responses: 10,
            bytes: 1 << 20,
            age: Duration::from_secs(60),
        });
        store.of(&Arc::new(Principal::anyone()))
    }

    fn keep(store: &OwnResponses, id: &str, input: InputItems) {
        assert!(store.keep(ResponseDraft {
            id: id.to_owned(),
            body: String::new(),
            input: input.sources,
            output: Vec::new(),
        }));
    }

    fn with(items: impl IntoIterator<Item = ResponseItem>) -> InputItems {
        let mut input = InputItems::default();
        for item in items {
            input.add(InputSource::New(item));
        }
        input
    }

    fn going_on_from(store: &OwnResponses, id: &str) -> InputItems {
        let mut input = InputItems::default();
        for kept in store.find(id).expect("stored").conversation() {
            input.add(InputSource::Stored(kept));
        }
        input
    }

    fn text<'a>(input: &'a InputItems, source: &'a InputSource) -> &'a str {
        let Some(ResponseItem::Message { content, .. }) = input.item(source) else {
            panic!("a message");
        };
        content[0].text()
    }

    #[tokio::test]
    async fn a_clients_id_means_something_in_its_own_conversation_alone() {
        let store = store();
        let theirs = || ItemId::fixed("msg_1", false);
        keep(&store, "mine", with([message(theirs(), "secret")]));
        assert!(InputItems::default().referred(&store, "msg_1").is_none());
        let mine = going_on_from(&store, "mine");
        let found = mine.referred(&store, "msg_1").expect("mine");
        assert_eq!(text(&mine, &found), "secret");
        let other = with([message(theirs(), "other")]);
        let found = other.referred(&store, "msg_1").expect("its own");
        assert_eq!(text(&other, &found), "other");
    }

    #[tokio::test]
    async fn an_id_of_ours_cannot_be_taken_over_now_or_when_its_item_is_gone() {
        let store = store();
        let ours = message(ItemId::new("msg"), "ours");
        let id = ours.id().as_str().to_owned();
        let claimed = || message(ItemId::fixed(&id, false), "claimed");
        keep(&store, "earlier", with([claimed()]));
        assert!(store.item(&id).is_none());
        keep(&store, "ours", with([ours]));
        keep(&store, "later", with([claimed()]));
        let stranger = InputItems::default();
        let found = stranger.referred(&store, &id).expect("stored");
        assert_eq!(text(&stranger, &found), "ours");
        assert!(store.forget("ours"));
        assert!(InputItems::default().referred(&store, &id).is_none());
        assert!(
            going_on_from(&store, "later")
                .referred(&store, &id)
                .is_some()
        );
    }

    #[tokio::test]
    async fn an_item_that_another_key_stored_is_not_found_by_its_id() {
        let limits = StoreLimits {
            responses: 10,
            bytes: 1 << 20,
            age: Duration::from_secs(60),
        };
        let store = ResponseStore::new(limits);
        let of = |name: &str| {
            let name = Some(name.to_owned());
            store.of(&Arc::new(Principal {
                name,
                ..Principal::anyone()
            }))
        };
        let ours = message(ItemId::new("msg"), "ours");
        let id = ours.id().as_str().to_owned();
        keep(&of("till"), "resp_1", with([ours]));
        let input = InputItems::default();
        assert!(input.referred(&of("till"), &id).is_some());
        assert!(input.referred(&of("tablet"), &id).is_none());
    }

    #[test]
    fn no_two_items_of_an_input_have_the_same_id() {
        let twice = || message(ItemId::fixed("msg_1", false), "x");
        let mut input = with([twice(), twice()]);
        let again = input.referred(&store(), "msg_1").expect("there");
        input.add(again);
        let ids: Vec<&str> = input.sources[..2]
            .iter()
            .filter_map(|source| Some(input.item(source)?.id().as_str()))
            .collect();
        assert_eq!(ids[0], "msg_1");
        assert!(ids[1].starts_with("msg_") && ids[1].len() > 30, "{ids:?}");
        assert!(matches!(input.sources[2], InputSource::Repeated(0)));
    }
}
