use crate::config::declare::{choice, section};
use crate::config::setting::flag;

section! {
    /// What is logged, and what clients are told beside their answers.
    pub struct TelemetrySettings in ["telemetry"] {
        /// text, json, or auto: readable on a terminal, JSON otherwise.
        pub log_format: LogFormat = LogFormat::one_of(LogFormat::Auto),
        /// How much is logged: off, error, warn, info, debug or trace.
        pub log_level: LogLevel = LogLevel::one_of(LogLevel::Info),
        /// Whether prompts appear in the log; they can hold personal data.
        pub log_prompts: bool = flag(false),
        /// Whether usage tells clients what their answer cost: `edgellm.energy_joules`, where that is known.
        pub energy_in_usage: bool = flag(false),
        /// How many tokens of a prompt usage says were cached: rounded down to 128, exact, or hidden, which is 0. See docs/security.md.
        pub cached_tokens_in_usage: CachedTokens = CachedTokens::one_of(CachedTokens::Rounded),
    }
}

choice! {
    /// How exactly a response says how much of its prompt was in the cache, which all clients share.
    pub enum CachedTokens {
        /// Rounded down, so that single tokens of another client's prompt cannot be guessed one by one.
        Rounded = "rounded",
        /// As it is.
        Exact = "exact",
        /// Always 0.
        Hidden = "hidden",
    }
}

choice! {
    /// The form of log lines.
    pub enum LogFormat {
        /// Text on a terminal, JSON otherwise.
        Auto = "auto",
        /// Lines for people.
        Text = "text",
        /// One JSON object a line.
        Json = "json",
    }
}

choice! {
    /// The least severe level that is logged; each word is also a `tracing` level filter.
    #[derive(PartialOrd, Ord)]
    pub enum LogLevel {
        /// Nothing.
        Off = "off",
        /// Defects and failures.
        Error = "error",
        /// Also what may become a failure.
        Warn = "warn",
        /// Also one line for each request.
        Info = "info",
        /// Also decisions.
        Debug = "debug",
        /// Everything.
        Trace = "trace",
    }
}
