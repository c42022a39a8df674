//! HTTP, whatever an endpoint means: sockets, bodies, server-sent events, the answer to a failure, and what
//! OpenAPI says of all that.
//!
//! It knows [`inference`](crate::inference), whose answers it sends, and none of the fronts.

pub(crate) mod access;
mod allowance;
pub(crate) mod body;
pub(crate) mod error;
mod exchange;
pub(crate) mod json_count;
pub(crate) mod openapi;
pub(crate) mod outgoing;
pub(crate) mod precheck;
pub(crate) mod respond;
pub(crate) mod resume;
mod server;
mod socket;
pub(crate) mod sse;
pub(crate) mod state;

pub use error::ApiError;
pub use server::{Server, ServerOptions, affordable_connections};
