use super::declare::settings;
#[allow(clippy::wildcard_imports)] // they are the fields below
use super::sections::*;
use super::{ConfigError, ConfigMistake, SettingOverride, Sources, load};

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

fn is_open_to_the_network(server: &ServerSettings, auth: &AuthSettings) -> bool {
    let listen = server.listen.ip().to_canonical();
    auth.keys_file.is_none() && !listen.is_loopback()
}

/// A server that would answer the whole network, where nobody said that it may.
pub(super) fn check_network(
    server: &ServerSettings,
    auth: &AuthSettings,
    mistakes: &mut Vec<ConfigMistake>,
) {
    if is_open_to_the_network(server, auth) && !auth.open {
        mistakes.push(ConfigMistake::Contradiction {
            key: "server.listen".to_owned(),
            found: server.listen.to_string(),
            expected: "an address of this machine alone, like 127.0.0.1:8080, while there are no keys: set \
                       auth.keys_file to the file for keys (a first one is made), or auth.open to true if \
                       anybody on the network may ask"
                .to_owned(),
        });
    }
}
