//! HTTP: OpenAI's wire types, status codes and server-sent events.
//!
//! It knows neither sequences nor llama.cpp: handlers admit a request, have its
//! prompt made, hand a job to the model's scheduler and send what comes back.

mod access;
mod allowance;
mod body;
mod bounds;
mod chat;
mod completions;
mod decoding;
mod delivery;
mod description;
mod embeddings;
mod error;
mod exchange;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod generate;
mod generation;
mod guidance;
mod health;
mod logprobs;
mod models;
mod outgoing;
mod page;
mod parameters;
mod responses;
mod resume;
mod router;
mod server;
mod shorten;
mod socket;
mod state;
mod structured;
mod template_kwargs;
mod tokenize;
mod tools;
mod usage;
mod values;

#[doc(hidden)]
pub use chat::measured_stream;
pub use error::ApiError;
pub use router::router;
pub use server::{Server, ServerOptions, affordable_connections};
pub use state::AppState;
