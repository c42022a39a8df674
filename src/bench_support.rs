//! What `benches/` measures and nobody else may call.

pub use crate::openai::chat::measured::measured_stream;
