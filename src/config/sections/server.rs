use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::declare::section;
use crate::config::listen::{
    ListenAddress, TrustedProxy, host_names, listen_addresses, origins, trusted_proxies,
};
use crate::config::schema::KeyDefault;
use crate::config::setting::{flag, optional_path, seconds, whole, whole_or_none};

section! {
    /// Where it listens, and what clients may take of it.
    pub struct ServerSettings in ["server"] {
        /// IP address and port to serve on, or a list; 0.0.0.0:8080 serves the whole store network.
        ///
        /// Port 0 lets the operating system choose.
        pub listen: Vec<ListenAddress> = listen_addresses(KeyDefault::Text("127.0.0.1:8080")),
        /// A Unix socket to serve on as well, without TLS, for programs of this machine; its folder must exist. Empty is none.
        pub unix_socket: Option<PathBuf> = optional_path(),
        /// Where the operator page, `/metrics` and `/models` are served, and then not on the addresses of `listen`; empty is on those.
        pub admin_listen: Vec<ListenAddress> = listen_addresses(KeyDefault::NoEntries),
        /// The certificate for TLS in PEM, with those between it and its authority (docs/tls.md); followed when it changes. Empty is no TLS.
        pub tls_cert: Option<PathBuf> = optional_path(),
        /// Its private key, in PEM.
        pub tls_key: Option<PathBuf> = optional_path(),
        /// Certificates of authorities, in PEM, whose clients need no API key: their subject is one's in `auth.keys_file`. Empty is none.
        pub tls_client_ca: Option<PathBuf> = optional_path(),
        /// Whether clients without such a certificate cannot even connect.
        pub tls_require_client: bool = flag(false),
        /// Further names under which clients may ask for this server, against DNS rebinding. Addresses and its own names always may (docs/browsers.md).
        pub allowed_hosts: Vec<String> = host_names(),
        /// Proxies whose `x-forwarded-for` and `x-forwarded-host` are believed: IP addresses, networks, `unix` for who connects to the Unix socket.
        pub trusted_proxies: Vec<TrustedProxy> = trusted_proxies(),
        /// Origins of web pages of other servers that may ask this one, such as `https://kiosk.example.com` (docs/browsers.md).
        pub cors_origins: Vec<String> = origins(),
        /// Whether the process shuts itself off from all files and ports that it does not need, as far as the kernel can (Landlock).
        pub sandbox: bool = flag(true),
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
        /// A model whose step takes longer hangs: `/health` answers 503 then, and systemd restarts the server.
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
