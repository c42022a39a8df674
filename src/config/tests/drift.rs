//! The declarations are whole, and what is generated from them is up to date.

use std::collections::BTreeSet;
use std::path::Path;

use super::{file, nothing};
use crate::config::declare::Declared;
use crate::config::schema::{Key, KeyDefault, KeyKind, Section};
use crate::config::{ConfigMistake, Settings, Sources, load, reference};

const EXAMPLE: &str = include_str!("../../../config/edgellm.toml");
const DOCUMENTATION: &str = include_str!("../../../docs/settings.md");

pub(super) fn rows() -> impl Iterator<Item = (&'static Section, &'static Key)> {
    let sections = Settings::SCHEMA.0.iter();
    sections.flat_map(|section| section.keys.iter().map(move |key| (section, key)))
}

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

fn row_names() -> Vec<String> {
    rows()
        .map(|(section, key)| format!("{}.{}", section.name, key.name))
        .collect()
}

#[test]
fn everything_declared_is_printed_once_and_reads_its_own_default() {
    // Loading proves that each type holds the values of its kind, beginning with the default.
    let settings = nothing().flag("--model", "models.path", "m").settings();
    let names = row_names();
    assert_eq!(super::drift::names(&settings.to_toml()), names);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
    for (_, key) in rows() {
        match key.default.value() {
            Some(default) => assert!(key.kind.accepts(&default), "{}", key.name),
            None => assert!(matches!(
                key.default,
                KeyDefault::Required | KeyDefault::StemOf(_)
            )),
        }
    }
}

#[test]
fn every_number_within_the_bounds_fits_its_type() {
    for (section, key) in rows() {
        let bounds = match key.kind {
            KeyKind::Whole { min, max, .. } | KeyKind::OptionalWhole { min, max, .. } => [min, max],
            KeyKind::Decimal { max, .. } => [0, max],
            _ => continue,
        };
        for bound in bounds {
            let full = format!("{}.{}", section.name, key.name);
            let model = nothing().flag("--model", "models.path", "m");
            let given = model.flag("--flag", &full, &bound.to_string());
            // Beside other keys it may not fit.
            if let Err(error) = load(&given.sources) {
                let is_defect = |mistake: &_| matches!(mistake, ConfigMistake::Defect { .. });
                assert!(!error.mistakes().iter().any(is_defect), "{error}");
            }
        }
    }
}

#[test]
fn every_section_and_key_is_explained_in_a_sentence() {
    for section in Settings::SCHEMA.0 {
        assert!(section.doc[0].ends_with('.'), "{}", section.name);
    }
    for (_, key) in rows() {
        let paragraph = key.doc.iter().take_while(|line| !line.trim().is_empty());
        assert!(paragraph.last().unwrap().ends_with('.'), "{}", key.name);
    }
}

#[test]
fn the_example_and_the_documentation_are_what_the_declarations_say() {
    let root = format!("{}/", env!("CARGO_MANIFEST_DIR"));
    let model = format!("{root}models/kiosk/kiosk.gguf");
    // As deploy/generate.sh calls the program.
    let example = nothing()
        .flag("--model", "models.path", &model)
        .flag("--model", "models.id", "kiosk")
        .flag("--context", "models.context", "16384")
        .flag("--max-running", "models.max_running", "16")
        .template()
        .replace(&root, "../");
    for (file, is, should_be) in [
        ("config/edgellm.toml", EXAMPLE, example),
        ("docs/settings.md", DOCUMENTATION, reference()),
    ] {
        assert!(
            is == should_be,
            "{file} is not what the declarations say; run deploy/generate.sh"
        );
    }
}

#[test]
fn the_example_serves_the_model_that_ships_and_all_else_are_defaults() {
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

    let without_model = Settings {
        models: Vec::new(),
        ..settings
    };
    assert_eq!(without_model, nothing().settings());
}

#[test]
fn a_template_with_its_comments_taken_off_says_the_defaults() {
    let template = nothing().template();
    let uncommented: String = template
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with([' ', '#']) => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(names(&uncommented), row_names());
    let given = file("a.toml", &uncommented);
    let mut settings = given.settings();
    let model = settings.models.remove(0);
    assert_eq!(
        (&*model.id, model.path),
        ("kiosk", given.path("models/kiosk.gguf"))
    );
    assert_eq!(settings, nothing().settings());
    // As it is it says nothing at all.
    assert_eq!(file("a.toml", &template).settings(), nothing().settings());
}

#[test]
fn a_template_keeps_what_is_set_and_loads_to_the_same() {
    let given = file(
        "old.toml",
        "[server]\nmax_connections = 7\n[[models]]\npath = '/a/one.gguf'\nkeep_alive = 60\n\
         adapters = ['menu=x.gguf']\n[[models]]\npath = '/b/two.gguf'\naliases = ['gpt-*']",
    )
    .env("EDGELLM__GOVERNOR__POWER_BUDGET_WATTS", "12.5");
    let template = given.template();
    for line in [
        "max_connections = 7",
        "keep_alive = 60",
        "#keep_alive = 0",
        "#id = \"one\"",
        "aliases = [\"gpt-*\"]",
        "power_budget_watts = 12.5",
        "#header_timeout_seconds = 10",
    ] {
        assert!(template.lines().any(|other| other == line), "{line}");
    }
    let mut comments = template.lines().filter(|line| line.starts_with("# "));
    assert!(comments.all(|line| line.chars().count() <= 110));
    assert_eq!(file("new.toml", &template).settings(), given.settings());
}
