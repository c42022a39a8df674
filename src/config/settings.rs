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
