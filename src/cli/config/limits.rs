//! `edgellm config systemd`: limits of memory and threads for the unit, each with what it is made of.

use std::path::PathBuf;
use std::{fs, io};

use crate::cli::Serve;
use crate::config::{self, ConfigError, Settings};
use crate::engine::{Purpose, cpu};
use crate::grammar::{COMPILES_AT_ONCE, TRIAL_MEMORY};
use crate::headroom::most_memory;
use crate::http::LARGE_BODIES_BYTES;
use crate::pool::{EstimateError, ModelMemory, ModelSpec, memory_budget, models_in};

const MEBIBYTE: u64 = 1 << 20;
/// The program's own pages, its threads, and what the runtime keeps.
const PROGRAM_BYTES: u64 = 64 * MEBIBYTE;
/// One open connection, with TLS.
const CONNECTION_BYTES: u64 = 64 << 10;
/// Sensors, the runtime, the pool and the rest: some 35 at most, measured.
const PROGRAM_THREADS: u64 = 40;
/// Threads of a model beside those that compute: its own, its grammars', long words'.
const MODEL_THREADS: u64 = 8;
/// Threads of a helper process.
const HELPER_THREADS: u64 = 3;
/// `MemoryMax=` is a multiple of so many MiB.
const MEMORY_STEP: u64 = 64;
/// `TasksMax=` is a multiple of this.
const TASKS_STEP: u64 = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum LimitsError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("model `{id}`: {source}")]
    Model { id: String, source: EstimateError },
    #[error("pool.models_dir {} cannot be read: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
}

/// What takes a part of a limit.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    amount: u64,
    whose: String,
}

impl Part {
    fn new(amount: u64, whose: impl Into<String>) -> Self {
        Self {
            amount,
            whose: whose.into(),
        }
    }
}

/// A model, as far as it matters here.
#[derive(Debug, Clone)]
struct Model {
    id: String,
    memory: ModelMemory,
    generates: bool,
    threads: u64,
}

/// What the limits are made of.
#[derive(Debug)]
struct Demand {
    /// What counts in `pool.memory_budget`, in bytes.
    within_budget: Vec<Part>,
    /// Helper processes, in bytes.
    helpers: Vec<Part>,
    /// `pool.memory_budget`.
    budget: Option<u64>,
    threads: Vec<Part>,
}

/// Makes the text of the drop-in.
pub(super) fn of(arguments: Serve) -> Result<String, LimitsError> {
    let settings = config::load(&arguments.sources())?;
    settings.require_models()?;
    let models = models(&settings)?;
    let demand = Demand::of(&settings, &models, u64::from(cpu::usable_cores()));
    Ok(demand.in_words(most_memory(&settings.governor)))
}

/// The models of the configuration, and the one of the folder that takes most: its models come and go.
fn models(settings: &Settings) -> Result<Vec<Model>, LimitsError> {
    let (cores, budget) = (cpu::usable_cores(), memory_budget(settings));
    let configured = settings.models.iter();
    let configured = configured.map(|model| ModelSpec::new(model, settings, cores, budget));
    let mut models = configured
        .map(|spec| Model::of(&spec))
        .collect::<Result<Vec<_>, _>>()?;
    if let Some(folder) = &settings.pool.models_dir {
        // Those in it would be missing without a word.
        fs::read_dir(folder).map_err(|source| LimitsError::Folder {
            folder: folder.clone(),
            source,
        })?;
        let found = models_in(folder, ModelSpec::maker(settings, cores, budget));
        let found = found.iter().map(Model::of);
        let found = found.collect::<Result<Vec<_>, _>>()?;
        models.extend(found.into_iter().max_by_key(|model| model.memory.total()));
    }
    Ok(models)
}

impl Model {
    fn of(spec: &ModelSpec) -> Result<Self, LimitsError> {
        let memory = spec
            .estimated_memory()
            .map_err(|source| LimitsError::Model {
                id: spec.id.clone(),
                source,
            })?;
        Ok(Self {
            id: spec.id.clone(),
            memory,
            generates: spec.purpose() == Some(Purpose::Generation),
            threads: u64::from(spec.threads()),
        })
    }
}

impl Demand {
    fn of(settings: &Settings, models: &[Model], cores: u64) -> Self {
        let generating = models.iter().filter(|model| model.generates).count() as u64;
        let helpers = generating * COMPILES_AT_ONCE as u64;
        Self {
            within_budget: memory_parts(settings, models, generating),
            helpers: vec![
                Part::new(
                    helpers * TRIAL_MEMORY,
                    format!("{helpers} helper processes that try clients' schemas"),
                ),
                Part::new(
                    TRIAL_MEMORY,
                    "a helper process that tries a model's file before it is loaded",
                ),
            ],
            budget: settings.pool.memory_budget,
            threads: thread_parts(models, helpers, cores),
        }
    }

    /// `MemoryMax=` in MiB.
    fn memory_max(&self) -> u64 {
        let wanted = sum(&self.within_budget);
        let within_budget = self.budget.map_or(wanted, |budget| wanted.min(budget));
        let bytes = within_budget + sum(&self.helpers);
        let with_reserve = bytes + bytes / 4;
        with_reserve
            .div_ceil(MEBIBYTE)
            .next_multiple_of(MEMORY_STEP)
    }

    fn tasks_max(&self) -> u64 {
        (2 * sum(&self.threads)).next_multiple_of(TASKS_STEP)
    }

    fn in_words(&self, box_bytes: Option<u64>) -> String {
        let mebibytes = |part: &Part| (part.amount.div_ceil(MEBIBYTE), part.whose.clone());
        let mut lines = vec![
            "# Suggested by `edgellm config systemd`, for this configuration on a box with as many cores as this one:"
                .to_owned(),
            "# /etc/systemd/system/edgellm.service.d/limits.conf, then `systemctl daemon-reload` and a restart."
                .to_owned(),
            "[Service]".to_owned(),
            "# MiB, when all of it is in use:".to_owned(),
        ];
        lines.extend(table(self.within_budget.iter().map(mebibytes)));
        if let Some(budget) = self
            .budget
            .filter(|budget| *budget < sum(&self.within_budget))
        {
            lines.push(format!(
                "# of which edgellm keeps within pool.memory_budget, {} MiB: models take turns; and besides",
                budget / MEBIBYTE
            ));
        }
        lines.extend(table(self.helpers.iter().map(mebibytes)));
        lines.push(
            "# and a quarter more: at 90 % of the limit edgellm keeps fewer prompts, at 95 % it refuses requests."
                .to_owned(),
        );
        let memory_max = self.memory_max();
        if let Some(bytes) = box_bytes.filter(|bytes| memory_max * MEBIBYTE > *bytes) {
            lines.push(format!(
                "# THIS IS MORE THAN THE {} MiB THAT CAN BE HAD HERE: lower models.context, models.max_running or \
                 scheduler.parked_bytes, or set pool.memory_budget, so that models take turns.",
                bytes / MEBIBYTE
            ));
        }
        lines.push(format!("MemoryMax={memory_max}M"));
        lines.push("# Threads:".to_owned());
        let threads = self.threads.iter();
        lines.extend(table(threads.map(|part| (part.amount, part.whose.clone()))));
        lines.push(
            "# and as many again: OpenMP ends the process if it is refused a thread.".to_owned(),
        );
        lines.push(format!("TasksMax={}", self.tasks_max()));
        lines.join("\n") + "\n"
    }
}

fn memory_parts(settings: &Settings, models: &[Model], generating: u64) -> Vec<Part> {
    let of_models = models.iter().flat_map(|model| {
        let id = &model.id;
        let ModelMemory {
            weights,
            kv_cache,
            compute,
        } = model.memory;
        [
            Part::new(weights, format!("weights of {id}")),
            Part::new(kv_cache, format!("KV cache of {id}")),
            Part::new(
                compute,
                format!("what {id} computes in, and its vocabulary"),
            ),
        ]
    });
    let server = &settings.server;
    let parked = settings.scheduler.parked_bytes as u64;
    let connections = u64::from(server.max_connections.get());
    let own = [
        Part::new(
            generating * parked,
            "parked prompts (scheduler.parked_bytes for each model that generates)",
        ),
        Part::new(LARGE_BODIES_BYTES, "large requests that come in"),
        Part::new(
            server.max_unsent_bytes as u64,
            "answers that clients have not read (server.max_unsent_bytes)",
        ),
        Part::new(
            server.store_max_bytes as u64,
            "stored responses (server.store_max_bytes)",
        ),
        Part::new(
            connections * CONNECTION_BYTES,
            "connections (server.max_connections)",
        ),
        Part::new(PROGRAM_BYTES, "the program itself"),
    ];
    of_models.chain(own).collect()
}

fn thread_parts(models: &[Model], helpers: u64, cores: u64) -> Vec<Part> {
    let of_models = models.iter().map(|model| {
        let whose = format!(
            "{}: {} that compute, and {MODEL_THREADS}",
            model.id, model.threads
        );
        Part::new(model.threads + MODEL_THREADS, whose)
    });
    let own = [
        Part::new(
            helpers * HELPER_THREADS,
            format!("{helpers} helper processes that try clients' schemas"),
        ),
        Part::new(
            cores + HELPER_THREADS,
            "a helper process that tries a model's file",
        ),
        Part::new(
            PROGRAM_THREADS,
            "the program itself, its sensors and its runtime",
        ),
    ];
    of_models.chain(own).collect()
}

fn sum(parts: &[Part]) -> u64 {
    parts.iter().map(|part| part.amount).sum()
}

/// Comments with a column of numbers; what takes nothing is left out.
fn table(rows: impl Iterator<Item = (u64, String)>) -> Vec<String> {
    rows.filter(|(amount, _)| *amount > 0)
        .map(|(amount, whose)| format!("# {amount:>8}  {whose}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(id: &str, mebibytes: u64, generates: bool) -> Model {
        Model {
            id: id.to_owned(),
            memory: ModelMemory {
                weights: mebibytes * MEBIBYTE,
                kv_cache: 10 * MEBIBYTE,
                compute: 20 * MEBIBYTE,
            },
            generates,
            threads: 4,
        }
    }

    fn settings(text: &str) -> Settings {
        let file = tempfile::NamedTempFile::with_suffix(".toml").expect("a file");
        std::fs::write(file.path(), text).expect("written");
        config::load(&config::Sources {
            files: vec![file.path().to_owned()],
            ..config::Sources::default()
        })
        .expect("sound")
    }

    #[test]
    fn a_file_or_a_folder_that_cannot_be_read_is_named() {
        let said = |text: &str| models(&settings(text)).expect_err("unreadable").to_string();
        let file = said("[[models]]\nid = \"a\"\npath = \"/nowhere/b.gguf\"\n");
        assert!(
            file.starts_with("model `a`: cannot read model /nowhere/b.gguf"),
            "{file}"
        );
        let folder = said("[pool]\nmodels_dir = \"/nowhere\"\n");
        assert!(
            folder.starts_with("pool.models_dir /nowhere cannot be read"),
            "{folder}"
        );
    }

    #[test]
    fn every_model_adds_to_both_limits() {
        let settings = settings("");
        let of = |models: &[Model]| Demand::of(&settings, models, 4);
        let one = of(&[model("a", 1000, true)]);
        let two = of(&[model("a", 1000, true), model("b", 1000, true)]);
        let embeds = of(&[model("a", 1000, true), model("b", 1000, false)]);
        assert!(one.memory_max() < embeds.memory_max());
        // It parks no prompts and compiles no grammars.
        assert!(embeds.memory_max() < two.memory_max());
        // Before they are rounded up.
        let threads = |demand: &Demand| sum(&demand.threads);
        assert!(threads(&one) < threads(&embeds));
        assert!(threads(&embeds) < threads(&two));
        assert!(one.tasks_max() < of(&vec![model("a", 1000, true); 10]).tasks_max());
    }

    #[test]
    fn the_limits_are_what_the_comments_add_up_to() {
        let settings = settings("[server]\nmax_unsent_bytes = 104857600\n");
        let demand = Demand::of(&settings, &[model("a", 1000, true)], 4);
        let text = demand.in_words(None);
        let section = |from: &str, to: &str| -> u64 {
            let (_, rest) = text.split_once(from).expect("a beginning");
            let (lines, _) = rest.split_once(to).expect("an end");
            let numbers = lines.lines().filter_map(|line| {
                let line = line.strip_prefix("# ")?;
                line.split_whitespace().next()?.parse::<u64>().ok()
            });
            numbers.sum()
        };
        assert!(
            text.contains("#      100  answers that clients have not read"),
            "{text}"
        );
        let memory = section("[Service]", "MemoryMax=");
        let memory_max = demand.memory_max();
        assert!(text.contains(&format!("\nMemoryMax={memory_max}M\n")));
        assert!((memory * 5 / 4..memory * 5 / 4 + 2 * MEMORY_STEP).contains(&memory_max));
        let threads = section("# Threads:", "TasksMax=");
        assert_eq!(
            (2 * threads).next_multiple_of(TASKS_STEP),
            demand.tasks_max()
        );
        assert!(text.ends_with(&format!("TasksMax={}\n", demand.tasks_max())));
    }

    #[test]
    fn models_that_take_turns_need_no_more_than_their_budget() {
        let limited = settings("[pool]\nmemory_budget = 1073741824\n");
        let many: Vec<_> = (0..10).map(|_| model("m", 1000, true)).collect();
        let demand = Demand::of(&limited, &many, 4);
        let helpers = sum(&demand.helpers) / MEBIBYTE;
        let expected = ((1024 + helpers) * 5).div_ceil(4);
        assert_eq!(demand.memory_max(), expected.next_multiple_of(MEMORY_STEP));
        assert!(
            demand
                .in_words(None)
                .contains("within pool.memory_budget, 1024 MiB")
        );
        // And less where there is less.
        let few = Demand::of(&limited, &[model("m", 10, false)], 4);
        assert!(few.memory_max() < 1024);
        assert!(!few.in_words(None).contains("pool.memory_budget, "));
    }

    #[test]
    fn more_than_the_box_has_is_said() {
        let demand = Demand::of(&settings(""), &[model("a", 1000, true)], 4);
        let said = |mebibytes| {
            demand
                .in_words(Some(mebibytes * MEBIBYTE))
                .contains("THIS IS MORE")
        };
        assert!(said(demand.memory_max() - 1));
        assert!(!said(demand.memory_max()));
    }
}
