//! HTTP below the endpoints: sockets, request bodies, server-sent events, error responses and OpenAPI.
//!
//! This room knows [`inference`](crate::inference), whose answers it sends, and no endpoint.

pub(crate) mod access;
mod allowance;
pub(crate) mod auth;
mod authority;
pub(crate) mod body;
pub(crate) mod browsers;
mod connections;
pub(crate) mod error;
pub(crate) mod estimate;
mod exchange;
pub(crate) mod forwarded;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
pub(crate) mod hosts;
pub(crate) mod json_count;
mod json_path;
mod listener;
mod mismatch;
pub(crate) mod openapi;
pub(crate) mod outgoing;
pub(crate) mod parse;
pub(crate) mod peer;
pub(crate) mod precheck;
pub(crate) mod respond;
pub(crate) mod resume;
mod server;
mod socket;
pub(crate) mod sse;
pub(crate) mod state;
mod transport;
mod turned_away;
pub(crate) mod unread;

pub use auth::Authenticator;
pub use error::ApiError;
pub use hosts::AllowedHosts;
pub use listener::{InheritedSockets, ListenError, Listeners};
pub use server::{Server, ServerOptions, ServerStops, affordable_connections};
pub use state::LARGE_BODIES_BYTES;
