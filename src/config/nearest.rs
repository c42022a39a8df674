//! The nearest valid name for one that is unknown.

use strsim::damerau_levenshtein;

use super::schema::{Schema, Section};

/// Says which key was probably meant by `written`, a full key.
///
/// `variable` turns a key into the environment variable that sets it, for mistakes in one.
pub(super) fn key_hint(
    schema: Schema,
    written: &str,
    variable: Option<fn(&str) -> String>,
) -> String {
    let written = written.to_lowercase();
    let (prefix, name) = written.rsplit_once('.').unwrap_or(("", &written));
    // The name of a section alone is near to its own keys, however short another's are.
    let meant = schema.section(&written);
    let is_meant = |section: &&Section| meant.is_none_or(|meant| meant.name == section.name);
    let candidates = schema.0.iter().filter(is_meant).flat_map(|section| {
        // An entry of a list keeps its index: `models[2].pth` is near `models[2].path`.
        let prefix = if names_entry_of(prefix, section) {
            prefix
        } else {
            section.name
        };
        section.keys.iter().map(move |key| (prefix, key.name))
    });
    let nearest = candidates
        .map(|(section, key)| {
            let full = format!("{section}.{key}");
            // A key may be well written but in the wrong section.
            let misplaced = damerau_levenshtein(name, key) + 1;
            (misplaced.min(damerau_levenshtein(&written, &full)), full)
        })
        .min();
    let Some((distance, key)) = nearest else {
        return String::new();
    };
    let also = variable.map_or_else(String::new, |variable| format!(" ({})", variable(&key)));
    if distance <= tolerance(name) {
        format!("did you mean `{key}`{also}?")
    } else {
        format!("the nearest key is `{key}`{also}")
    }
}

/// Says which section was probably meant by `written`.
pub(super) fn section_hint(schema: Schema, written: &str) -> String {
    let written = written.to_lowercase();
    let near = schema
        .0
        .iter()
        .map(|section| (damerau_levenshtein(&written, section.name), section))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= tolerance(&written));
    if let Some((_, section)) = near {
        format!("did you mean `{}`?", section.heading())
    } else {
        let headings: Vec<_> = schema.0.iter().map(Section::heading).collect();
        format!("the sections are {}", headings.join(", "))
    }
}

/// Says which model's id was probably meant, in words that go on with a sentence.
pub(super) fn id_hint<'a>(written: &str, ids: impl Iterator<Item = &'a str>) -> String {
    ids.min_by_key(|id| damerau_levenshtein(written, id))
        .map_or_else(String::new, |id| format!(", like {id:?}"))
}

/// How many typing errors a name of this length may have and still be recognised.
fn tolerance(name: &str) -> usize {
    (name.chars().count() / 3).max(2)
}

fn names_entry_of(prefix: &str, section: &Section) -> bool {
    section.entry.is_some()
        && prefix
            .split_once('[')
            .is_some_and(|(name, _)| name == section.name)
}
