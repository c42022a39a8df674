//! Paths to values within a request.

use std::borrow::Cow;
use std::fmt;

/// The path to a value in a request, such as `tools[0].function.parameters`.
///
/// A path may hold words that a client chose: keys of a map, or names of properties in a schema. `Display`
/// shows them, because error messages tell the client where to look; [`FieldPath::known`], which logs use,
/// ends before the first of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldPath {
    segments: Vec<Segment>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Segment {
    /// A parameter name of ours, or several joined by dots.
    Name(Cow<'static, str>),
    Index(usize),
    /// A key that the client chose.
    Key(String),
    /// Keys and indices that the client chose, as they are written, such as `.properties.price`.
    Keys(String),
}

impl FieldPath {
    /// Returns the path of the parameter `name` within the value here.
    #[must_use]
    pub fn name(&self, name: &'static str) -> Self {
        self.and(Segment::Name(name.into()))
    }

    /// Like [`FieldPath::name`], for a dynamic name that was looked up among ours.
    #[must_use]
    pub fn known_name(&self, name: &str) -> Self {
        self.and(Segment::Name(name.to_owned().into()))
    }

    /// Returns the path of the item at `index` of the list here.
    #[must_use]
    pub fn index(&self, index: usize) -> Self {
        self.and(Segment::Index(index))
    }

    /// Returns the path of the client's own `key` in the map here.
    #[must_use]
    pub fn key(&self, key: impl Into<String>) -> Self {
        self.and(Segment::Key(key.into()))
    }

    /// Returns the path that the client's own keys and indices lead to, such as `.properties.price`.
    #[must_use]
    pub fn keys(&self, keys: impl Into<String>) -> Self {
        let keys = keys.into();
        if keys.is_empty() {
            self.clone()
        } else {
            self.and(Segment::Keys(keys))
        }
    }

    fn and(&self, segment: Segment) -> Self {
        let mut path = self.clone();
        path.segments.push(segment);
        path
    }

    /// Appends `path` to this one.
    #[must_use]
    pub fn join(&self, path: Self) -> Self {
        let mut joined = self.clone();
        joined.segments.extend(path.segments);
        joined
    }

    /// Whether this is the path of the whole request.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Returns the path up to the first word that the client chose.
    #[must_use]
    pub fn known(&self) -> Self {
        let is_known = |segment: &&Segment| matches!(segment, Segment::Name(_) | Segment::Index(_));
        Self {
            segments: self.segments.iter().take_while(is_known).cloned().collect(),
        }
    }
}

impl From<&'static str> for FieldPath {
    fn from(name: &'static str) -> Self {
        if name.is_empty() {
            Self::default()
        } else {
            Self::default().name(name)
        }
    }
}

impl From<&Self> for FieldPath {
    fn from(path: &Self) -> Self {
        path.clone()
    }
}

impl fmt::Display for FieldPath {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, segment) in self.segments.iter().enumerate() {
            let dot = if place == 0 { "" } else { "." };
            match segment {
                Segment::Name(name) => write!(formatter, "{dot}{name}")?,
                Segment::Key(key) => write!(formatter, "{dot}{key}")?,
                Segment::Index(index) => write!(formatter, "[{index}]")?,
                Segment::Keys(keys) => formatter.write_str(keys)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_shows_all_of_it_and_logs_end_before_a_clients_words() {
        let schema = FieldPath::from("tools")
            .index(3)
            .name("function")
            .name("parameters");
        assert_eq!(schema.to_string(), "tools[3].function.parameters");
        assert_eq!(schema.known(), schema);
        let price = FieldPath::from(&schema).keys(".properties.price");
        assert_eq!(
            price.to_string(),
            "tools[3].function.parameters.properties.price"
        );
        assert_eq!(price.known(), schema);
        let bias = FieldPath::from("logit_bias").key("secret").name("value");
        assert_eq!(bias.to_string(), "logit_bias.secret.value");
        assert_eq!(bias.known().to_string(), "logit_bias");
        assert!(FieldPath::default().is_empty());
    }
}
