//! A request's way to a loaded model.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::admission::{
    AdmissionRefusal, AdmissionSlot, DrainGuard, GateRefusal, RefusalReason, Tenant,
};

use super::failure::{FailureCause, LoadFailure};
use super::version::{ModelVersion, VersionEnd, VersionState};
use super::{LoadedModel, ModelEntry};

/// How long a request without a deadline waits for memory, or for models that load before its own. While
/// its model is being loaded it waits for as long as that takes.
const QUEUE_PATIENCE: Duration = Duration::from_secs(60);
/// How often a request that waits looks whether its slots were given to another.
const GLANCE: Duration = Duration::from_millis(250);
/// When to ask again for a model that others keep out.
const RETRY: Duration = Duration::from_secs(5);

/// Who wants in.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Whose request it is.
    pub tenant: Tenant,
    /// How many slots it takes.
    pub slots: usize,
    /// Makes a shutdown wait for it.
    pub drain_guard: Option<DrainGuard>,
    /// When its client no longer wants the answer.
    pub deadline: Option<Instant>,
}

/// A request inside, at a loaded model.
#[derive(Debug)]
pub struct Entered {
    /// The model.
    pub loaded: LoadedModel,
    /// Its slots, which keep the model from leaving.
    pub slots: Vec<AdmissionSlot>,
    /// Makes a shutdown wait for it.
    pub drain_guard: DrainGuard,
}

/// Why a request does not get in.
#[derive(Debug, Clone)]
pub enum EnterError {
    /// The gate does not admit it, or its model did not come in time.
    Refused(AdmissionRefusal),
    /// Its deadline has passed while it waited.
    DeadlinePassed(Instant),
    /// The model cannot be loaded.
    Failed(LoadFailure),
    /// The model ended while the request waited.
    Ended(VersionEnd),
    /// Its file is gone.
    Removed,
}

impl From<AdmissionRefusal> for EnterError {
    fn from(refusal: AdmissionRefusal) -> Self {
        Self::Refused(refusal)
    }
}

impl ModelEntry {
    /// Lets a request in, and loads the model if it is not: the request waits inside, where it has its place
    /// among the others.
    ///
    /// # Errors
    /// See [`EnterError`].
    pub async fn enter(&self, visit: Visit) -> Result<Entered, EnterError> {
        loop {
            let version = self.version_or_want()?;
            let admitted =
                version
                    .gate
                    .admit_together(visit.tenant, visit.slots, visit.drain_guard.clone());
            match admitted {
                Ok((slots, drain_guard)) => {
                    let loaded = tokio::select! {
                        biased;
                        loaded = loaded(&version, visit.deadline) => loaded,
                        refusal = displaced(&slots) => Err(refusal.into()),
                    };
                    let loaded = loaded.map_err(|error| self.unless_stopping(error))?;
                    return Ok(Entered {
                        loaded,
                        slots,
                        drain_guard,
                    });
                }
                Err(GateRefusal::Refused(refusal)) => return Err(refusal.into()),
                // It leaves; the next one is wanted as soon as it is gone.
                Err(GateRefusal::Closed) => self.departure(&version, visit.deadline).await?,
            }
        }
    }

    /// What a request is told whose version ended because the server stops.
    fn unless_stopping(&self, error: EnterError) -> EnterError {
        if self.is_stopping() {
            AdmissionRefusal::draining().into()
        } else {
            error
        }
    }

    /// Waits until a version that takes nobody any more is gone. No more wait than there are places in a gate.
    async fn departure(
        &self,
        version: &ModelVersion,
        deadline: Option<Instant>,
    ) -> Result<(), EnterError> {
        let _waiting = Waiting::begin(&self.waiting, self.capacity())?;
        let mut changes = self.changes();
        let is_gone = async {
            while self.has(version) {
                // The context holds the sender.
                let _ = changes.changed().await;
            }
        };
        patiently(deadline, RefusalReason::Loading, is_gone).await
    }
}

/// One of those who wait outside.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(count: &'a AtomicUsize, most: usize) -> Result<Self, AdmissionRefusal> {
        let waiting = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) >= most {
            return Err(AdmissionRefusal {
                reason: RefusalReason::QueueFull,
                retry_after: RETRY,
            });
        }
        Ok(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Waits for a version to answer.
async fn loaded(
    version: &Arc<ModelVersion>,
    deadline: Option<Instant>,
) -> Result<LoadedModel, EnterError> {
    // The usual case costs no timer.
    if let VersionState::Ready(serving) = version.state() {
        return Ok(serving);
    }
    let begins = version.reaches(|state| !matches!(state, VersionState::Queued));
    patiently(deadline, RefusalReason::Memory, begins).await?;
    let serving = until(deadline, version.serving()).await?;
    serving.map_err(EnterError::Ended)
}

/// Waits, but no longer than a request does that has no deadline; then it is refused for this reason.
async fn patiently<T>(
    deadline: Option<Instant>,
    reason: RefusalReason,
    work: impl Future<Output = T>,
) -> Result<T, EnterError> {
    let in_time = tokio::time::timeout(QUEUE_PATIENCE, until(deadline, work)).await;
    in_time.map_err(|_| AdmissionRefusal {
        reason,
        retry_after: RETRY,
    })?
}

/// Resolves when the slots of a request are given to another's. That is looked at now and then: nobody tells.
async fn displaced(slots: &[AdmissionSlot]) -> AdmissionRefusal {
    loop {
        tokio::time::sleep(GLANCE).await;
        if let Some(retry_after) = slots.first().and_then(AdmissionSlot::displaced) {
            return AdmissionRefusal {
                reason: RefusalReason::QueueFull,
                retry_after,
            };
        }
    }
}

/// Waits, but no longer than to the deadline.
async fn until<T>(
    deadline: Option<Instant>,
    work: impl Future<Output = T>,
) -> Result<T, EnterError> {
    match deadline {
        None => Ok(work.await),
        Some(deadline) => {
            let in_time = tokio::time::timeout_at(deadline.into(), work).await;
            in_time.map_err(|_| EnterError::DeadlinePassed(deadline))
        }
    }
}

impl EnterError {
    /// What keeps the model from answering, if it cannot be loaded.
    #[must_use]
    pub fn cause(&self) -> Option<FailureCause> {
        match self {
            Self::Failed(failure) => Some(failure.cause.clone()),
            Self::Ended(VersionEnd::TooLarge(shortage)) => Some(FailureCause::TooLarge(*shortage)),
            Self::Ended(VersionEnd::Unloadable(error)) => {
                Some(FailureCause::Unloadable(error.to_string()))
            }
            Self::Ended(VersionEnd::Crashed) => Some(FailureCause::Crashed),
            Self::Removed => Some(FailureCause::Unloadable("its file is gone".to_owned())),
            Self::Ended(VersionEnd::Unloaded) | Self::Refused(_) | Self::DeadlinePassed(_) => None,
        }
    }
}
