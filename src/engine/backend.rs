//! llama.cpp's own set-up, once a process.

use std::sync::OnceLock;

use llama_cpp_2::llama_backend::LlamaBackend;

use super::cpu::{self, UnsupportedCpu};

/// llama.cpp's process-wide state. It is never torn down: models may outlive any scope we could tie it to.
pub(super) fn backend() -> Result<&'static LlamaBackend, UnsupportedCpu> {
    static BACKEND: OnceLock<LlamaBackend> = OnceLock::new();
    cpu::prepare()?;
    Ok(BACKEND.get_or_init(|| match LlamaBackend::init() {
        Ok(backend) => backend,
        // `init` refuses a second call only, and this is the only one.
        Err(error) => unreachable!("{error}"),
    }))
}
