//! HTTP: OpenAI's wire types, status codes and server-sent events.
//!
//! It knows neither sequences nor llama.cpp: handlers admit a request, have its
//! prompt made, hand a job to the model's scheduler and send what comes back.

mod access;
mod body;
mod chat;
mod error;
mod generation;
mod health;
mod models;
mod page;
mod router;
mod server;
mod state;

pub use error::ApiError;
pub use router::router;
pub use server::{Server, ServerOptions};
pub use state::AppState;
