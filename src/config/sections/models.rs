use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::adapter::{AdapterSettings, adapters};
use crate::config::declare::{choice, section};
use crate::config::schema::KeyDefault;
use crate::config::setting::{flag, name, names, path, seconds_or_none, whole, whole_or_none};
use crate::config::{ConfigMistake, mistake};

section! {
    /// The models; one `[[models]]` section for each.
    pub struct ModelSettings in [["models"]] of "model" {
        /// The model's GGUF file; a relative path starts at this file's directory.
        ///
        /// It has not been looked at yet.
        pub path: PathBuf = path(KeyDefault::Required, "models/kiosk.gguf"),
        /// The name that clients use; without it, the file's name without .gguf.
        ///
        /// Unique among the models.
        pub id: String = name(KeyDefault::StemOf("path"), "kiosk"),
        /// Tokens of context that all running requests share; more takes more memory.
        pub context: NonZeroU32 = whole(128..=16_777_216, "tokens", 8192),
        /// Requests answered at the same time; the others wait their turn.
        pub max_running: NonZeroU32 = whole(1..=255, "requests", 16),
        /// CPU threads; 0 uses one for each physical core, of which a very small model gives one to each bank of its cache.
        pub threads: Option<NonZeroU32> = whole_or_none(512, "threads"),
        /// plain decodes faster where attention is most of the work, flash reads prompts faster; auto chooses.
        pub attention: AttentionChoice = AttentionChoice::one_of(AttentionChoice::Auto),
        /// Whether a request has the same answer bit by bit whatever else is asked; it takes plain attention and is slower.
        pub deterministic: bool = flag(false),
        /// Other names that it answers to; `*` in one stands for any text, as in `gpt-*`.
        ///
        /// None is the id, or an exact alias, of another model; of patterns that fit both, the first model's wins.
        pub aliases: Vec<String> = names(),
        /// Whether it answers requests for names that no model has; one model at most.
        pub default: bool = flag(false),
        /// Whether it is loaded at the start, whatever `preload` says, and never leaves the memory.
        pub pinned: bool = flag(false),
        /// Whether it is loaded at the start; otherwise the first request for it loads it.
        pub preload: bool = flag(true),
        /// Seconds without a request after which it leaves the memory; 0 is when another model needs it.
        pub keep_alive: Option<Duration> = seconds_or_none(31_536_000),
        /// Ids of smaller models that answer in its place while power, heat or memory are short, the best first.
        pub siblings: Vec<String> = names(),
        /// LoRA adapters for it, asked for as `id+name`: GGUF files, each `PATH` or `NAME=PATH`.
        ///
        /// Their names differ.
        pub adapters: Vec<AdapterSettings> = adapters(),
    }
}

choice! {
    /// Two ways to the same numbers, but for rounding.
    pub enum AttentionChoice {
        /// Whichever suits the model.
        Auto = "auto",
        /// One matrix product over all rows and cells.
        Plain = "plain",
        /// Cell by cell, for each row those that it sees only.
        Flash = "flash",
    }
}

/// Models that shall give the same bits, with the attention that rounds by the size of a batch.
pub(in crate::config) fn check(models: &[ModelSettings], mistakes: &mut Vec<ConfigMistake>) {
    for (index, model) in models.iter().enumerate() {
        if model.deterministic && model.attention == AttentionChoice::Flash {
            mistakes.push(ConfigMistake::Contradiction {
                key: mistake::entry_key("models", index, "attention"),
                found: model.attention.as_str().to_owned(),
                expected:
                    "\"plain\" or \"auto\" with models.deterministic: flash rounds by the size \
                           of the batch"
                        .to_owned(),
            });
        }
    }
}
