//! What a source may say: sections, their keys, and the values that each takes.
//!
//! The rows are made by the declarations in [`sections`](super::sections); here is what a row is,
//! and how a value is held against it.

use std::collections::BTreeSet;
use std::path::Path;

use ::config::{Value, ValueKind};

use super::AdapterSettings;
use super::mistake::entry_key;

/// Every section, in the order in which they are printed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Schema(pub(super) &'static [Section]);

/// A section of the configuration file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    /// The name between the brackets.
    pub(super) name: &'static str,
    /// What an entry is called, of a section that is a list: written `[[name]]` once for each.
    pub(super) entry: Option<&'static str>,
    /// What it is about: the lines of a comment.
    pub(super) doc: &'static [&'static str],
    /// Its keys, in the order in which they are printed.
    pub(super) keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub(super) struct Key {
    /// The name without its section.
    pub(super) name: &'static str,
    /// The values that it takes.
    pub(super) kind: KeyKind,
    /// The value that it has when no source sets it.
    pub(super) default: KeyDefault,
    /// The lines of a comment, whose first paragraph is for the person who operates the gateway.
    pub(super) doc: &'static [&'static str],
}

/// The values that a key takes.
///
/// None holds a secret, which printing would show: secrets stand in files of their own, as `auth.keys_file` names one.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyKind {
    /// A whole number, both bounds included.
    Whole {
        /// The smallest valid number.
        min: i64,
        /// The largest valid number.
        max: i64,
        /// What is counted, in the plural.
        unit: &'static str,
    },
    /// A whole number with both bounds included, or 0 for none.
    OptionalWhole {
        /// The smallest valid number beside 0.
        min: i64,
        /// The largest valid number.
        max: i64,
        /// What is counted, in the plural.
        unit: &'static str,
    },
    /// A number that may have a fraction, from 0 on.
    Decimal {
        /// The largest valid number.
        max: i64,
        /// What is counted, in the plural.
        unit: &'static str,
    },
    /// `true` or `false`.
    Flag,
    /// The path of a file, which need not exist yet.
    Path {
        /// One such path, for messages.
        example: &'static str,
    },
    /// The path of a file, or empty for no file.
    OptionalPath,
    /// Text without control characters or spaces around it, or empty for none.
    OptionalName,
    /// A name that clients send back, not empty, without control characters or spaces around it.
    Name {
        /// One such name, for messages.
        example: &'static str,
    },
    /// A list of texts of one form.
    Entries(EntryForm),
    /// A list of files of adapters, each `PATH` or `NAME=PATH`.
    Adapters,
    /// One of a few words.
    Choice(&'static [&'static str]),
}

/// The form of a list's entries.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryForm {
    /// Whether a text has it.
    pub(super) fits: fn(&str) -> bool,
    /// The form of the list with an example, to follow the words "must be".
    pub(super) expected: &'static str,
    /// The same in few words, for a narrow column.
    pub(super) values: &'static str,
    /// Whether one text without brackets is a list of one.
    pub(super) may_stand_alone: bool,
}

/// The value of a key that no source sets.
#[derive(Debug, Clone, Copy)]
pub(super) enum KeyDefault {
    /// A number.
    Whole(i64),
    /// `true` or `false`.
    Flag(bool),
    /// Text.
    Text(&'static str),
    /// A list without entries.
    NoEntries,
    /// The name of the file that another key of the section has, without its extension.
    StemOf(&'static str),
    /// There is none; leaving the key out is a mistake.
    Required,
}

impl Schema {
    /// The section with this name.
    pub(super) fn section(self, name: &str) -> Option<&'static Section> {
        self.0.iter().find(|section| section.name == name)
    }
}

impl Section {
    /// The key of this section with this name.
    pub(super) fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The full name of a key: `server.listen`, or `models[1].path` in a section that repeats.
    pub(super) fn full_key(&self, index: usize, key: &Key) -> String {
        if self.entry.is_some() {
            entry_key(self.name, index, key.name)
        } else {
            format!("{}.{}", self.name, key.name)
        }
    }

    /// The section's heading in a file.
    pub(super) fn heading(&self) -> String {
        if self.entry.is_some() {
            format!("[[{}]]", self.name)
        } else {
            format!("[{}]", self.name)
        }
    }
}

impl Key {
    /// The form that a value must have, with an example, to follow the words "must be".
    pub(super) fn expected(&self) -> String {
        match self.kind {
            KeyKind::Whole { min, max, unit } => {
                let example = match self.default {
                    KeyDefault::Whole(number) if number != 0 => number,
                    _ => max.min(min + 4),
                };
                format!("a whole number of {unit} from {min} to {max}, like {example}")
            }
            KeyKind::OptionalWhole { min, max, unit } => {
                format!("0 for none, or a whole number of {unit} from {min} to {max}")
            }
            KeyKind::Decimal { max, unit } => {
                format!("a number of {unit} from 0 to {max}, like 12.5")
            }
            KeyKind::Flag => "true or false".to_owned(),
            KeyKind::Path { example } => format!("the path of a file, like {example:?}"),
            KeyKind::OptionalPath => "a path, or empty for none".to_owned(),
            KeyKind::OptionalName => {
                "a name without control characters or spaces around it, or empty for none"
                    .to_owned()
            }
            KeyKind::Name { example } => {
                format!(
                    "a name, not empty, without control characters or spaces around it, like {example:?}"
                )
            }
            KeyKind::Entries(form) => form.expected.to_owned(),
            KeyKind::Adapters => {
                "a list of files, each PATH or NAME=PATH, whose names differ and have no control \
                 characters, spaces around them, + or =, like [\"menu=adapters/menu.gguf\"]"
                    .to_owned()
            }
            KeyKind::Choice(words) => {
                let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
                format!("one of {}", quoted.join(", "))
            }
        }
    }
}

impl KeyKind {
    /// Whether a value has the right type and lies in the range.
    pub(super) fn accepts(self, value: &ValueKind) -> bool {
        match (self, value) {
            (Self::Whole { min, max, .. }, ValueKind::I64(number)) => (min..=max).contains(number),
            (Self::OptionalWhole { min, max, .. }, ValueKind::I64(number)) => {
                *number == 0 || (min..=max).contains(number)
            }
            (Self::Decimal { max, .. }, ValueKind::I64(number)) => (0..=max).contains(number),
            #[allow(clippy::cast_precision_loss)] // bounds are small
            (Self::Decimal { max, .. }, ValueKind::Float(number)) => {
                (0.0..=max as f64).contains(number)
            }
            (Self::Flag, ValueKind::Boolean(_)) => true,
            (Self::Path { .. }, ValueKind::String(text)) => is_file_path(text),
            (Self::OptionalPath, ValueKind::String(text)) => !text.contains('\0'),
            (Self::OptionalName, ValueKind::String(text)) => {
                text.trim() == text && !text.contains(char::is_control)
            }
            (Self::Name { .. }, ValueKind::String(text)) => is_name(text),
            (Self::Entries(form), ValueKind::String(text)) => {
                form.may_stand_alone && (form.fits)(text)
            }
            (Self::Entries(_) | Self::Adapters, ValueKind::Array(_)) => self.unfit(value).is_none(),
            (Self::Choice(words), ValueKind::String(text)) => words.contains(&text.as_str()),
            _ => false,
        }
    }

    /// What of a value that is refused does not fit: the value, or the first such entry of a list.
    pub(super) fn unfit(self, value: &ValueKind) -> Option<&ValueKind> {
        let ValueKind::Array(entries) = value else {
            return (!self.accepts(value)).then_some(value);
        };
        let mut entries = entries.iter().map(|entry| &entry.kind);
        match self {
            Self::Entries(form) => {
                entries.find(|entry| !matches!(entry, ValueKind::String(text) if (form.fits)(text)))
            }
            Self::Adapters => {
                let mut names = BTreeSet::new();
                entries.find(|entry| {
                    let ValueKind::String(text) = entry else {
                        return true;
                    };
                    !AdapterSettings::parse(text).is_some_and(|adapter| names.insert(adapter.name))
                })
            }
            _ => Some(value),
        }
    }

    /// Reads the text of a variable or flag; commas part the entries of a list. Text that does not fit stays text, and is then refused
    /// by [`KeyKind::accepts`].
    pub(super) fn read(self, text: &str) -> ValueKind {
        let trimmed = text.trim();
        match self {
            Self::Whole { .. } | Self::OptionalWhole { .. } => {
                trimmed.parse().map_or_else(|_| text.into(), ValueKind::I64)
            }
            Self::Decimal { .. } => match (trimmed.parse(), trimmed.parse()) {
                (Ok(number), _) => ValueKind::I64(number),
                (_, Ok(number)) => ValueKind::Float(number),
                _ => text.into(),
            },
            Self::Flag => trimmed
                .parse()
                .map_or_else(|_| text.into(), ValueKind::Boolean),
            Self::Choice(_) => trimmed.into(),
            Self::Entries(_) | Self::Adapters if trimmed.is_empty() => Vec::<Value>::new().into(),
            Self::Entries(_) | Self::Adapters => {
                let entries = trimmed.split(',').map(|entry| entry.trim().into());
                entries.collect::<Vec<Value>>().into()
            }
            Self::Path { .. } | Self::OptionalPath | Self::Name { .. } | Self::OptionalName => {
                text.into()
            }
        }
    }
}

impl KeyDefault {
    /// The value, where it is the same for every file.
    pub(super) fn value(self) -> Option<ValueKind> {
        match self {
            Self::Whole(number) => Some(number.into()),
            Self::Flag(flag) => Some(flag.into()),
            Self::Text(text) => Some(text.into()),
            Self::NoEntries => Some(Vec::<Value>::new().into()),
            Self::StemOf(_) | Self::Required => None,
        }
    }
}

/// Whether text is a name that clients can send back.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.contains(char::is_control)
}

/// Whether text may be the path of a file.
pub(super) fn is_file_path(text: &str) -> bool {
    Path::new(text).file_name().is_some() && !text.contains('\0')
}
