//! The kinds of settings, each with its type in Rust: how a checked value is read, and written again.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ::config::{Value, ValueKind};

use super::declare::{Misfit, Values};
use super::schema::{EntryForm, Key, KeyDefault, KeyKind, is_name};

/// A key's values and its default, and the way between them and a field of type `T`.
pub(super) struct Setting<T> {
    kind: KeyKind,
    default: KeyDefault,
    /// `None` only where `kind` accepts what `T` cannot hold, which is a defect of edgellm.
    read: Read<T>,
    write: Write<T>,
}

type Read<T> = fn(&ValueKind) -> Option<T>;
type Write<T> = fn(&T) -> ValueKind;

impl<T> Setting<T> {
    pub(super) const fn new(
        kind: KeyKind,
        default: KeyDefault,
        read: Read<T>,
        write: Write<T>,
    ) -> Self {
        Self {
            kind,
            default,
            read,
            write,
        }
    }

    /// The key's row in the schema.
    pub(super) const fn key(&self, name: &'static str, doc: &'static [&'static str]) -> Key {
        Key {
            name,
            kind: self.kind,
            default: self.default,
            doc,
        }
    }

    pub(super) fn write(&self, value: &T) -> ValueKind {
        (self.write)(value)
    }

    /// Reads the value of a key out of those of its section.
    pub(super) fn read(&self, section: &str, name: &str, values: &Values) -> Result<T, Misfit> {
        let value = values.get(name);
        value
            .and_then(|value| (self.read)(&value.kind))
            .ok_or_else(|| Misfit {
                key: format!("{section}.{name}"),
            })
    }
}

/// A number that counts something, or is a size.
pub(super) trait Whole: Copy {
    fn of(number: i64) -> Option<Self>;
    fn number(self) -> i64;
}

/// A whole number from a range; `unit` says in the plural what is counted.
pub(super) const fn whole<T: Whole>(
    range: RangeInclusive<i64>,
    unit: &'static str,
    default: i64,
) -> Setting<T> {
    Setting::new(
        whole_kind(range, unit),
        KeyDefault::Whole(default),
        |value| T::of(number(value)?),
        |value| value.number().into(),
    )
}

/// A whole number up to `max`, where 0, which is the default, is `None`.
pub(super) const fn whole_or_none<T: Whole>(max: i64, unit: &'static str) -> Setting<Option<T>> {
    Setting::new(
        whole_kind(0..=max, unit),
        KeyDefault::Whole(0),
        read_whole_or_none,
        |value| write_whole_or_none(*value),
    )
}

/// A whole number from a range that 0 is not in, or else 0, which is the default.
pub(super) const fn none_or_from<T: Whole>(
    range: RangeInclusive<i64>,
    unit: &'static str,
) -> Setting<Option<T>> {
    Setting::new(
        KeyKind::OptionalWhole {
            min: *range.start(),
            max: *range.end(),
            unit,
        },
        KeyDefault::Whole(0),
        read_whole_or_none,
        |value| write_whole_or_none(*value),
    )
}

/// A share of a hundred.
pub(super) const fn percent(default: i64) -> Setting<u32> {
    whole(0..=100, "percent", default)
}

/// A time of whole seconds; its key ends in `_seconds`.
pub(super) const fn seconds(range: RangeInclusive<i64>, default: i64) -> Setting<Duration> {
    Setting::new(
        whole_kind(range, "seconds"),
        KeyDefault::Whole(default),
        |value| u64::of(number(value)?).map(Duration::from_secs),
        |time| time.as_secs().number().into(),
    )
}

/// The same up to `max`, where 0, which is the default, is `None`.
pub(super) const fn seconds_or_none(max: i64) -> Setting<Option<Duration>> {
    Setting::new(
        whole_kind(0..=max, "seconds"),
        KeyDefault::Whole(0),
        |value| {
            let seconds: Option<u64> = read_whole_or_none(value)?;
            Some(seconds.map(Duration::from_secs))
        },
        |time| write_whole_or_none(time.map(|time| time.as_secs())),
    )
}

/// A time of whole milliseconds; its key ends in `_ms`.
pub(super) const fn milliseconds(range: RangeInclusive<i64>, default: i64) -> Setting<Duration> {
    Setting::new(
        whole_kind(range, "milliseconds"),
        KeyDefault::Whole(default),
        |value| u64::of(number(value)?).map(Duration::from_millis),
        |time| in_milliseconds(*time).into(),
    )
}

/// The same up to `max`, where 0, which is the default, is `None`.
pub(super) const fn milliseconds_or_none(max: i64) -> Setting<Option<Duration>> {
    Setting::new(
        whole_kind(0..=max, "milliseconds"),
        KeyDefault::Whole(0),
        |value| {
            let milliseconds: Option<u64> = read_whole_or_none(value)?;
            Some(milliseconds.map(Duration::from_millis))
        },
        |time| time.map_or(0, in_milliseconds).into(),
    )
}

/// A time of whole minutes up to `max`, where 0, which is the default, is `None`.
pub(super) const fn minutes_or_none(max: i64) -> Setting<Option<Duration>> {
    Setting::new(
        whole_kind(0..=max, "minutes"),
        KeyDefault::Whole(0),
        |value| {
            let minutes: Option<u64> = read_whole_or_none(value)?;
            Some(minutes.map(|minutes| Duration::from_secs(60 * minutes)))
        },
        |time| write_whole_or_none(time.map(|time| time.as_secs() / 60)),
    )
}

/// `true` or `false`.
pub(super) const fn flag(default: bool) -> Setting<bool> {
    Setting::new(
        KeyKind::Flag,
        KeyDefault::Flag(default),
        |value| match value {
            ValueKind::Boolean(flag) => Some(*flag),
            _ => None,
        },
        |flag| (*flag).into(),
    )
}

/// The path of a file or folder.
pub(super) const fn path(default: KeyDefault, example: &'static str) -> Setting<PathBuf> {
    Setting::new(
        KeyKind::Path { example },
        default,
        |value| text(value).map(PathBuf::from),
        |path| absolute(path).into(),
    )
}

/// The same, or empty, which is the default, for `None`.
pub(super) const fn optional_path() -> Setting<Option<PathBuf>> {
    Setting::new(
        KeyKind::OptionalPath,
        KeyDefault::Text(""),
        |value| {
            let path = text(value)?;
            Some((!path.is_empty()).then(|| PathBuf::from(path)))
        },
        |path| path.as_deref().map(absolute).unwrap_or_default().into(),
    )
}

/// A name that clients send back.
pub(super) const fn name(default: KeyDefault, example: &'static str) -> Setting<String> {
    Setting::new(
        KeyKind::Name { example },
        default,
        |value| text(value).map(str::to_owned),
        |name| name.clone().into(),
    )
}

/// Text, or empty, which is the default, for `None`.
pub(super) const fn optional_name() -> Setting<Option<String>> {
    Setting::new(
        KeyKind::OptionalName,
        KeyDefault::Text(""),
        |value| {
            let name = text(value)?;
            Some((!name.is_empty()).then(|| name.to_owned()))
        },
        |name| name.clone().unwrap_or_default().into(),
    )
}

const NAME: EntryForm = EntryForm {
    fits: is_name,
    expected: "a list of names, not empty, without control characters or spaces around them, like [\"kiosk\", \"till\"]",
    values: "list of names",
    may_stand_alone: false,
};

/// A list of names, empty unless it is set.
pub(super) const fn names() -> Setting<Vec<String>> {
    Setting::new(
        KeyKind::Entries(NAME),
        KeyDefault::NoEntries,
        |value| entries(value, |name| Some(name.to_owned())),
        |names| list(names.iter().cloned()),
    )
}

impl<T> Setting<T> {
    /// One of a few words; [`choice!`](super::declare::choice) writes the call.
    pub(super) const fn choice(
        words: &'static [&'static str],
        default: &'static str,
        read: Read<T>,
        write: Write<T>,
    ) -> Self {
        Self::new(
            KeyKind::Choice(words),
            KeyDefault::Text(default),
            read,
            write,
        )
    }
}

const fn whole_kind(range: RangeInclusive<i64>, unit: &'static str) -> KeyKind {
    KeyKind::Whole {
        min: *range.start(),
        max: *range.end(),
        unit,
    }
}

fn number(value: &ValueKind) -> Option<i64> {
    match value {
        ValueKind::I64(number) => Some(*number),
        _ => None,
    }
}

/// 0 is `Some(None)`; `None` is what does not fit.
#[allow(clippy::option_option)]
fn read_whole_or_none<T: Whole>(value: &ValueKind) -> Option<Option<T>> {
    match number(value)? {
        0 => Some(None),
        number => T::of(number).map(Some),
    }
}

fn write_whole_or_none<T: Whole>(value: Option<T>) -> ValueKind {
    value.map_or(0, Whole::number).into()
}

fn in_milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The text of a value.
pub(super) fn text(value: &ValueKind) -> Option<&str> {
    match value {
        ValueKind::String(text) => Some(text),
        _ => None,
    }
}

/// The entries of a list of texts.
pub(super) fn entries<T>(value: &ValueKind, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    let ValueKind::Array(values) = value else {
        return None;
    };
    values
        .iter()
        .map(|value| text(&value.kind).and_then(&read))
        .collect()
}

/// A list of texts.
pub(super) fn list(entries: impl Iterator<Item = String>) -> ValueKind {
    entries.map(Value::from).collect::<Vec<_>>().into()
}

/// A path that means the same file whatever the working directory.
pub(super) fn absolute(path: &Path) -> String {
    // Fails only where there is no working directory; then the path as it is says most.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    absolute.display().to_string()
}

impl Whole for u32 {
    fn of(number: i64) -> Option<Self> {
        number.try_into().ok()
    }

    fn number(self) -> i64 {
        self.into()
    }
}

impl Whole for NonZeroU32 {
    fn of(number: i64) -> Option<Self> {
        Self::new(number.try_into().ok()?)
    }

    fn number(self) -> i64 {
        self.get().into()
    }
}

impl Whole for u64 {
    fn of(number: i64) -> Option<Self> {
        number.try_into().ok()
    }

    fn number(self) -> i64 {
        self.try_into().unwrap_or(i64::MAX)
    }
}

impl Whole for usize {
    fn of(number: i64) -> Option<Self> {
        number.try_into().ok()
    }

    fn number(self) -> i64 {
        self.try_into().unwrap_or(i64::MAX)
    }
}
