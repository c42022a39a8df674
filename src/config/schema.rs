//! The table of every section and key: the only place for a name, a range, a default or an explanation.
//!
//! The structs of [`Settings`](super::Settings) repeat the names, because types must; loading the
//! defaults fails if the two differ in either direction, and so does a unit test. The example file
//! `config/edgellm.toml` is held against this table as well.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;

use ::config::{Value, ValueKind};

use super::AdapterSettings;

/// A section of the configuration file.
#[derive(Debug)]
pub struct Section {
    /// The name between the brackets.
    pub name: &'static str,
    /// Whether the section is a list, written `[[name]]` once for each entry.
    pub repeated: bool,
    /// Its keys, in the order in which they are printed.
    pub keys: &'static [Key],
}

/// A key of a section.
#[derive(Debug)]
pub struct Key {
    /// The name without its section.
    pub name: &'static str,
    /// The values that it takes.
    pub kind: KeyKind,
    /// The value that it has when no source sets it.
    pub default: KeyDefault,
    /// One line for the person who operates the gateway.
    pub doc: &'static str,
}

/// The values that a key takes.
///
/// The first key that holds a secret brings the kind `Secret`, which printing then masks.
#[derive(Debug, Clone, Copy)]
pub enum KeyKind {
    /// A whole number, both bounds included.
    Whole {
        /// The smallest valid number.
        min: i64,
        /// The largest valid number.
        max: i64,
        /// What is counted, in the plural.
        unit: &'static str,
    },
    /// A whole number with both bounds included, or 0 for none.
    OptionalWhole {
        /// The smallest valid number beside 0.
        min: i64,
        /// The largest valid number.
        max: i64,
        /// What is counted, in the plural.
        unit: &'static str,
    },
    /// A number that may have a fraction, from 0 on.
    Decimal {
        /// The largest valid number.
        max: i64,
        /// What is counted, in the plural.
        unit: &'static str,
    },
    /// `true` or `false`.
    Flag,
    /// An IP address with a port; host names are not looked up.
    Address,
    /// The path of a file, which need not exist yet.
    Path,
    /// The path of a file, or empty for no file.
    OptionalPath,
    /// Text without control characters or spaces around it, or empty for none.
    OptionalName,
    /// A name that clients send back, not empty, without control characters or spaces around it.
    Name,
    /// A list of such names.
    Names,
    /// A list of files of adapters, each `PATH` or `NAME=PATH`.
    Adapters,
    /// One of a few words.
    Choice(&'static [&'static str]),
}

/// The value of a key that no source sets.
#[derive(Debug, Clone, Copy)]
pub enum KeyDefault {
    /// A number.
    Whole(i64),
    /// `true` or `false`.
    Flag(bool),
    /// Text.
    Text(&'static str),
    /// A list without entries.
    NoEntries,
    /// The name of the model's file without its extension.
    FileStem,
    /// There is none; leaving the key out is a mistake.
    Required,
}

/// Every section, in the order in which they are printed.
pub const SECTIONS: &[Section] = &[
    SERVER,
    AUTH,
    MODELS,
    super::pool::POOL,
    super::pool::STATE,
    SCHEDULER,
    ADMISSION,
    super::governor::SECTION,
    TELEMETRY,
];

const SERVER: Section = Section {
    name: "server",
    repeated: false,
    keys: &[
        Key {
            name: "listen",
            kind: KeyKind::Address,
            default: KeyDefault::Text("127.0.0.1:8080"),
            doc: "IP address and port to serve on; 0.0.0.0:8080 serves the whole store network.",
        },
        Key::whole("max_connections", 1..=65_536, "connections", 1024)
            .doc("Connections open at the same time; further clients wait until one closes."),
        Key::whole("max_connections_per_address", 0..=65_536, "connections", 0)
            .doc("Connections open at the same time from one address; 0 is half of max_connections."),
        Key::whole("header_timeout_seconds", 1..=3600, "seconds", 10)
            .doc("A client must have sent its request headers within this many seconds."),
        Key::whole("body_timeout_seconds", 1..=3600, "seconds", 30)
            .doc("A client must have sent its whole request within this many seconds."),
        Key::whole("max_body_bytes", 1024..=134_217_728, "bytes", 4_194_304)
            .doc("Largest request accepted, in bytes (4194304 is 4 MiB)."),
        Key::whole("write_timeout_seconds", 1..=3600, "seconds", 60)
            .doc("A client may let its answer wait for so many seconds in all; each 16 KiB that it reads win one back."),
        Key::whole("max_unsent_bytes", 1_048_576..=1_099_511_627_776, "bytes", 67_108_864)
            .doc("Memory for answers that clients have not read yet, in bytes (67108864 is 64 MiB); small ones do not count."),
        Key::whole("stall_timeout_seconds", 1..=3600, "seconds", 120)
            .doc("A model whose step takes longer hangs: /health answers 503 then."),
        Key::whole("shutdown_grace_seconds", 0..=3600, "seconds", 30)
            .doc("On shutdown, running answers get this many seconds to finish; 0 is none."),
        Key::whole("store_max_responses", 0..=1_000_000, "responses", 10_000)
            .doc("Answers of /v1/responses kept, in memory, for clients that go on from them; 0 is none."),
        Key::whole("store_max_bytes", 65_536..=1_099_511_627_776, "bytes", 67_108_864)
            .doc("Memory for them, in bytes (67108864 is 64 MiB); the oldest of the key that has most give way."),
        Key::whole("store_seconds", 1..=31_536_000, "seconds", 3600)
            .doc("They are forgotten after this many seconds."),
    ],
};

const AUTH: Section = Section {
    name: "auth",
    repeated: false,
    keys: &[
        Key {
            name: "keys_file",
            kind: KeyKind::OptionalPath,
            default: KeyDefault::Text(""),
            doc: "The file of API keys (see docs/keys.md); one that does not exist yet is made, with a first admin key. Empty is none.",
        },
        Key {
            name: "open",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(false),
            doc: "Whether a server without keys may listen beyond this machine: then anybody on the network may ask.",
        },
        Key {
            name: "share_prefixes",
            kind: KeyKind::Choice(&["all", "group"]),
            default: KeyDefault::Text("all"),
            doc: "Whose prompts may begin with each other's cached ones: all is fastest, with group no key learns what other groups ask.",
        },
        Key {
            name: "metrics",
            kind: KeyKind::Choice(&["admin", "key", "open"]),
            default: KeyDefault::Text("admin"),
            doc: "Who may read /metrics once there are keys: admin keys, any key, or everybody.",
        },
    ],
};

/// The models, one entry each.
pub const MODELS: Section = Section {
    name: "models",
    repeated: true,
    keys: &[
        Key {
            name: "path",
            kind: KeyKind::Path,
            default: KeyDefault::Required,
            doc: "The model's GGUF file; a relative path starts at this file's directory.",
        },
        Key {
            name: "id",
            kind: KeyKind::Name,
            default: KeyDefault::FileStem,
            doc: "The name that clients use; without it, the file's name without .gguf.",
        },
        Key::whole("context", 128..=16_777_216, "tokens", 8192)
            .doc("Tokens of context that all running requests share; more takes more memory."),
        Key::whole("max_running", 1..=255, "requests", 16)
            .doc("Requests answered at the same time; the others wait their turn."),
        Key::whole("threads", 0..=512, "threads", 0)
            .doc("CPU threads; 0 uses one for each physical core, of which a very small model gives one to each bank of its cache."),
        Key {
            name: "attention",
            kind: KeyKind::Choice(&["auto", "plain", "flash"]),
            default: KeyDefault::Text("auto"),
            doc: "plain decodes faster where attention is most of the work, flash reads prompts faster; auto chooses.",
        },
        Key {
            name: "deterministic",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(false),
            doc: "Whether a request has the same answer bit by bit whatever else is asked; it takes plain attention and is slower.",
        },
        Key::list("aliases", KeyKind::Names)
            .doc("Other names that it answers to; * in one stands for any text, as in gpt-*."),
        Key {
            name: "default",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(false),
            doc: "Whether it answers requests for names that no model has; one model at most.",
        },
        Key {
            name: "pinned",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(false),
            doc: "Whether it is loaded at the start, whatever preload says, and never leaves the memory.",
        },
        Key {
            name: "preload",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(true),
            doc: "Whether it is loaded at the start; otherwise the first request for it loads it.",
        },
        Key::whole("keep_alive", 0..=31_536_000, "seconds", 0)
            .doc("Seconds without a request after which it leaves the memory; 0 is when another model needs it."),
        Key::list("siblings", KeyKind::Names)
            .doc("Ids of smaller models that answer in its place while power, heat or memory are short, the best first."),
        Key::list("adapters", KeyKind::Adapters)
            .doc("LoRA adapters for it, asked for as id+name: GGUF files, each PATH or NAME=PATH."),
    ],
};

const SCHEDULER: Section = Section {
    name: "scheduler",
    repeated: false,
    keys: &[
        Key::whole("target_inter_token_ms", 1..=10_000, "milliseconds", 150)
            .doc("Running answers should get a token at least this often, in milliseconds."),
        Key::whole("max_batch_tokens", 16..=8192, "tokens", 512)
            .doc("Most tokens computed in one step; fewer react faster, more read prompts faster."),
        Key::whole("parked_bytes", 0..=1_099_511_627_776, "bytes", 268_435_456)
            .doc("Memory for prompts that gave way in a model's KV cache, in bytes (268435456 is 256 MiB); 0 is none."),
        Key {
            name: "speculation",
            kind: KeyKind::Choice(&["auto", "on", "off"]),
            default: KeyDefault::Text("auto"),
            doc: "Guess what answers copy, where measured to be faster: on, off, or auto, which is off for very small models.",
        },
    ],
};

const ADMISSION: Section = Section {
    name: "admission",
    repeated: false,
    keys: &[
        Key::whole("max_waiting", 0..=100_000, "requests", 64)
            .doc("Requests that may wait for their turn; further ones are told to retry later."),
        Key::whole("deadline_ms", 0..=86_400_000, "milliseconds", 0)
            .doc("Time for an answer of a request without x-deadline-ms, in milliseconds; 0 is no limit."),
        Key::whole("priority_deadline_ms", 0..=86_400_000, "milliseconds", 0)
            .doc("The same for requests of the tier priority; 0 is as deadline_ms."),
        Key::whole("flex_deadline_ms", 0..=86_400_000, "milliseconds", 0)
            .doc("The same for requests of the tier flex; 0 is as deadline_ms."),
    ],
};

const TELEMETRY: Section = Section {
    name: "telemetry",
    repeated: false,
    keys: &[
        Key {
            name: "log_format",
            kind: KeyKind::Choice(&["auto", "text", "json"]),
            default: KeyDefault::Text("auto"),
            doc: "text, json, or auto: readable on a terminal, JSON otherwise.",
        },
        Key {
            name: "log_level",
            kind: KeyKind::Choice(&["off", "error", "warn", "info", "debug", "trace"]),
            default: KeyDefault::Text("info"),
            doc: "How much is logged: off, error, warn, info, debug or trace.",
        },
        Key {
            name: "log_prompts",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(false),
            doc: "Whether prompts appear in the log; they can hold personal data.",
        },
        Key {
            name: "energy_in_usage",
            kind: KeyKind::Flag,
            default: KeyDefault::Flag(false),
            doc: "Whether usage tells clients what their answer cost: edgellm.energy_joules, where that is known.",
        },
        Key {
            name: "cached_tokens_in_usage",
            kind: KeyKind::Choice(&["rounded", "exact", "hidden"]),
            default: KeyDefault::Text("rounded"),
            doc: "How many tokens of a prompt usage says were cached: rounded down to 128, exact, or hidden, which is 0. See docs/security.md.",
        },
    ],
};

/// The section with this name.
#[must_use]
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

impl Section {
    /// The key of this section with this name.
    #[must_use]
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The section's heading in a file.
    #[must_use]
    pub fn heading(&self) -> String {
        if self.repeated {
            format!("[[{}]]", self.name)
        } else {
            format!("[{}]", self.name)
        }
    }
}

impl Key {
    pub(super) const fn whole(
        name: &'static str,
        range: std::ops::RangeInclusive<i64>,
        unit: &'static str,
        default: i64,
    ) -> Self {
        Self {
            name,
            kind: KeyKind::Whole {
                min: *range.start(),
                max: *range.end(),
                unit,
            },
            default: KeyDefault::Whole(default),
            doc: "",
        }
    }

    /// From 0, its default, to `max`.
    pub(super) const fn decimal(name: &'static str, max: i64, unit: &'static str) -> Self {
        Self {
            name,
            kind: KeyKind::Decimal { max, unit },
            default: KeyDefault::Whole(0),
            doc: "",
        }
    }

    pub(super) const fn percent(name: &'static str, default: i64) -> Self {
        Self::whole(name, 0..=100, "percent", default)
    }

    /// Without entries, unless some are set.
    pub(super) const fn list(name: &'static str, kind: KeyKind) -> Self {
        Self {
            name,
            kind,
            default: KeyDefault::NoEntries,
            doc: "",
        }
    }

    pub(super) const fn doc(self, doc: &'static str) -> Self {
        Self { doc, ..self }
    }

    /// The form that a value must have, with an example, to follow the words "must be".
    #[must_use]
    pub fn expected(&self) -> String {
        match self.kind {
            KeyKind::Whole { min, max, unit } => {
                let example = match self.default {
                    KeyDefault::Whole(number) if number != 0 => number,
                    _ => max.min(min + 4),
                };
                format!("a whole number of {unit} from {min} to {max}, like {example}")
            }
            KeyKind::OptionalWhole { min, max, unit } => {
                format!("0 for none, or a whole number of {unit} from {min} to {max}")
            }
            KeyKind::Decimal { max, unit } => {
                format!("a number of {unit} from 0 to {max}, like 12.5")
            }
            KeyKind::Flag => "true or false".to_owned(),
            KeyKind::Address => "an IP address and a port, like \"127.0.0.1:8080\"".to_owned(),
            KeyKind::Path => "the path of a file, like \"models/kiosk.gguf\"".to_owned(),
            KeyKind::OptionalPath => "a path, or empty for none".to_owned(),
            KeyKind::OptionalName => {
                "a name without control characters or spaces around it, or empty for none"
                    .to_owned()
            }
            KeyKind::Name => {
                "a name, not empty, without control characters or spaces around it, like \"kiosk\""
                    .to_owned()
            }
            KeyKind::Names => {
                "a list of names, not empty, without control characters or spaces around them, \
                 like [\"kiosk\", \"till\"]"
                    .to_owned()
            }
            KeyKind::Adapters => {
                "a list of files, each PATH or NAME=PATH, whose names differ and have no control \
                 characters, spaces around them, + or =, like [\"menu=adapters/menu.gguf\"]"
                    .to_owned()
            }
            KeyKind::Choice(words) => {
                let quoted: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
                format!("one of {}", quoted.join(", "))
            }
        }
    }
}

impl KeyKind {
    /// Whether a value has the right type and lies in the range.
    pub(super) fn accepts(self, value: &ValueKind) -> bool {
        match (self, value) {
            (Self::Whole { min, max, .. }, ValueKind::I64(number)) => (min..=max).contains(number),
            (Self::OptionalWhole { min, max, .. }, ValueKind::I64(number)) => {
                *number == 0 || (min..=max).contains(number)
            }
            (Self::Decimal { max, .. }, ValueKind::I64(number)) => (0..=max).contains(number),
            #[allow(clippy::cast_precision_loss)] // bounds are small
            (Self::Decimal { max, .. }, ValueKind::Float(number)) => {
                (0.0..=max as f64).contains(number)
            }
            (Self::Flag, ValueKind::Boolean(_)) => true,
            (Self::Address, ValueKind::String(text)) => text.parse::<SocketAddr>().is_ok(),
            (Self::Path, ValueKind::String(text)) => is_file_path(text),
            (Self::OptionalPath, ValueKind::String(text)) => !text.contains('\0'),
            (Self::OptionalName, ValueKind::String(text)) => {
                text.trim() == text && !text.contains(char::is_control)
            }
            (Self::Name, ValueKind::String(text)) => is_name(text),
            (Self::Names | Self::Adapters, ValueKind::Array(_)) => self.unfit(value).is_none(),
            (Self::Choice(words), ValueKind::String(text)) => words.contains(&text.as_str()),
            _ => false,
        }
    }

    /// What of a value that is refused does not fit: the value, or the first such entry of a list.
    pub(super) fn unfit(self, value: &ValueKind) -> Option<&ValueKind> {
        let ValueKind::Array(entries) = value else {
            return (!self.accepts(value)).then_some(value);
        };
        let mut entries = entries.iter().map(|entry| &entry.kind);
        match self {
            Self::Names => entries.find(|entry| !Self::Name.accepts(entry)),
            Self::Adapters => {
                let mut names = BTreeSet::new();
                entries.find(|entry| {
                    let ValueKind::String(text) = entry else {
                        return true;
                    };
                    !AdapterSettings::parse(text).is_some_and(|adapter| names.insert(adapter.name))
                })
            }
            _ => Some(value),
        }
    }

    /// Reads the text of a variable or flag; commas part the entries of a list. Text that does not fit stays text, and is then refused
    /// by [`KeyKind::accepts`].
    pub(super) fn read(self, text: &str) -> ValueKind {
        let trimmed = text.trim();
        match self {
            Self::Whole { .. } | Self::OptionalWhole { .. } => {
                trimmed.parse().map_or_else(|_| text.into(), ValueKind::I64)
            }
            Self::Decimal { .. } => match (trimmed.parse(), trimmed.parse()) {
                (Ok(number), _) => ValueKind::I64(number),
                (_, Ok(number)) => ValueKind::Float(number),
                _ => text.into(),
            },
            Self::Flag => trimmed
                .parse()
                .map_or_else(|_| text.into(), ValueKind::Boolean),
            Self::Address | Self::Choice(_) => trimmed.into(),
            Self::Names | Self::Adapters if trimmed.is_empty() => Vec::<Value>::new().into(),
            Self::Names | Self::Adapters => {
                let entries = trimmed.split(',').map(|entry| entry.trim().into());
                entries.collect::<Vec<Value>>().into()
            }
            Self::Path | Self::OptionalPath | Self::Name | Self::OptionalName => text.into(),
        }
    }
}

impl KeyDefault {
    /// The value, where it is the same for every file.
    pub(super) fn value(self) -> Option<ValueKind> {
        match self {
            Self::Whole(number) => Some(number.into()),
            Self::Flag(flag) => Some(flag.into()),
            Self::Text(text) => Some(text.into()),
            Self::NoEntries => Some(Vec::<Value>::new().into()),
            Self::FileStem | Self::Required => None,
        }
    }
}

/// Whether text is a name that clients can send back.
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty() && text.trim() == text && !text.contains(char::is_control)
}

/// Whether text may be the path of a file.
pub(super) fn is_file_path(text: &str) -> bool {
    Path::new(text).file_name().is_some() && !text.contains('\0')
}
