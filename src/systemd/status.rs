//! The line in `systemctl status`: what the models do.

use std::sync::Arc;

use crate::pool::{ModelEntry, ModelState};

/// Names of one kind that are written out.
const MOST_NAMES: usize = 8;

pub(super) fn of(entries: &[Arc<ModelEntry>]) -> String {
    let models = entries.iter().map(|entry| {
        let state = entry.state();
        let name = match state {
            ModelState::Loading => format!("{}, {} %", entry.id, entry.loaded_percent()),
            _ => entry.id.clone(),
        };
        (state.as_str(), name)
    });
    in_words(&models.collect::<Vec<_>>())
}

/// What is said of models, each with the word of its state and its name.
fn in_words(models: &[(&str, String)]) -> String {
    let kinds = [
        ("loading", "loading"),
        ("queued", "waiting for memory:"),
        ("ready", "serving"),
        ("failed", "cannot load"),
        ("cold", "loaded when asked for:"),
    ];
    let parts = kinds.iter().filter_map(|(state, words)| {
        let of_kind = models.iter().filter(|(own, _)| own == state);
        let names: Vec<_> = of_kind.map(|(_, name)| name.as_str()).collect();
        (!names.is_empty()).then(|| format!("{words} {}", listed(&names)))
    });
    let parts: Vec<_> = parts.collect();
    if parts.is_empty() {
        "serving no model yet".to_owned()
    } else {
        parts.join("; ")
    }
}

fn listed(names: &[&str]) -> String {
    let (shown, rest) = names.split_at(names.len().min(MOST_NAMES));
    let shown = shown.join(", ");
    if rest.is_empty() {
        shown
    } else {
        format!("{shown} and {} more", rest.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(models: &[(&str, &str)]) -> String {
        let models: Vec<_> = models
            .iter()
            .map(|(state, name)| (*state, (*name).to_owned()))
            .collect();
        in_words(&models)
    }

    #[test]
    fn what_is_under_way_comes_first_and_every_model_is_named() {
        let loading = [("ready", "kiosk"), ("loading", "smollm2, 40 %")];
        assert_eq!(words(&loading), "loading smollm2, 40 %; serving kiosk");
        let served = [("ready", "kiosk"), ("ready", "smollm2")];
        assert_eq!(words(&served), "serving kiosk, smollm2");
        let others = [("cold", "a"), ("failed", "b"), ("queued", "c")];
        let expected = "waiting for memory: c; cannot load b; loaded when asked for: a";
        assert_eq!(words(&others), expected);
    }

    #[test]
    fn a_folder_of_many_models_is_cut_and_an_empty_one_said() {
        let many: Vec<_> = (0..100).map(|_| ("ready", "m")).collect();
        assert!(words(&many).ends_with("m, m and 92 more"));
        assert_eq!(words(&[]), "serving no model yet");
    }
}
