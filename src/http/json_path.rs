//! Looking at one place of a JSON text, and at its names, without making values of the rest.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;

use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::{Number, Value};
use serde_path_to_error::{Path, Segment};

/// Characters of a string that are shown.
const LONGEST_SHOWN: usize = 400;

/// What stands at a place, without what is within it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum JsonKind {
    Null,
    Bool(bool),
    Number(Number),
    /// The beginning of a string.
    String(String),
    Array,
    /// The names of an object's members.
    Object(HashSet<String>),
}

impl JsonKind {
    /// Returns what stands at `path` of a value.
    pub(super) fn in_value(value: &Value, path: &Path) -> Option<Self> {
        let place = path.iter().try_fold(value, |value, segment| match segment {
            Segment::Seq { index } => value.get(index),
            Segment::Map { key } => value.get(key),
            Segment::Enum { .. } | Segment::Unknown => Some(value),
        });
        Some(match place? {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::string(text),
            Value::Array(_) => Self::Array,
            Value::Object(members) => Self::Object(members.keys().cloned().collect()),
        })
    }

    /// Returns what stands at `path` of a text, which need not be JSON after that.
    pub(super) fn in_text(bytes: &[u8], path: &Path) -> Option<Self> {
        let segments: Vec<&Segment> = path.iter().collect();
        let mut found = None;
        let seeker = Seeker {
            path: &segments,
            found: &mut found,
        };
        // It ends with an error where the place was found and the rest is not read.
        drop(seeker.deserialize(&mut serde_json::Deserializer::from_slice(bytes)));
        found
    }

    fn string(text: &str) -> Self {
        Self::String(text.chars().take(LONGEST_SHOWN).collect())
    }
}

struct Seeker<'s> {
    path: &'s [&'s Segment],
    found: &'s mut Option<JsonKind>,
}

impl<'de> DeserializeSeed<'de> for Seeker<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Seeker<'_> {
    fn note(self, kind: JsonKind) {
        if self.path.is_empty() {
            *self.found = Some(kind);
        }
    }
}

impl<'de> Visitor<'de> for Seeker<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.note(JsonKind::Null);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.note(JsonKind::Bool(value));
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.note(JsonKind::Number(number.into()));
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.note(JsonKind::Number(number.into()));
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        if let Some(number) = Number::from_f64(number) {
            self.note(JsonKind::Number(number));
        }
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.note(JsonKind::string(text));
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let Some((Segment::Seq { index }, rest)) = self.path.split_first() else {
            self.note(JsonKind::Array);
            return Ok(());
        };
        for _ in 0..*index {
            if items.next_element::<IgnoredAny>()?.is_none() {
                return Ok(());
            }
        }
        let seeker = Seeker {
            path: rest,
            found: self.found,
        };
        items.next_element_seed(seeker).map(drop)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Some((segment, rest)) = self.path.split_first() else {
            let mut names = HashSet::new();
            while let Some((name, _)) = members.next_entry::<String, IgnoredAny>()? {
                names.insert(name);
            }
            self.note(JsonKind::Object(names));
            return Ok(());
        };
        let Segment::Map { key } = segment else {
            return Ok(());
        };
        while let Some(name) = members.next_key::<Cow<'_, str>>()? {
            if name == *key {
                let seeker = Seeker {
                    path: rest,
                    found: self.found,
                };
                return members.next_value_seed(seeker);
            }
            members.next_value::<IgnoredAny>()?;
        }
        Ok(())
    }
}

/// Whether an object of a text has two members of one name.
pub(super) fn has_duplicate_names(bytes: &[u8]) -> bool {
    let names = serde_json::from_slice::<DuplicateNames>(bytes);
    names.is_ok_and(|DuplicateNames(found)| found)
}

struct DuplicateNames(bool);

impl<'de> Deserialize<'de> for DuplicateNames {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DuplicateNamesVisitor)
    }
}

struct DuplicateNamesVisitor;

impl<'de> Visitor<'de> for DuplicateNamesVisitor {
    type Value = DuplicateNames;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<DuplicateNames, E> {
        Ok(DuplicateNames(false))
    }

    fn visit_bool<E>(self, _: bool) -> Result<DuplicateNames, E> {
        Ok(DuplicateNames(false))
    }

    fn visit_i64<E>(self, _: i64) -> Result<DuplicateNames, E> {
        Ok(DuplicateNames(false))
    }

    fn visit_u64<E>(self, _: u64) -> Result<DuplicateNames, E> {
        Ok(DuplicateNames(false))
    }

    fn visit_f64<E>(self, _: f64) -> Result<DuplicateNames, E> {
        Ok(DuplicateNames(false))
    }

    fn visit_str<E>(self, _: &str) -> Result<DuplicateNames, E> {
        Ok(DuplicateNames(false))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<DuplicateNames, A::Error> {
        let mut any = false;
        while let Some(DuplicateNames(found)) = items.next_element()? {
            any |= found;
        }
        Ok(DuplicateNames(any))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<DuplicateNames, A::Error> {
        let (mut names, mut any) = (HashSet::new(), false);
        while let Some(name) = members.next_key::<String>()? {
            any |= !names.insert(name);
            any |= members.next_value::<DuplicateNames>()?.0;
        }
        Ok(DuplicateNames(any))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_duplicates_within_one_object_alone() {
        for (text, expected) in [
            (r#"{"a": 1, "b": [{"a": 1}, {"a": "a"}]}"#, false),
            (r#"{"a": 1, "\u0061": 2}"#, true),
            (r#"[null, {"x": {"a": 1.5, "a": -1}}]"#, true),
            (r#"{"a": 1, "a": 2"#, false),
        ] {
            assert_eq!(has_duplicate_names(text.as_bytes()), expected, "{text}");
        }
    }
}
