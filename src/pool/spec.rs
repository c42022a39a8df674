//! What the configuration says of a model, and what follows from it once the model is known.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{self, Speculation};
use crate::engine::{
    Attention, EmbedderOptions, EmbedderShape, EngineOptions, LoadError, MemoryEstimate, Purpose,
    estimate_embedding, estimate_generation, read_header,
};
use crate::headroom::most_memory;
use crate::scheduler::SchedulerLimits;

use super::ModelMemory;

/// Sequences beyond twice the running ones, for prefixes of ended requests; each costs a row of logits
/// in memory.
const EXTRA_SEQUENCES: u32 = 8;
/// llama.cpp allows one more in a context, which is the engine's own.
const MAX_SEQUENCES: u32 = 255;
/// KV partitions of all models may take this fraction of all memory: a quarter.
const PARTITION_MEMORY_DIVISOR: u64 = 4;
/// Texts of one batch: more would make short texts no faster, and each takes a vector's memory.
const MAX_BATCH_TEXTS: usize = 64;
/// Parameters below which a model spends its time around its matrix products.
const SMALL_MODEL_PARAMETERS: u64 = 30_000_000;

/// The configuration of one model, as its thread needs it.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// The name that clients use.
    pub id: String,
    /// The GGUF file.
    pub path: PathBuf,
    /// LoRA adapters that are loaded with it, by the name that clients use.
    pub adapters: Vec<(String, PathBuf)>,
    /// KV cells of a model that generates; tokens that one text may have with one that embeds.
    pub context: u32,
    /// Answers that are computed together at most.
    pub max_running: u32,
    /// Most requests that wait while others run.
    pub max_waiting: usize,
    /// Tokens of prompts and answers that one batch computes at most.
    pub max_batch_tokens: u32,
    /// Most bytes that the KV partitions may take together, if there is more than one.
    pub partition_memory: u64,
    /// How attention is computed; `None` chooses what suits the model.
    pub attention: Option<Attention>,
    /// Whether an answer is to come out the same whatever else there is.
    pub deterministic: bool,
    /// Threads that compute, where the configuration says.
    pub threads: Option<u32>,
    /// Cores that there are to compute on.
    pub cores: u32,
    /// Whether answers may draft.
    pub speculation: Speculation,
    /// What a step should take while answers are under way.
    pub target_inter_token: Duration,
    /// Most bytes of prefixes that are offloaded from the KV cache to RAM.
    pub parked_bytes: usize,
    /// A step that takes longer is taken for a hang.
    pub stall_timeout: Duration,
}

/// Why it cannot be said what a model is going to take of memory.
#[derive(Debug, thiserror::Error)]
pub enum EstimateError {
    /// Its file cannot be read.
    #[error(transparent)]
    File(#[from] LoadError),
    /// It is a sound file of something else.
    #[error(
        "{} is neither a model that generates nor one that embeds: give the file of the model itself",
        .0.display()
    )]
    NoModel(PathBuf),
}

/// Returns the bytes that everything together may take: what the configuration says, else what the machine and its
/// control groups allow; `None` where nobody knows.
#[must_use]
pub fn memory_budget(settings: &config::Settings) -> Option<u64> {
    let configured = settings.pool.memory_budget;
    configured.or_else(|| most_memory(&settings.governor))
}

/// Makes a specification of a file in the folder of models; `None` where its name cannot be an id.
pub type SpecMaker = Box<dyn Fn(&Path) -> Option<ModelSpec> + Send + Sync>;

impl ModelSpec {
    /// From the configuration; `cores` where it leaves the threads open, and bytes of `memory` for
    /// everything, where that is known.
    #[must_use]
    pub fn new(
        model: &config::ModelSettings,
        settings: &config::Settings,
        cores: u32,
        memory: Option<u64>,
    ) -> Self {
        let config::SchedulerSettings {
            max_batch_tokens,
            speculation,
            target_inter_token,
            parked_bytes,
            ..
        } = settings.scheduler;
        Self {
            id: model.id.clone(),
            path: model.path.clone(),
            adapters: adapters_of(model),
            context: model.context.get(),
            max_running: model.max_running.get(),
            max_waiting: settings.admission.max_waiting as usize,
            max_batch_tokens: max_batch_tokens.get(),
            partition_memory: memory.map_or(0, |bytes| {
                bytes / PARTITION_MEMORY_DIVISOR / settings.models.len().max(1) as u64
            }),
            attention: match model.attention {
                config::AttentionChoice::Auto => None,
                config::AttentionChoice::Plain => Some(Attention::Plain),
                config::AttentionChoice::Flash => Some(Attention::Flash),
            },
            deterministic: model.deterministic,
            threads: model.threads.map(std::num::NonZeroU32::get),
            cores,
            speculation,
            target_inter_token,
            parked_bytes,
            stall_timeout: settings.server.stall_timeout,
        }
    }

    /// Makes specifications of files, as of a model of the configuration that says nothing but its file.
    #[must_use]
    pub fn maker(settings: &config::Settings, cores: u32, memory: Option<u64>) -> SpecMaker {
        let settings = settings.clone();
        Box::new(move |file| {
            let model = config::ModelSettings::of_file(file)?;
            Some(Self::new(&model, &settings, cores, memory))
        })
    }

    /// Returns what the model is going to take of memory, as its file says.
    ///
    /// # Errors
    /// When the file cannot be read, or is no model.
    pub fn estimated_memory(&self) -> Result<ModelMemory, EstimateError> {
        let estimate = self.estimate()?;
        // Each adapter has a bank of its own.
        let banks = u64::from(estimate.partitions) + self.adapters.len() as u64;
        let adapters = self.adapters.iter().map(|(_, path)| path.metadata());
        let adapters: u64 = adapters.map(|file| file.map_or(0, |file| file.len())).sum();
        Ok(ModelMemory {
            weights: estimate.weights + estimate.mapped + adapters,
            kv_cache: estimate.kv_cache * banks,
            compute: estimate.compute * banks + estimate.vocabulary,
        })
    }

    /// Returns what one more bank of the KV cache is going to take, for an adapter.
    pub(super) fn bank_memory(&self) -> Option<ModelMemory> {
        let estimate = self.estimate().ok()?;
        Some(ModelMemory {
            weights: 0,
            kv_cache: estimate.kv_cache,
            compute: estimate.compute,
        })
    }

    /// Returns what the file is for; `None` where it cannot be read, or has no use here.
    #[must_use]
    pub fn purpose(&self) -> Option<Purpose> {
        read_header(&self.path).ok()?.purpose()
    }

    /// Returns the threads that compute for the model.
    #[must_use]
    pub fn threads(&self) -> u32 {
        self.threads.unwrap_or(self.cores)
    }

    fn estimate(&self) -> Result<MemoryEstimate, EstimateError> {
        let header = read_header(&self.path)?;
        let estimate = match header.purpose() {
            Some(Purpose::Generation) => {
                estimate_generation(&header, &self.engine_options(header.parameters()))
            }
            Some(Purpose::Embedding) => {
                let context = header.trained_context().unwrap_or(self.context);
                estimate_embedding(
                    &header,
                    &self.embedder_options(context, header.parameters()),
                )
            }
            None => None,
        };
        estimate.ok_or_else(|| EstimateError::NoModel(self.path.clone()))
    }

    /// Returns the bytes that the model is going to take, as its file says; `None` where the file cannot be read.
    #[must_use]
    pub fn expected_bytes(&self) -> Option<u64> {
        Some(self.estimated_memory().ok()?.total())
    }

    /// Returns the options of an embedder for a model that was trained on so many tokens. There is room for the
    /// longest text that the model reads, or that `models.context` allows, and for short ones as many as a step of a
    /// scheduler would take.
    pub(super) fn embedder_options(
        &self,
        trained_context: u32,
        parameters: u64,
    ) -> EmbedderOptions {
        let context = self.context.min(trained_context) as usize;
        EmbedderOptions {
            shape: EmbedderShape {
                rows: context.max(self.batch_rows() as usize),
                sequences: MAX_BATCH_TEXTS,
            },
            // One for a small model: a chat model often computes beside it, and two threads that wait
            // for a core answer later than one.
            threads: self.threads_per_partition(parameters),
            attention: self.attention,
        }
    }

    /// Requests that may be inside at once.
    pub(super) fn capacity(&self) -> usize {
        self.max_running as usize + self.max_waiting
    }

    /// Returns the number of sequences: twice as many as run, and a few more, for the prefixes that ended
    /// requests leave in the cache.
    fn sequences(&self) -> u32 {
        (2 * self.max_running + EXTRA_SEQUENCES).min(MAX_SEQUENCES)
    }

    /// Every running answer must fit into a batch, with room for a prompt, and llama.cpp ends the
    /// process unless every sequence could.
    pub(super) fn batch_rows(&self) -> u32 {
        self.max_batch_tokens
            .max(self.max_running + 16)
            .max(self.sequences() + 1)
    }

    /// Returns the engine's options for a model with this many parameters.
    pub(super) fn engine_options(&self, parameters: u64) -> EngineOptions {
        EngineOptions {
            cells: self.context,
            sequences: self.sequences(),
            batch_rows: self.batch_rows(),
            threads: self.threads(),
            threads_per_partition: self.threads_per_partition(parameters),
            memory: self.partition_memory,
            attention: self.attention,
            deterministic: self.deterministic,
        }
    }

    /// Returns the scheduler's limits for a model with this many parameters.
    pub(super) fn limits(&self, parameters: u64) -> SchedulerLimits {
        SchedulerLimits {
            max_running: self.max_running as usize,
            target_inter_token: self.target_inter_token,
            speculation: match self.speculation {
                Speculation::On => true,
                // With 6 M parameters making a batch of another shape costs as much as computing
                // it: the shipped model answers `edgellm bench` 7 % slower with drafts than
                // without.
                Speculation::Auto => parameters >= SMALL_MODEL_PARAMETERS,
                Speculation::Off => false,
            },
            parked_bytes: self.parked_bytes,
            deterministic: self.deterministic,
        }
    }

    /// Threads that compute one batch together: unless the configuration says, all cores, but one
    /// for a model so small that its threads would wait for each other longer than they compute.
    /// The 6 M one that ships answers 8 kiosks faster so, and another program on the cores does not
    /// hold it up (`edgellm bench`, with `--threads 1` and `2`).
    pub(super) fn threads_per_partition(&self, parameters: u64) -> u32 {
        let suitable = if parameters < SMALL_MODEL_PARAMETERS {
            1
        } else {
            self.cores
        };
        self.threads.unwrap_or(suitable)
    }
}

fn adapters_of(model: &config::ModelSettings) -> Vec<(String, PathBuf)> {
    let adapters = model.adapters.iter();
    adapters
        .map(|adapter| (adapter.name.clone(), adapter.path.clone()))
        .collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const SHIPPED: u64 = 6_000_000;
    const LARGE: u64 = 500_000_000;

    pub(in super::super) fn spec() -> ModelSpec {
        ModelSpec {
            id: "kiosk".to_owned(),
            path: "kiosk.gguf".into(),
            adapters: Vec::new(),
            context: 4096,
            max_running: 8,
            max_waiting: 64,
            max_batch_tokens: 512,
            partition_memory: 1 << 30,
            attention: None,
            deterministic: false,
            threads: None,
            cores: 4,
            speculation: Speculation::Auto,
            target_inter_token: Duration::from_millis(100),
            parked_bytes: 0,
            stall_timeout: Duration::from_secs(120),
        }
    }

    #[test]
    fn a_bank_of_a_small_model_takes_one_core_and_one_of_a_large_model_all() {
        assert_eq!(spec().threads_per_partition(SHIPPED), 1);
        assert_eq!(spec().threads_per_partition(LARGE), 4);
        let small = spec().engine_options(SHIPPED);
        assert_eq!((small.threads, small.threads_per_partition), (4, 1));
    }

    #[test]
    fn threads_that_are_configured_are_taken_for_any_model() {
        let spec = ModelSpec {
            threads: Some(2),
            ..spec()
        };
        for parameters in [SHIPPED, LARGE] {
            let options = spec.engine_options(parameters);
            assert_eq!((options.threads, options.threads_per_partition), (2, 2));
        }
    }

    #[test]
    fn a_small_model_drafts_only_where_it_is_told_to() {
        let drafts = |speculation| {
            let spec = ModelSpec {
                speculation,
                ..spec()
            };
            [SHIPPED, LARGE].map(|parameters| spec.limits(parameters).speculation)
        };
        assert_eq!(drafts(Speculation::Auto), [false, true]);
        assert_eq!(drafts(Speculation::On), [true, true]);
        assert_eq!(drafts(Speculation::Off), [false, false]);
    }

    #[test]
    fn every_running_answer_and_every_sequence_fits_into_a_batch() {
        for max_running in [1, 8, 60, 100, 200] {
            let spec = ModelSpec {
                max_running,
                max_batch_tokens: 1,
                ..spec()
            };
            let options = spec.engine_options(LARGE);
            assert!(options.sequences <= MAX_SEQUENCES);
            assert!(options.batch_rows > options.sequences);
            assert!(options.batch_rows > max_running);
        }
    }
}
