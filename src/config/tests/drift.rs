//! The table, the structs and the example file say the same.

use std::collections::BTreeSet;
use std::path::Path;

use super::{file, nothing};
use crate::config::schema::{Key, KeyDefault, SECTIONS, Section};
use crate::config::{Sources, load};

const EXAMPLE: &str = include_str!("../../../config/edgellm.toml");

/// The `section.key` of each setting in a TOML text.
fn names(text: &str) -> Vec<String> {
    let mut section = "";
    let mut names = Vec::new();
    for line in text.lines() {
        if line.starts_with('[') {
            section = line.trim_matches(['[', ']']);
        } else if let Some((name, _)) = line.split_once(" = ") {
            names.push(format!("{section}.{name}"));
        }
    }
    names
}

fn rows() -> impl Iterator<Item = (&'static Section, &'static Key)> {
    SECTIONS
        .iter()
        .flat_map(|section| section.keys.iter().map(move |key| (section, key)))
}

fn row_names() -> Vec<String> {
    rows()
        .map(|(section, key)| format!("{}.{}", section.name, key.name))
        .collect()
}

#[test]
fn every_field_of_the_structs_has_a_row_and_every_row_a_field() {
    // Loading proves that each row is a field that serde knows and each field has a row, unless it
    // is optional; printing takes the structs apart without `..`, which proves the rest.
    let settings = nothing().flag("--model", "models.path", "m").settings();
    assert_eq!(names(&settings.to_toml()), row_names());
}

#[test]
fn names_are_unique_and_every_row_is_explained_and_takes_its_own_default() {
    let names = row_names();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    for (_, key) in rows() {
        assert!(key.doc.ends_with('.'), "{}", key.name);
        match key.default.value() {
            Some(default) => assert!(key.kind.accepts(&default), "{}", key.name),
            None => assert!(matches!(
                key.default,
                KeyDefault::Required | KeyDefault::FileStem
            )),
        }
    }
}

#[test]
fn the_example_explains_every_key_in_the_words_of_the_table() {
    let lines: Vec<_> = EXAMPLE.lines().collect();
    for (_, key) in rows() {
        let explanation = format!("# {}", key.doc);
        let place = lines.iter().position(|line| *line == explanation);
        let setting = place.and_then(|place| lines.get(place + 1)).unwrap_or(&"");
        assert!(
            setting
                .trim_start_matches('#')
                .starts_with(&format!("{} = ", key.name)),
            "{} is not explained by \"{explanation}\"",
            key.name
        );
    }
}

#[test]
fn the_settings_in_comments_are_the_defaults_and_none_is_left_out() {
    let uncommented: String = EXAMPLE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if setting.starts_with(char::is_alphabetic) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(names(&uncommented), row_names());
    let given = file("a.toml", &uncommented);
    let as_it_is = nothing().file("a.toml", EXAMPLE);
    assert_eq!(
        given
            .settings()
            .to_toml()
            .replace(given.directory.path().to_str().unwrap(), ""),
        as_it_is
            .settings()
            .to_toml()
            .replace(as_it_is.directory.path().to_str().unwrap(), "")
    );
}

#[test]
fn the_example_serves_the_model_that_ships() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let settings = load(&Sources {
        files: vec![root.join("config/edgellm.toml")],
        ..Sources::default()
    })
    .unwrap();
    assert_eq!(settings.models.len(), 1);
    let model = &settings.models[0];
    assert_eq!(model.path, root.join("config/../models/kiosk/kiosk.gguf"));
    assert_eq!(model.id, "kiosk");
    assert_eq!(model.context.get(), 16_384);
    assert_eq!(model.max_running.get(), 16);

    let without_model = crate::config::Settings {
        models: Vec::new(),
        ..settings
    };
    assert_eq!(without_model, nothing().settings());
}
