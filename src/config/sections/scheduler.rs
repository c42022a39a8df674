use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::declare::{choice, section};
use crate::config::setting::{milliseconds, whole};

section! {
    /// How running requests share the processor.
    pub struct SchedulerSettings in ["scheduler"] {
        /// Running answers should get a token at least this often, in milliseconds.
        ///
        /// Prefill is cut into pieces so that it keeps to that.
        pub target_inter_token as "target_inter_token_ms": Duration = milliseconds(1..=10_000, 150),
        /// Most tokens computed in one step; fewer react faster, more read prompts faster.
        pub max_batch_tokens: NonZeroU32 = whole(16..=8192, "tokens", 512),
        /// Memory for computed prompts that had to leave a model's KV cache, in bytes (268435456 is 256 MiB); 0 is none.
        ///
        /// Each model has so much for itself.
        pub parked_bytes: usize = whole(0..=1_099_511_627_776, "bytes", 268_435_456),
        /// Guess what answers copy, where measured to be faster: on, off, or auto, which is off for very small models.
        pub speculation: Speculation = Speculation::one_of(Speculation::Auto),
    }
}

choice! {
    /// Whether answers may draft tokens that they seem to copy.
    pub enum Speculation {
        /// Unless the model is very small.
        Auto = "auto",
        /// Where it is measured to be faster.
        On = "on",
        /// Never.
        Off = "off",
    }
}
