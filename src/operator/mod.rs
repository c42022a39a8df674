//! Routes for operators: the page, health checks, metrics.

pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod models;
pub(crate) mod page;
