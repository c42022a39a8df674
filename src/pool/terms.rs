//! What the configuration says of a model's place in the pool.

use std::time::Duration;

use crate::config;

/// What the configuration says of a model beside what its thread needs.
#[derive(Debug, Clone, Default)]
pub struct ModelTerms {
    /// Further names, and patterns of names.
    pub aliases: Vec<String>,
    /// Whether it answers for names that nobody has.
    pub is_default: bool,
    /// When it is in memory.
    pub residence: Residence,
    /// How long it stays without a request; `None` until its memory is needed.
    pub keep_alive: Option<Duration>,
    /// Ids of those that answer in its place while something is short, best first.
    pub siblings: Vec<String>,
    /// Whether it was found in the folder of models.
    pub is_from_folder: bool,
}

/// When a model is in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Residence {
    /// From its first request on, until another needs its memory.
    #[default]
    OnDemand,
    /// The same, and from the start.
    Preloaded,
    /// From the start, and always.
    Pinned,
}

impl ModelTerms {
    /// Whether it never leaves.
    #[must_use]
    pub fn is_pinned(&self) -> bool {
        self.residence == Residence::Pinned
    }

    /// Whether it is loaded at the start.
    #[must_use]
    pub fn is_preloaded(&self) -> bool {
        self.residence != Residence::OnDemand
    }
}

impl From<&config::ModelSettings> for ModelTerms {
    fn from(model: &config::ModelSettings) -> Self {
        Self {
            aliases: model.aliases.clone(),
            is_default: model.default,
            residence: match (model.pinned, model.preload) {
                (true, _) => Residence::Pinned,
                (false, true) => Residence::Preloaded,
                (false, false) => Residence::OnDemand,
            },
            keep_alive: model.keep_alive,
            siblings: model.siblings.clone(),
            is_from_folder: false,
        }
    }
}
