//! `edgellm keys`: makes, lists and ends API keys.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};

use super::Files;
use crate::admission::ServiceTier;
use crate::keys::{
    ApiKey, EditError, Expiry, KeyChange, KeyEntry, KeysFileError, NewKey, edit, parse,
};
use crate::tls::SubjectPattern;

#[derive(Debug, Subcommand)]
pub(super) enum Keys {
    /// Make a key; it is shown once, alone on the last line. Or let a client in by its certificate
    Add(Add),
    /// Show the keys that there are, and what they may do
    List(Place),
    /// End a key now
    Revoke(Name),
    /// Replace a key by a new one, which is shown once, alone on the last line
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub(super) struct Place {
    /// The keys file [default: that of the configuration]
    #[arg(long, value_name = "PATH", conflicts_with = "files")]
    file: Option<PathBuf>,
    #[command(flatten)]
    files: Files,
}

#[derive(Debug, Args)]
pub(super) struct Name {
    /// The key's name
    name: String,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct Add {
    /// The key's name, in logs and metrics: letters, digits, dots, dashes, underscores
    name: String,
    /// Keys of one group share cached prompts where the configuration keeps groups apart
    #[arg(long)]
    group: Option<String>,
    /// Also let in who has a certificate of this common name, or of this whole subject, like CN=till-1,O=Harbour
    #[arg(long, value_parser = subject)]
    subject: Option<String>,
    /// Make no API key: the certificate alone lets in
    #[arg(long, requires = "subject")]
    no_key: bool,
    /// The highest service tier that it gets
    #[arg(long, default_value = ServiceTier::Default.as_str(), value_parser = tier())]
    tier: ServiceTier,
    /// Ids of the models that it may use, with commas between them [default: all]
    #[arg(long, value_delimiter = ',', value_name = "ID")]
    models: Vec<String>,
    /// Requests a minute [default: no limit]
    #[arg(long, value_name = "N")]
    requests_per_minute: Option<NonZeroU32>,
    /// Tokens a minute, of prompts and answers [default: no limit]
    #[arg(long, value_name = "N")]
    tokens_per_minute: Option<NonZeroU32>,
    /// Requests at once [default: no limit]
    #[arg(long, value_name = "N")]
    requests_at_once: Option<NonZeroU32>,
    /// Its share of a busy server, beside 1 of others
    #[arg(long, value_name = "N")]
    share: Option<NonZeroU32>,
    /// The last day, like 2027-01-31, or the moment from which it is no good, like 2027-01-31T18:00:00Z
    #[arg(long, value_name = "DATE", value_parser = date)]
    expires: Option<toml_edit::Datetime>,
    /// May also read metrics and use what is for operators
    #[arg(long)]
    admin: bool,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// The key's name
    name: String,
    /// The old key goes on to work for so many hours
    #[arg(long, value_name = "HOURS", default_value_t = 0)]
    keep_old: u32,
    #[command(flatten)]
    place: Place,
}

/// Reads one of the tiers by its name.
fn tier() -> impl TypedValueParser<Value = ServiceTier> {
    let names = PossibleValuesParser::new(ServiceTier::ALL.map(ServiceTier::as_str));
    names.try_map(|name| {
        let mut tiers = ServiceTier::ALL.into_iter();
        let found = tiers.find(|tier| tier.as_str() == name);
        found.ok_or("there is no such tier")
    })
}

fn date(text: &str) -> Result<toml_edit::Datetime, String> {
    let expected = || "must be a date like 2027-01-31, or 2027-01-31T18:00:00Z".to_owned();
    Expiry::read(text).ok_or_else(expected)?;
    text.trim().parse().map_err(|_| expected())
}

fn subject(text: &str) -> Result<String, String> {
    match SubjectPattern::parse(text) {
        Some(_) => Ok(text.to_owned()),
        None => Err(
            "must be the common name of a certificate, like till-1, or its whole subject, like CN=till-1,O=Harbour: \
             `edgellm tls show FILE` shows it"
                .to_owned(),
        ),
    }
}

/// Why a command on keys failed.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error(
        "no keys file: give --file PATH, or set auth.keys_file in the configuration (--config FILE)"
    )]
    NoFile,
    #[error(transparent)]
    Edit(#[from] EditError),
    #[error("{}: {problem}", .file.display())]
    File {
        file: PathBuf,
        problem: KeysFileError,
    },
    #[error("the system has no random numbers: {0}")]
    NoRandomness(#[from] getrandom::Error),
    #[error("the old key cannot be kept for so long: {0}")]
    TooLong(String),
    #[error("cannot write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

/// Runs a command on keys: exit code 2 when the configuration is wrong.
#[allow(clippy::print_stderr)] // this is what the command is for
pub(super) fn run(command: Keys) -> ExitCode {
    let place = match &command {
        Keys::Add(add) => &add.place,
        Keys::List(place) => place,
        Keys::Revoke(name) => &name.place,
        Keys::Rotate(rotate) => &rotate.place,
    };
    let file = match &place.file {
        Some(file) => Some(file.clone()),
        None => match place.files.load() {
            Ok(settings) => settings.auth.keys_file,
            Err(error) => return super::wrong_config(&error),
        },
    };
    let done = file
        .ok_or(KeysError::NoFile)
        .and_then(|file| execute(command, &file));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Keys, file: &std::path::Path) -> Result<(), KeysError> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match command {
        Keys::Add(add) => {
            let key = if add.no_key {
                None
            } else {
                Some(ApiKey::generate()?)
            };
            let new = NewKey {
                group: add.group,
                subject: add.subject,
                tier: add.tier,
                models: add.models,
                requests_per_minute: add.requests_per_minute,
                tokens_per_minute: add.tokens_per_minute,
                requests_at_once: add.requests_at_once,
                share: add.share,
                expires: add.expires,
                admin: add.admin,
                ..NewKey::named(add.name.clone())
            };
            let sha256 = key.as_ref().map(ApiKey::sha256);
            edit(file, &KeyChange::Add(new, sha256))?;
            match key {
                Some(key) => {
                    writeln!(out, "key `{}`, shown only now:\n{}", add.name, key.reveal())?;
                }
                None => writeln!(
                    out,
                    "`{}` is let in by its certificate; a running server follows within seconds",
                    add.name
                )?,
            }
        }
        Keys::List(_) => {
            let problem = |problem| KeysError::File {
                file: file.to_owned(),
                problem,
            };
            let text = std::fs::read_to_string(file)
                .map_err(|error| problem(KeysFileError::Unreadable(error.to_string())))?;
            let keys = parse(&text).map_err(problem)?;
            write!(out, "{}", table(&keys, SystemTime::now()))?;
        }
        Keys::Revoke(Name { name, .. }) => {
            edit(file, &KeyChange::Revoke(name.clone()))?;
            writeln!(
                out,
                "key `{name}` has ended; a running server follows within seconds"
            )?;
        }
        Keys::Rotate(rotate) => {
            let key = ApiKey::generate()?;
            let hours = rotate.keep_old;
            let previous_until = (hours > 0)
                .then(|| Expiry::after(SystemTime::now(), Duration::from_secs(3600) * hours))
                .transpose()
                .map_err(|error| KeysError::TooLong(error.to_string()))?;
            let change = KeyChange::Rotate {
                name: rotate.name.clone(),
                sha256: key.sha256(),
                previous_until,
            };
            edit(file, &change)?;
            let old = match previous_until {
                Some(until) => format!("the old one works until {until}"),
                None => "the old one has ended".to_owned(),
            };
            writeln!(
                out,
                "key `{}`, shown only now; {old}:\n{}",
                rotate.name,
                key.reveal()
            )?;
        }
    }
    Ok(out.flush()?)
}

/// What there is, in columns.
fn table(keys: &[KeyEntry], now: SystemTime) -> String {
    let heading = [
        "NAME", "GROUP", "SUBJECT", "TIER", "SHARE", "LIMITS", "MODELS", "ENDS", "",
    ];
    let mut rows = vec![heading.map(str::to_owned)];
    rows.extend(keys.iter().map(|key| row(key, now)));
    let widths: Vec<usize> = (0..heading.len())
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().zip(&widths);
        let line: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn row(key: &KeyEntry, now: SystemTime) -> [String; 9] {
    let dash = || "-".to_owned();
    let limits = [
        (key.requests_per_minute, "requests/min"),
        (key.tokens_per_minute, "tokens/min"),
        (key.requests_at_once, "at once"),
    ];
    let limits: Vec<String> = limits
        .into_iter()
        .filter_map(|(count, what)| Some(format!("{} {what}", count?)))
        .collect();
    let has_ended = key.expires.is_some_and(|end| end.has_come(now));
    let notes = [
        (has_ended, "EXPIRED"),
        (key.admin && !has_ended, "admin"),
        (key.sha256.is_none(), "certificate only"),
    ];
    let notes = notes.into_iter().filter(|(holds, _)| *holds);
    let notes: Vec<&str> = notes.map(|(_, note)| note).collect();
    [
        key.name.clone(),
        key.group.clone().unwrap_or_else(dash),
        key.subject.clone().unwrap_or_else(dash),
        key.tier.as_str().to_owned(),
        key.share.to_string(),
        if limits.is_empty() {
            dash()
        } else {
            limits.join(", ")
        },
        key.models
            .as_ref()
            .map_or_else(|| "all".to_owned(), |ids| ids.join(",")),
        key.expires.map_or_else(dash, |end| end.to_string()),
        notes.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_what_each_key_may_do_and_never_a_digest() {
        let digest = "0".repeat(64);
        let text = format!(
            "[[keys]]\nname = \"till-3\"\nsha256 = \"{digest}\"\ntier = \"priority\"\nrequests_per_minute = 60\n\
             expires = 2020-01-31\n[[keys]]\nname = \"office\"\nadmin = true\nsha256 = \"{}\"\n\
             [[keys]]\nname = \"till-4\"\nsubject = \"till-4\"\nadmin = true\n",
            "1".repeat(64)
        );
        let shown = table(&parse(&text).expect("sound"), SystemTime::now());
        let expected = "\
NAME    GROUP  SUBJECT  TIER      SHARE  LIMITS           MODELS  ENDS
till-3  -      -        priority  1      60 requests/min  all     2020-02-01T00:00:00Z  EXPIRED
office  -      -        default   1      -                all     -                     admin
till-4  -      till-4   default   1      -                all     -                     admin, certificate only
";
        assert_eq!(shown, expected);
    }

    #[test]
    fn a_date_on_the_command_line_is_checked() {
        assert!(date("2027-01-31").is_ok());
        assert!(date("2027-01-31T18:00:00+02:00").is_ok());
        assert!(date("18:00:00").is_err());
        assert!(date("soon").is_err());
    }
}
