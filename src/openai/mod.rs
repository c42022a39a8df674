//! OpenAI's endpoints and the related `/tokenize` and `/detokenize`: from a body on the wire to
//! [`inference`](crate::inference), and from its answers to a response.

pub(crate) mod chat;
pub(crate) mod completions;
pub(crate) mod embeddings;
mod endpoint;
mod function_schema;
mod generation_params;
mod logprobs;
pub(crate) mod models;
mod names;
pub(crate) mod responses;
mod served_by;
mod shared_fields;
mod state;
mod structured_outputs;
mod template_kwargs;
pub(crate) mod tokenize;
mod tools;
mod usage;

pub use state::AppState;
