//! Behaviour of the whole room, through [`load`](super::load).

mod drift;
mod layers;
mod made_up;
mod mistakes;
mod models;
mod round_trip;

use std::path::PathBuf;

use tempfile::TempDir;

use super::{ConfigError, SettingOverride, Settings, Sources, load, template};

/// Files in a directory of their own, with variables and flags.
struct TestSources {
    directory: TempDir,
    sources: Sources,
}

fn nothing() -> TestSources {
    TestSources {
        directory: TempDir::new().unwrap(),
        sources: Sources::default(),
    }
}

fn file(name: &str, text: &str) -> TestSources {
    nothing().file(name, text)
}

impl TestSources {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn file(mut self, name: &str, text: impl AsRef<[u8]>) -> Self {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        self.sources.files.push(path);
        self
    }

    fn env(mut self, name: &str, value: &str) -> Self {
        self.sources.env.push((name.to_owned(), value.to_owned()));
        self
    }

    fn flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.sources.overrides.push(SettingOverride {
            key: key.to_owned(),
            flag: flag.to_owned(),
            value: value.to_owned(),
        });
        self
    }

    fn settings(&self) -> Settings {
        load(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    fn template(&self) -> String {
        template(&self.sources).unwrap_or_else(|error| panic!("{error}"))
    }

    fn error(&self) -> ConfigError {
        load(&self.sources).unwrap_err()
    }

    /// What is said, with the directory of the files left out.
    fn complaints(&self) -> Vec<String> {
        let directory = format!("{}/", self.directory.path().display());
        self.error()
            .mistakes()
            .iter()
            .map(|mistake| mistake.to_string().replace(&directory, ""))
            .collect()
    }
}
