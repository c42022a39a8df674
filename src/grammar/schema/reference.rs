//! References within a schema, followed as llguidance follows them.

use serde_json::Value;

/// Where a reference leads.
pub(super) struct Target<'s> {
    /// As it is written, such as `#/$defs/name`.
    pub(super) reference: String,
    pub(super) schema: &'s Value,
}

/// The place that a reference names, as llguidance finds it: names as they are written, without
/// JSON Pointer's escapes. What we check has to be what it compiles.
pub(super) fn resolve<'s>(root: &'s Value, reference: &str) -> Option<&'s Value> {
    if reference == "#" || reference == "#/" {
        return Some(root);
    }
    let mut names = reference.strip_prefix("#/")?.split('/');
    names.try_fold(root, |place, name| match place {
        Value::Array(list) => list.get(index(name)?),
        other => other.get(name),
    })
}

/// The same place, to change it.
pub(super) fn resolve_mut<'s>(root: &'s mut Value, reference: &str) -> Option<&'s mut Value> {
    if reference == "#" || reference == "#/" {
        return Some(root);
    }
    let mut names = reference.strip_prefix("#/")?.split('/');
    names.try_fold(root, |place, name| match place {
        Value::Array(list) => list.get_mut(index(name)?),
        other => other.get_mut(name),
    })
}

/// `#/$defs/name` as `.$defs.name`.
pub(super) fn place_of(reference: &str) -> String {
    let names = reference.trim_start_matches('#').trim_end_matches('/');
    names.replace('/', ".")
}

/// Written in the one way in which it is no second name of the same place: not `00` or `+0`.
fn index(name: &str) -> Option<usize> {
    let index = name.parse::<usize>().ok()?;
    (index.to_string() == name).then_some(index)
}
