//! Decides from which prefix a sequence starts, and what the running sequences still have to compute.

use std::time::Instant;

use crate::engine::Engine;
use crate::telemetry::ModelMetrics;

use super::cache::Cache;
use super::plan::{SequenceDemand, Urgency};
use super::prefix_lookup::common_prefix;
use super::running::RunningSequence;

/// A sequence that computes a prefix which another one waits for.
struct PrefixProducer {
    /// Its index among the running sequences.
    index: usize,
    /// Tokens that it has to compute until the other can start.
    left: usize,
}

/// Starts every sequence that has not started from the longest prefix that the cache has of it,
/// except where an older sequence will soon have a longer one: then it waits for that. The older
/// one is as urgent meanwhile as the most urgent of those that wait for it, so that waiting never
/// takes longer than computing the prefix again would. Returns how urgent each sequence is.
pub(super) fn start_sequences<E: Engine>(
    cache: &mut Cache<E>,
    running: &mut [RunningSequence],
    now: Instant,
    metrics: &ModelMetrics,
) -> Vec<Urgency> {
    let mut urgencies: Vec<Urgency> = running.iter().map(urgency).collect();
    let mut partitions = Vec::new();
    for index in 0..running.len() {
        if running[index].has_started {
            continue;
        }
        if let Some(producer) = producer(cache, &running[..index], &running[index]) {
            let class = running[index].sequence.class();
            urgencies[producer.index].wanted_by(class, producer.left);
            continue;
        }
        let newcomer = &mut running[index];
        partitions.push(cache.partition_of(newcomer.id));
        let shared = if newcomer.sequence.is_exact() {
            let prefix = newcomer.sequence.sharable_exactly();
            cache.share_exactly(newcomer.id, prefix, now)
        } else {
            cache.share(newcomer.id, newcomer.sequence.sharable(), now)
        };
        newcomer.has_started = true;
        newcomer.sequence.start(shared, metrics);
        urgencies[index] = urgency(newcomer);
    }
    if !partitions.is_empty() {
        let waiting = running.iter().filter(|running| !running.has_started);
        let producer = waiting.map(|running| (running.id, running.sequence.sharable()));
        cache.offload_unrelated(&partitions, producer);
    }
    urgencies
}

/// The first of the `older` sequences that will have more of the newcomer's prefix than is known
/// now. Tokens that are still to be generated are not waited for: they come one a step.
fn producer<E: Engine>(
    cache: &Cache<E>,
    older: &[RunningSequence],
    newcomer: &RunningSequence,
) -> Option<PrefixProducer> {
    let prefix = newcomer.sequence.sharable();
    let partition = cache.partition_of(newcomer.id);
    let known = cache.known_length(partition, prefix);
    older.iter().enumerate().find_map(|(index, older)| {
        let common = common_prefix(cache, partition, prefix, older);
        let left = common.saturating_sub(older.sequence.computed());
        let is_awaited = !older.sequence.is_decoding() && left > 0 && known < common;
        is_awaited.then_some(PrefixProducer { index, left })
    })
}

/// Returns how urgent a sequence is by itself.
fn urgency(running: &RunningSequence) -> Urgency {
    Urgency {
        class: running.sequence.class(),
        left: running.sequence.missing(),
    }
}

/// Returns what each sequence could compute in the next step. Exact sequences count in blocks of
/// `exact_block` tokens where the engine needs that, and scored prompts, all of whose rows need
/// logits, take `most_logits` rows together at most.
pub(super) fn demands(
    running: &[RunningSequence],
    urgencies: Vec<Urgency>,
    exact_block: Option<usize>,
    most_logits: usize,
) -> Vec<SequenceDemand> {
    let mut logits_left = most_logits;
    let mut missing = |running: &RunningSequence| {
        if !running.has_started {
            return 0;
        }
        let missing = match exact_block {
            Some(block) if running.sequence.is_exact() => {
                let missing = running.sequence.missing();
                running.sequence.exact_share(missing, block)
            }
            _ => running.sequence.missing(),
        };
        if !running.sequence.is_scoring() {
            return missing;
        }
        let scored = missing.min(logits_left);
        logits_left -= scored;
        scored
    };
    (running.iter().zip(urgencies))
        .map(|(running, urgency)| SequenceDemand {
            missing: missing(running),
            decoding: running.sequence.is_decoding(),
            urgency,
        })
        .collect()
}
