use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::declare::section;
use crate::config::setting::{address, seconds, whole, whole_or_none};

section! {
    /// Where it listens, and what clients may take of it.
    pub struct ServerSettings in ["server"] {
        /// IP address and port to serve on; 0.0.0.0:8080 serves the whole store network.
        ///
        /// Port 0 lets the operating system choose.
        pub listen: SocketAddr = address("127.0.0.1:8080"),
        /// Connections open at the same time; further clients wait until one closes.
        pub max_connections: NonZeroU32 = whole(1..=65_536, "connections", 1024),
        /// Connections open at the same time from one address; 0 is half of `max_connections`.
        pub max_connections_per_address: Option<NonZeroU32> = whole_or_none(65_536, "connections"),
        /// A client must have sent its request headers within this many seconds.
        pub header_timeout as "header_timeout_seconds": Duration = seconds(1..=3600, 10),
        /// A client must have sent its whole request within this many seconds.
        pub body_timeout as "body_timeout_seconds": Duration = seconds(1..=3600, 30),
        /// Largest request accepted, in bytes (4194304 is 4 MiB).
        pub max_body_bytes: usize = whole(1024..=134_217_728, "bytes", 4_194_304),
        /// A client may let its answer wait for so many seconds in all; each 16 KiB that it reads win one back.
        pub write_timeout as "write_timeout_seconds": Duration = seconds(1..=3600, 60),
        /// Memory for answers that clients have not read yet, in bytes (67108864 is 64 MiB); small ones do not count.
        pub max_unsent_bytes: usize = whole(1_048_576..=1_099_511_627_776, "bytes", 67_108_864),
        /// A model whose step takes longer hangs: `/health` answers 503 then.
        pub stall_timeout as "stall_timeout_seconds": Duration = seconds(1..=3600, 120),
        /// On shutdown, running answers get this many seconds to finish; 0 is none.
        pub shutdown_grace as "shutdown_grace_seconds": Duration = seconds(0..=3600, 30),
        /// Answers of `/v1/responses` kept, in memory, for clients that go on from them; 0 is none.
        pub store_max_responses: usize = whole(0..=1_000_000, "responses", 10_000),
        /// Memory for them, in bytes (67108864 is 64 MiB); the oldest of the key that has most give way.
        pub store_max_bytes: usize = whole(65_536..=1_099_511_627_776, "bytes", 67_108_864),
        /// They are forgotten after this many seconds.
        pub store_time as "store_seconds": Duration = seconds(1..=31_536_000, 3600),
    }
}
