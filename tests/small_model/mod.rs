//! A model as tests of the pool configure it: small, on one thread.

use std::path::Path;
use std::time::Duration;

use edgellm::config::Speculation;
use edgellm::pool::ModelSpec;

pub(crate) fn spec(id: &str, path: &Path) -> ModelSpec {
    ModelSpec {
        id: id.to_owned(),
        path: path.to_owned(),
        context: 512,
        max_running: 2,
        max_waiting: 64,
        max_batch_tokens: 64,
        partition_memory: 0,
        attention: None,
        deterministic: false,
        threads: Some(1),
        cores: 1,
        speculation: Speculation::Off,
        target_inter_token: Duration::from_millis(100),
        parked_bytes: 0,
        adapters: Vec::new(),
        // Longer than anything takes on a machine that is busy with something else.
        stall_timeout: Duration::from_secs(120),
    }
}
