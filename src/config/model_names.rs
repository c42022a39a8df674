//! The checks of names across models: a name leads to one model, and a sibling is a model.

use std::collections::BTreeMap;

use ::config::{Value, ValueKind};

use super::ConfigMistake;
use super::declare::Values;
use super::mistake::entry_key;
use super::nearest::id_hint;

/// Where a name was first given to a model.
struct Place {
    model: usize,
    key: String,
    origin: String,
}

/// Notes the mistakes of models, of which refused keys are absent.
pub(super) fn check(models: &[Values], mistakes: &mut Vec<ConfigMistake>) {
    let mut places = ids(models, mistakes);
    siblings(models, &places, mistakes);
    aliases(models, &mut places, mistakes);
    defaults(models, mistakes);
}

/// The place of each id.
fn ids<'a>(models: &'a [Values], mistakes: &mut Vec<ConfigMistake>) -> BTreeMap<&'a str, Place> {
    let mut places: BTreeMap<&str, Place> = BTreeMap::new();
    for (model, values) in models.iter().enumerate() {
        let Some(id) = values.get("id") else { continue };
        let ValueKind::String(name) = &id.kind else {
            continue;
        };
        let place = Place::of(model, "id", id);
        match places.get(&**name) {
            Some(first) => mistakes.push(ConfigMistake::DuplicateId {
                key: place.key,
                origin: place.origin,
                id: name.clone(),
                first_key: first.key.clone(),
                first_origin: first.origin.clone(),
            }),
            None => {
                places.insert(name, place);
            }
        }
    }
    places
}

/// An alias is no other model's name. Patterns that are not the same may fit the same name: then the
/// first model's wins, as with the arms of a `case`.
fn aliases<'a>(
    models: &'a [Values],
    places: &mut BTreeMap<&'a str, Place>,
    mistakes: &mut Vec<ConfigMistake>,
) {
    for (model, values) in models.iter().enumerate() {
        for (name, place) in entries(model, values, "aliases") {
            match places.get(name) {
                Some(first) if first.model == model => {}
                Some(first) => mistakes.push(ConfigMistake::NameTaken {
                    key: place.key,
                    origin: place.origin,
                    name: name.to_owned(),
                    first_key: first.key.clone(),
                    first_origin: first.origin.clone(),
                }),
                None => {
                    places.insert(name, place);
                }
            }
        }
    }
}

fn siblings(models: &[Values], ids: &BTreeMap<&str, Place>, mistakes: &mut Vec<ConfigMistake>) {
    for (model, values) in models.iter().enumerate() {
        for (name, place) in entries(model, values, "siblings") {
            if ids.get(name).is_some_and(|sibling| sibling.model != model) {
                continue;
            }
            let others = ids.iter().filter(|(_, other)| other.model != model);
            mistakes.push(ConfigMistake::UnknownSibling {
                key: place.key,
                origin: place.origin,
                name: name.to_owned(),
                hint: id_hint(name, others.map(|(id, _)| *id)),
            });
        }
    }
}

fn defaults(models: &[Values], mistakes: &mut Vec<ConfigMistake>) {
    let mut places = models.iter().enumerate().filter_map(|(model, values)| {
        let default = values.get("default")?;
        matches!(default.kind, ValueKind::Boolean(true))
            .then(|| Place::of(model, "default", default))
    });
    let Some(first) = places.next() else { return };
    mistakes.extend(places.map(|place| ConfigMistake::SecondDefault {
        key: place.key,
        origin: place.origin,
        first_key: first.key.clone(),
        first_origin: first.origin.clone(),
    }));
}

/// The names in a list of a model, each with the list's place.
fn entries<'a>(
    model: usize,
    values: &'a Values,
    key: &'static str,
) -> impl Iterator<Item = (&'a str, Place)> {
    let list = values.get(key);
    let names = list.into_iter().flat_map(|list| match &list.kind {
        ValueKind::Array(names) => names.as_slice(),
        _ => &[],
    });
    names.filter_map(move |name| match &name.kind {
        ValueKind::String(text) => Some((text.as_str(), Place::of(model, key, list?))),
        _ => None,
    })
}

impl Place {
    fn of(model: usize, key: &str, value: &Value) -> Self {
        Self {
            model,
            key: entry_key("models", model, key),
            origin: value.origin().unwrap_or_default().to_owned(),
        }
    }
}
