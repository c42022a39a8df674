use std::path::PathBuf;

use super::declare::settings;
#[allow(clippy::wildcard_imports)] // they are the fields below
use super::sections::*;
use super::{ConfigError, ConfigMistake, ListenAddress, SettingOverride, Sources, load};

settings! {
    /// The settings as the program uses them: every value is of the type that its use needs, and valid.
    pub struct Settings {
        /// The HTTP server.
        pub server: ServerSettings,
        /// Who may ask.
        pub auth: AuthSettings,
        /// The models, each with an id of its own; possibly none.
        pub models: Vec<ModelSettings>,
        /// What the models share.
        pub pool: PoolSettings,
        /// What outlasts a restart.
        pub state: StateSettings,
        /// How running requests share the processor.
        pub scheduler: SchedulerSettings,
        /// Which requests are let in.
        pub admission: AdmissionSettings,
        /// What is done about power, heat and memory.
        pub governor: GovernorSettings,
        /// What is logged.
        pub telemetry: TelemetrySettings,
    }
}

impl Settings {
    /// Whether anybody on the network may ask: there are no keys, and it listens beyond this machine.
    #[must_use]
    pub fn is_open_to_the_network(&self) -> bool {
        is_open_to_the_network(&self.server, &self.auth)
    }

    /// Checks that there is a model, or a folder of them, for commands that serve one.
    ///
    /// # Errors
    /// Returns [`ConfigMistake::NoModels`], whose text says how to name one.
    pub fn require_models(&self) -> Result<(), ConfigError> {
        if self.models.is_empty() && self.pool.models_dir.is_none() {
            return Err(ConfigMistake::NoModels.into());
        }
        Ok(())
    }
}

impl ModelSettings {
    /// Returns the settings of a model of which nothing is said but its file; `None` where the file's name cannot
    /// be an id.
    #[must_use]
    pub fn of_file(path: &std::path::Path) -> Option<Self> {
        let sources = Sources {
            overrides: vec![SettingOverride {
                key: "models[0].path".to_owned(),
                flag: "pool.models_dir".to_owned(),
                value: path.to_str()?.to_owned(),
            }],
            ..Sources::default()
        };
        load(&sources).ok()?.models.pop()
    }
}

/// Without keys, everybody who can connect may ask.
fn is_open_to_the_network(server: &ServerSettings, auth: &AuthSettings) -> bool {
    auth.keys_file.is_none() && first_open_address(server).is_some()
}

/// The first address at which the network can connect without a certificate.
fn first_open_address(server: &ServerSettings) -> Option<&ListenAddress> {
    let is_open = |listen: &&ListenAddress| {
        let asks_for_certificates =
            server.tls_cert.is_some() && server.tls_require_client && !listen.is_plain;
        !listen.is_loopback() && !asks_for_certificates
    };
    let all = server.listen.iter().chain(&server.admin_listen);
    all.into_iter().find(is_open)
}

/// What of the network's settings does not go together.
pub(super) fn check_network(
    server: &ServerSettings,
    auth: &AuthSettings,
    mistakes: &mut Vec<ConfigMistake>,
) {
    let mut contradiction = |key: &str, found: String, expected: &str| {
        mistakes.push(ConfigMistake::Contradiction {
            key: format!("server.{key}"),
            found,
            expected: expected.to_owned(),
        });
    };
    // A server that would answer the whole network, where nobody said that it may.
    if let Some(open) =
        first_open_address(server).filter(|_| auth.keys_file.is_none() && !auth.open)
    {
        let is_admin = !server.listen.contains(open);
        contradiction(
            if is_admin { "admin_listen" } else { "listen" },
            open.to_string(),
            "an address of this machine alone, like 127.0.0.1:8080, while there are no keys: set \
             auth.keys_file to the file for keys (a first one is made), or auth.open to true if \
             anybody on the network may ask",
        );
    }
    if server.listen.is_empty() && server.unix_socket.is_none() {
        contradiction(
            "listen",
            "empty".to_owned(),
            "an address while there is no server.unix_socket: nobody could ask",
        );
    }
    let mut seen = Vec::new();
    for listen in server.listen.iter().chain(&server.admin_listen) {
        if listen.address.port() != 0 && seen.contains(&listen.address) {
            let is_admin = server.admin_listen.contains(listen);
            contradiction(
                if is_admin { "admin_listen" } else { "listen" },
                listen.to_string(),
                "an address that is named once",
            );
        }
        seen.push(listen.address);
    }
    let shown = |path: &Option<PathBuf>| {
        path.as_ref()
            .map_or("empty".to_owned(), |path| path.display().to_string())
    };
    match (&server.tls_cert, &server.tls_key) {
        (Some(_), None) => contradiction(
            "tls_key",
            shown(&server.tls_key),
            "the file with the private key of server.tls_cert",
        ),
        (None, Some(_)) => contradiction(
            "tls_cert",
            shown(&server.tls_cert),
            "the file with the certificate of server.tls_key",
        ),
        _ => {}
    }
    if server.tls_client_ca.is_some() && server.tls_cert.is_none() {
        contradiction(
            "tls_client_ca",
            shown(&server.tls_client_ca),
            "empty while there is no server.tls_cert: certificates of clients need TLS",
        );
    }
    if server.tls_require_client && server.tls_client_ca.is_none() {
        contradiction(
            "tls_require_client",
            "true".to_owned(),
            "false while there is no server.tls_client_ca: nobody could connect",
        );
    }
    if server.tls_client_ca.is_some() && !server.tls_require_client && auth.keys_file.is_none() {
        contradiction(
            "tls_client_ca",
            shown(&server.tls_client_ca),
            "beside auth.keys_file, whose keys say who has which certificate; or set server.tls_require_client to true, and \
             whoever has a certificate of it may ask",
        );
    }
}
