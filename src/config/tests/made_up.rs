//! Declarations of a made-up program: what a new setting or section takes is written here once and works.

#![allow(unreachable_pub)] // settings are public where they are declared for the program

use std::time::Duration;

use super::{TestSources, file, nothing};
use crate::config::declare::{section, settings};
use crate::config::schema::KeyDefault;
use crate::config::setting::{flag, name, path, seconds, whole};
use crate::config::{ConfigError, read, resolve};

settings! {
    /// Two sections of which one repeats.
    pub struct Made {
        /// A section.
        pub kettle: Kettle,
        /// A list.
        pub neighbours: Vec<Neighbour>,
    }
}

section! {
    /// A kettle.
    pub struct Kettle in ["kettle"] {
        /// Cups at a time.
        pub cups: u32 = whole(1..=8, "cups", 2),
        /// Whether it whistles.
        ///
        /// Some do.
        pub whistles as "whistle": bool = flag(true),
    }
}

section! {
    /// The boxes next door.
    pub struct Neighbour in [["neighbours"]] of "neighbour" {
        /// Its certificate.
        pub certificate: std::path::PathBuf = path(KeyDefault::Required, "tls/north.pem"),
        /// What it is called.
        pub id: String = name(KeyDefault::StemOf("certificate"), "north"),
        /// Seconds between two looks at it.
        pub look as "look_seconds": Duration = seconds(1..=60, 10),
    }
}

fn made(given: &TestSources) -> Result<Made, ConfigError> {
    use crate::config::declare::Declared;
    let (merged, mistakes) = resolve::merge(read(Made::SCHEMA, &given.sources))?;
    merged.into_settings(mistakes)
}

fn complaints(given: &TestSources) -> Vec<String> {
    let error = made(given).unwrap_err();
    let directory = format!("{}/", given.directory.path().display());
    let mistakes = error.mistakes().iter();
    mistakes
        .map(|mistake| mistake.to_string().replace(&directory, ""))
        .collect()
}

#[test]
fn a_declared_section_has_its_defaults_and_one_that_repeats_has_no_entries() {
    let made = made(&nothing()).unwrap();
    assert_eq!((made.kettle.cups, made.kettle.whistles), (2, true));
    assert_eq!(made.neighbours, []);
}

#[test]
fn every_source_sets_keys_of_a_section_that_repeats() {
    let given = file(
        "a.toml",
        "[kettle]\nwhistle = false\n[[neighbours]]\ncertificate = '/c/north.pem'\n\
         [[neighbours]]\ncertificate = '/c/south.pem'\nlook_seconds = 5",
    )
    .env("EDGELLM__NEIGHBOURS__1__ID", "s")
    .flag("--certificate", "neighbours[2].certificate", "/c/east.pem");
    let made = made(&given).unwrap();
    assert!(!made.kettle.whistles);
    let seen: Vec<_> = made
        .neighbours
        .iter()
        .map(|one| (&*one.id, one.look.as_secs()))
        .collect();
    assert_eq!(seen, [("north", 10), ("s", 5), ("east", 10)]);
}

#[test]
fn mistakes_in_a_section_that_repeats_have_its_name_and_index() {
    let given = file(
        "a.toml",
        "[[neighbours]]\ncertificate = '/c/n.pem'\nlook_second = 5\n[[neighbours]]\nid = 'x'\nlook_seconds = 0",
    )
    .env("EDGELLM__NEIGHBOURS__4__ID", "far")
    .env("EDGELLM_NEIGHBOURS_0_ID", "x");
    assert_eq!(
        complaints(&given),
        [
            "unknown key `neighbours[0].look_second` in a.toml; did you mean `neighbours[0].look_seconds`?",
            "`neighbours[1].look_seconds` in a.toml must be a whole number of seconds from 1 to 60, like 10; found 0",
            "environment variable EDGELLM_NEIGHBOURS_0_ID sets nothing; did you mean EDGELLM__NEIGHBOURS__0__ID?",
            "`neighbours[4].id` in environment variable EDGELLM__NEIGHBOURS__4__ID leaves a gap: 2 neighbour(s) configured before it, so the next is `neighbours[2]`",
            "`neighbours[1].certificate` is missing in a.toml; it must be the path of a file, like \"tls/north.pem\"",
        ]
    );
    let given = file("a.toml", "[neighbours]\nid = 'x'\n[kettle]\ncups = 9");
    assert_eq!(
        complaints(&given),
        [
            "`kettle.cups` in a.toml must be a whole number of cups from 1 to 8, like 2; found 9",
            "`neighbours` in a.toml must be a list, each entry headed [[neighbours]]; found a section",
        ]
    );
}
