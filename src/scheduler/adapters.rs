//! LoRA adapters that come and go while requests run.
//!
//! Loading and freeing one happens on the model's thread between two decodes, because llama.cpp's
//! contexts read the list of a model's adapters. An adapter that is removed is first no longer offered:
//! requests that wait for it are refused, those that have begun end as they would have, and with the last
//! of them it goes.

use tokio::sync::oneshot;

use crate::engine::{AdapterError, AdapterId, Engine};
use crate::worker::WorkError;

use super::Scheduler;
use super::job::GenerationJob;
use super::sequence::Sequence;

/// What comes to the thread of a model that generates.
#[derive(Debug)]
pub enum SchedulerRequest<F> {
    /// A request to compute.
    Generate(Box<GenerationJob>),
    /// An adapter to load or to free.
    Change(AdapterChange<F>),
}

/// An adapter comes or goes.
#[derive(Debug)]
pub enum AdapterChange<F> {
    /// It is loaded; computing rests meanwhile. If nobody waits for that any more it is freed again.
    Add {
        /// Its id, which no other adapter had.
        id: AdapterId,
        /// Its file.
        file: F,
        /// Told when it can be asked for, or why it cannot.
        done: oneshot::Sender<Result<(), AdapterError>>,
    },
    /// It is freed as soon as no request that has begun needs it.
    Remove {
        /// Its id.
        id: AdapterId,
        /// Told when its memory is back.
        done: oneshot::Sender<()>,
    },
}

/// Adapters that go as soon as nothing is computed with them any more.
#[derive(Debug, Default)]
pub(super) struct Removals(Vec<Removal>);

#[derive(Debug)]
struct Removal {
    id: AdapterId,
    /// Who waits for it.
    done: Vec<oneshot::Sender<()>>,
}

impl Removals {
    fn has(&self, id: AdapterId) -> bool {
        self.0.iter().any(|removal| removal.id == id)
    }

    fn begin(&mut self, id: AdapterId, done: Option<oneshot::Sender<()>>) {
        match self.0.iter_mut().find(|removal| removal.id == id) {
            Some(removal) => removal.done.extend(done),
            None => self.0.push(Removal {
                id,
                done: done.into_iter().collect(),
            }),
        }
    }
}

impl<E: Engine> Scheduler<E> {
    /// Loads an adapter.
    ///
    /// # Errors
    /// See [`AdapterError`].
    pub fn add_adapter(&mut self, id: AdapterId, file: E::AdapterFile) -> Result<(), AdapterError> {
        let cache = &mut self.sequences.cache;
        cache.add_adapter(id, file)?;
        self.placement.set_threads(cache.shape().threads);
        Ok(())
    }

    pub(super) fn change(&mut self, change: AdapterChange<E::AdapterFile>) {
        match change {
            AdapterChange::Add { id, file, done } => {
                let added = self.add_adapter(id, file);
                if let Err(Ok(())) = done.send(added) {
                    // It is there, and nobody knows of it.
                    self.remove_adapter(id, None);
                }
            }
            AdapterChange::Remove { id, done } => self.remove_adapter(id, Some(done)),
        }
    }

    /// Refuses what waits for an adapter, and frees it when what has begun with it has ended.
    fn remove_adapter(&mut self, id: AdapterId, done: Option<oneshot::Sender<()>>) {
        let is_refused =
            |sequence: &mut Sequence| sequence.adapter() == Some(id) && !sequence.has_joined();
        for mut sequence in self.sequences.waiting.extract_if(.., is_refused) {
            sequence.fail(WorkError::AdapterRemoved);
        }
        self.removals.begin(id, done);
        self.finish_removals();
    }

    /// Whether a new request can be computed with this adapter, or with none.
    pub(super) fn serves(&self, adapter: Option<AdapterId>) -> bool {
        adapter.is_none_or(|id| self.sequences.cache.has_adapter(id) && !self.removals.has(id))
    }

    /// Frees the adapters that were to go and with which nothing is computed any more.
    pub(super) fn finish_removals(&mut self) {
        let sequences = &mut self.sequences;
        let is_over = |removal: &mut Removal| !sequences.has_any_with(removal.id);
        let over: Vec<Removal> = self.removals.0.extract_if(.., is_over).collect();
        for removal in over {
            sequences.cache.remove_adapter(removal.id);
            for waiting in removal.done {
                // Whoever asked for it may have left.
                let _ = waiting.send(());
            }
        }
    }
}
