//! edgellm: an OpenAI-compatible inference server for edge gateways, on llama.cpp.
//!
//! The path of a request is the path through the modules:
//! `http` → `openai` → `inference` → [`admission`] → [`prompt`] → [`pool`] → [`scheduler`] → [`engine`]
//! and back through [`scheduler`]'s events to `openai` and `http`. [`config`] and
//! [`telemetry`] stand at the side; [`app`] wires everything.

pub mod admission;
pub mod app;
pub mod bench;
#[doc(hidden)]
pub mod bench_support;
pub mod cli;
mod clock;
pub mod config;
mod decimal;
pub mod embedding;
pub mod engine;
pub mod field;
mod file_stamp;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
pub mod governor;
pub mod grammar;
pub mod headroom;
pub mod http;
pub mod inference;
pub mod keys;
pub mod openai;
pub mod operator;
pub mod pool;
pub mod prompt;
mod replace_file;
pub mod routes;
pub mod sampling;
pub mod sandbox;
pub mod scheduler;
mod sync;
pub mod systemd;
pub mod telemetry;
pub mod tls;
pub mod worker;
