//! The declaration of settings: one line for each key, from which everything else follows.
//!
//! [`section!`](section) takes a key's documentation, name, type, bounds and default, and makes the
//! field of the struct, the row of the [`Schema`](super::schema::Schema) against which sources are
//! checked, and both ways between the two. What is printed, `config/edgellm.toml` and
//! `docs/settings.md` are written from that row.

use ::config::{Map, Value, ValueKind};

use super::schema::{Schema, Section};

/// The checked values of one section or entry, by the names of their keys.
pub(super) type Values = Map<String, Value>;

/// The kind of a key and its type in Rust do not fit: a defect of edgellm.
#[derive(Debug)]
pub(super) struct Misfit {
    pub(super) key: String,
}

/// What a declared section is made of.
pub(super) trait SectionSettings: Sized {
    const SECTION: Section;

    /// The values in the order of the section's keys.
    fn write(&self) -> Vec<ValueKind>;

    /// Reads checked values. A key is absent after a mistake only.
    fn read(values: &Values) -> Result<Self, Misfit>;
}

/// A field of the whole configuration: a section, or the entries of one that repeats.
pub(super) trait Part: Sized {
    const SECTION: Section;

    fn write(&self) -> Vec<Vec<ValueKind>>;

    fn read(entries: &[Values]) -> Result<Self, Misfit>;
}

/// A section of some settings, with the values of each of its entries in the order of its keys.
#[derive(Debug)]
pub(super) struct WrittenSection {
    pub(super) section: Section,
    pub(super) entries: Vec<Vec<ValueKind>>,
}

/// A whole configuration.
pub(super) trait Declared: Sized {
    const SCHEMA: Schema;

    fn write(&self) -> Vec<WrittenSection>;

    /// Reads the entries of each section, which `entries` finds by its name.
    fn read<'a>(entries: impl Fn(&str) -> &'a [Values]) -> Result<Self, Misfit>;
}

/// Declares a section: `in ["server"]` for one that stands once, `in [["models"]] of "model"` for a list
/// with a section for each entry.
///
/// A field is `name: Type = setting(bounds, default)`, with `as "key"` behind its name where the
/// key is not called like the field; the settings are in [`setting`](super::setting). The first
/// paragraph of a comment is for the people who operate the gateway: it is printed into the
/// example file and the documentation. What follows an empty line is for readers of the code.
macro_rules! section {
    ($(#[doc = $doc:literal])+ pub struct $name:ident in [[$section:literal]] of $entry:literal { $($fields:tt)+ }) => {
        $crate::config::declare::section!(@section $name, $section, Some($entry), [$($doc)+], { $($fields)+ });

        impl $crate::config::declare::Part for Vec<$name> {
            const SECTION: $crate::config::schema::Section =
                <$name as $crate::config::declare::SectionSettings>::SECTION;

            fn write(&self) -> Vec<Vec<::config::ValueKind>> {
                self.iter().map($crate::config::declare::SectionSettings::write).collect()
            }

            fn read(
                entries: &[$crate::config::declare::Values],
            ) -> Result<Self, $crate::config::declare::Misfit> {
                entries.iter().map($crate::config::declare::SectionSettings::read).collect()
            }
        }
    };
    ($(#[doc = $doc:literal])+ pub struct $name:ident in [$section:literal] { $($fields:tt)+ }) => {
        $crate::config::declare::section!(@section $name, $section, None, [$($doc)+], { $($fields)+ });

        impl $crate::config::declare::Part for $name {
            const SECTION: $crate::config::schema::Section =
                <$name as $crate::config::declare::SectionSettings>::SECTION;

            fn write(&self) -> Vec<Vec<::config::ValueKind>> {
                vec![$crate::config::declare::SectionSettings::write(self)]
            }

            fn read(
                entries: &[$crate::config::declare::Values],
            ) -> Result<Self, $crate::config::declare::Misfit> {
                let none = $crate::config::declare::Values::new();
                $crate::config::declare::SectionSettings::read(entries.first().unwrap_or(&none))
            }
        }
    };
    (@section $name:ident, $section:literal, $entry:expr, [$($doc:literal)+], {
        $($(#[doc = $field_doc:literal])+ pub $field:ident $(as $key:literal)?: $type:ty = $setting:expr),+ $(,)?
    }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[allow(clippy::struct_excessive_bools)] // each is a key that stands for itself
        pub struct $name {
            $($(#[doc = $field_doc])+ pub $field: $type,)+
        }

        impl $crate::config::declare::SectionSettings for $name {
            const SECTION: $crate::config::schema::Section = $crate::config::schema::Section {
                name: $section,
                entry: $entry,
                doc: &[$($doc),+],
                keys: &[$({
                    const SETTING: $crate::config::setting::Setting<$type> = $setting;
                    SETTING.key($crate::config::declare::key_name!($field $($key)?), &[$($field_doc),+])
                }),+],
            };

            fn write(&self) -> Vec<::config::ValueKind> {
                vec![$({
                    const SETTING: $crate::config::setting::Setting<$type> = $setting;
                    SETTING.write(&self.$field)
                }),+]
            }

            fn read(
                values: &$crate::config::declare::Values,
            ) -> Result<Self, $crate::config::declare::Misfit> {
                Ok(Self {
                    $($field: {
                        const SETTING: $crate::config::setting::Setting<$type> = $setting;
                        SETTING.read($section, $crate::config::declare::key_name!($field $($key)?), values)?
                    },)+
                })
            }
        }
    };
}

/// The name of a key: its field's, unless another is given.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}

/// Declares the whole configuration: a field for each section, in the order in which they are printed.
macro_rules! settings {
    ($(#[doc = $doc:literal])+ pub struct $name:ident {
        $($(#[doc = $field_doc:literal])+ pub $field:ident: $type:ty),+ $(,)?
    }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[doc = $field_doc])+ pub $field: $type,)+
        }

        impl $crate::config::declare::Declared for $name {
            const SCHEMA: $crate::config::schema::Schema = $crate::config::schema::Schema(&[
                $(<$type as $crate::config::declare::Part>::SECTION),+
            ]);

            fn write(&self) -> Vec<$crate::config::declare::WrittenSection> {
                vec![$($crate::config::declare::WrittenSection {
                    section: <$type as $crate::config::declare::Part>::SECTION,
                    entries: $crate::config::declare::Part::write(&self.$field),
                }),+]
            }

            fn read<'a>(
                entries: impl Fn(&str) -> &'a [$crate::config::declare::Values],
            ) -> Result<Self, $crate::config::declare::Misfit> {
                Ok(Self {
                    $($field: {
                        let name = <$type as $crate::config::declare::Part>::SECTION.name;
                        $crate::config::declare::Part::read(entries(name))?
                    },)+
                })
            }
        }
    };
}

/// Declares a setting of a few words: an enum, each variant with the word of the configuration.
macro_rules! choice {
    ($(#[$attribute:meta])* pub enum $name:ident {
        $($(#[$variant_attribute:meta])* $variant:ident = $word:literal),+ $(,)?
    }) => {
        $(#[$attribute])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_attribute])* $variant),+
        }

        impl $name {
            const ALL: &[Self] = &[$(Self::$variant),+];

            /// The word in the configuration.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }

            /// One of the words; `default` where no source says which.
            const fn one_of(default: Self) -> $crate::config::setting::Setting<Self> {
                $crate::config::setting::Setting::choice(
                    &[$($word),+],
                    default.as_str(),
                    |value| {
                        let word = $crate::config::setting::text(value)?;
                        Self::ALL.iter().copied().find(|one| one.as_str() == word)
                    },
                    |one| one.as_str().into(),
                )
            }
        }
    };
}

pub(super) use {choice, key_name, section, settings};
