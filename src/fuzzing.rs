//! What `fuzz/` calls. The same is held against a few inputs in the tests.

pub use crate::engine::gguf::fuzzing::read as read_gguf;
pub use crate::engine::tokenize::fuzzing::read_runs;
pub use crate::grammar::fuzzing::compile_schema;
pub use crate::http::fuzzing::{read_headers, resume_streams};
pub use crate::keys::fuzz as read_keys;
pub use crate::prompt::fuzzing::cut_answer;
pub use crate::routes::fuzzing::read_body;
