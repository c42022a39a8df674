//! The declarations of all sections, one file each: add a setting here, and nowhere else.

mod admission;
mod auth;
mod governor;
mod models;
mod pool;
mod scheduler;
mod server;
mod telemetry;

pub use admission::AdmissionSettings;
pub use auth::{AuthSettings, MetricsAccess, PrefixSharing};
pub use governor::{BudgetScope, GovernorSettings, Watts};
pub use models::{AttentionChoice, ModelSettings};
pub use pool::{PoolSettings, StateSettings};
pub use scheduler::{SchedulerSettings, Speculation};
pub use server::ServerSettings;
pub use telemetry::{CachedTokens, LogFormat, LogLevel, TelemetrySettings};

pub(super) use governor::check as check_governor;
pub(super) use models::check as check_models;
