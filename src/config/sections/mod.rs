//! The declarations of all sections, one file each: add a setting here, and nowhere else.

mod admission;
mod auth;
mod governor;
mod models;
mod pool;
mod scheduler;
mod server;
mod telemetry;

pub use admission::*;
pub use auth::*;
pub use governor::*;
pub use models::*;
pub use pool::*;
pub use scheduler::*;
pub use server::*;
pub use telemetry::*;

pub(super) use governor::check as check_governor;
pub(super) use models::check as check_models;
