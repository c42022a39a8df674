//! The way back from settings to text: what is in effect, a file to start from, and the documentation's table.

use std::fmt::Write as _;

use ::config::ValueKind;

use super::declare::{Declared, WrittenSection};
use super::schema::{Key, KeyDefault, KeyKind};
use super::{ConfigError, Settings, Sources, read, resolve};

/// How many characters a line of a comment may have.
const COMMENT_WIDTH: usize = 110;

impl Settings {
    /// The effective configuration as TOML, every key included.
    ///
    /// Paths are made absolute with the working directory, so that the text means the same files
    /// wherever it is saved; with paths that were absolute, it loads to equal settings.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        for WrittenSection { section, entries } in self.write() {
            for values in entries {
                start_paragraph(&mut out);
                line(&mut out, &section.heading());
                for (key, value) in section.keys.iter().zip(&values) {
                    line(&mut out, &assignment(key, value));
                }
            }
        }
        out
    }
}

/// A configuration file with every setting and its explanation. What the sources set is set in it,
/// with absolute paths; all else is a comment that shows the default.
///
/// # Errors
/// Returns the mistakes of the sources, as [`load`](super::load) does.
pub fn template(sources: &Sources) -> Result<String, ConfigError> {
    let (settings, set) = resolve::settings_and_keys_set(read(Settings::SCHEMA, sources))?;
    let mut out = TEMPLATE_HEAD.to_owned();
    for WrittenSection { section, entries } in settings.write() {
        let is_absent = entries.is_empty();
        let examples = || section.keys.iter().map(Key::example).collect();
        let entries = if is_absent { vec![examples()] } else { entries };
        for (index, values) in entries.iter().enumerate() {
            start_paragraph(&mut out);
            comment(&mut out, &first_paragraph(section.doc));
            let heading = section.heading();
            if is_absent {
                comment(&mut out, "Remove the # of the next line as well.");
                line(&mut out, &format!("#{heading}"));
            } else {
                line(&mut out, &heading);
            }
            for (key, value) in section.keys.iter().zip(values) {
                comment(&mut out, &first_paragraph(key.doc));
                let is_set = set.contains(&section.full_key(index, key));
                let mark = if is_set { "" } else { "#" };
                line(&mut out, &format!("{mark}{}", assignment(key, value)));
            }
        }
    }
    Ok(out)
}

/// Every setting in Markdown, a table for each section.
#[must_use]
pub fn reference() -> String {
    let mut out = REFERENCE_HEAD.to_owned();
    for section in Settings::SCHEMA.0 {
        let heading = section.heading();
        line(&mut out, &format!("\n## `{heading}`\n"));
        line(&mut out, &first_paragraph(section.doc));
        line(&mut out, "\n| setting | default | values | meaning |");
        line(&mut out, "|---|---|---|---|");
        for key in section.keys {
            let row = format!(
                "| `{}` | {} | {} | {} |",
                key.name,
                key.default_in_words(),
                key.kind.values(),
                first_paragraph(key.doc)
            );
            line(&mut out, &row);
        }
    }
    out
}

const TEMPLATE_HEAD: &str = "\
# The configuration of edgellm, with every setting; `edgellm config template` prints one like it.
#
# A setting behind a # shows its default; remove the # to change it.
# Environment variables (EDGELLM__SERVER__LISTEN=...; an installed box has some in /etc/edgellm/edgellm.env)
# and flags (--listen ...) beat this file.
# Check it with: edgellm check-config --config FILE
";

const REFERENCE_HEAD: &str = "\
# All settings

<!-- `edgellm config reference` prints this page, and deploy/generate.sh puts it here: do not edit it. -->

[Configuration](configuration.md) says where settings are written and which source wins. Each one can stand in a TOML file,
be an environment variable (`EDGELLM__SERVER__LISTEN` is `server.listen`, `EDGELLM__MODELS__0__CONTEXT` is `context` of
the first model), and a few are flags of `edgellm serve` as well. `edgellm config template` prints a file with all of them.
";

/// What of a comment is for those who operate the gateway, on one line.
fn first_paragraph(doc: &[&str]) -> String {
    let lines = doc.iter().map(|line| line.trim());
    let paragraph: Vec<_> = lines.take_while(|line| !line.is_empty()).collect();
    paragraph.join(" ")
}

fn assignment(key: &Key, value: &ValueKind) -> String {
    format!("{} = {}", key.name, in_toml(value))
}

/// A value in TOML's notation.
fn in_toml(value: &ValueKind) -> String {
    match value {
        ValueKind::String(text) => quoted(text),
        ValueKind::Array(entries) => {
            let entries: Vec<_> = entries.iter().map(|entry| in_toml(&entry.kind)).collect();
            format!("[{}]", entries.join(", "))
        }
        other => other.to_string(),
    }
}

/// A basic string of TOML 1.0.
fn quoted(text: &str) -> String {
    let mut out = String::from('"');
    for char in text.chars() {
        match char {
            '"' | '\\' => out.extend(['\\', char]),
            control if control.is_control() => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

fn line(out: &mut String, text: &str) {
    out.push_str(text);
    out.push('\n');
}

fn start_paragraph(out: &mut String) {
    if !out.is_empty() {
        out.push('\n');
    }
}

/// Text as a comment of TOML, in lines of a readable length.
fn comment(out: &mut String, text: &str) {
    let mut current = String::from("#");
    for word in text.split(' ') {
        if current.len() > 1 && current.chars().count() + 1 + word.chars().count() > COMMENT_WIDTH {
            line(out, &current);
            current = String::from("#");
        }
        current.push(' ');
        current.push_str(word);
    }
    line(out, &current);
}

impl Key {
    /// A value for a file that shows how the key is written: its default, if it has one.
    fn example(&self) -> ValueKind {
        self.default.value().unwrap_or_else(|| match self.kind {
            KeyKind::Path { example } | KeyKind::Name { example } => example.into(),
            _ => "".into(),
        })
    }

    fn default_in_words(&self) -> String {
        match self.default {
            KeyDefault::Required => "none: it must be set".to_owned(),
            KeyDefault::StemOf(file) => format!("the name of the file in `{file}`"),
            KeyDefault::Whole(_)
            | KeyDefault::Flag(_)
            | KeyDefault::Text(_)
            | KeyDefault::NoEntries => {
                format!("`{}`", in_toml(&self.example()))
            }
        }
    }
}

impl KeyKind {
    /// The values that it takes, for a narrow column.
    fn values(self) -> String {
        match self {
            Self::Whole { min, max, unit } => format!("{min} to {max} {unit}"),
            Self::OptionalWhole { min, max, unit } => format!("0, or {min} to {max} {unit}"),
            Self::Decimal { max, unit } => format!("0 to {max} {unit}"),
            Self::Flag => "`true`, `false`".to_owned(),
            Self::Path { .. } => "path".to_owned(),
            Self::OptionalPath => "path, or empty".to_owned(),
            Self::Name { .. } => "name".to_owned(),
            Self::OptionalName => "name, or empty".to_owned(),
            Self::Entries(form) => form.values.to_owned(),
            Self::Adapters => "list of `PATH` or `NAME=PATH`".to_owned(),
            Self::Choice(words) => {
                let words: Vec<_> = words.iter().map(|word| format!("`{word}`")).collect();
                words.join(", ")
            }
        }
    }
}
