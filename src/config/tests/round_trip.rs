//! Printed settings load again.

use proptest::prelude::*;

use super::drift::rows;
use super::{file, nothing};
use crate::config::schema::KeyKind;

#[test]
fn printed_defaults_load_to_the_same_settings() {
    let settings = nothing().settings();
    assert_eq!(file("b.toml", &settings.to_toml()).settings(), settings);
}

#[test]
fn every_word_of_every_choice_survives_printing() {
    for (section, key) in rows() {
        let KeyKind::Choice(words) = key.kind else {
            continue;
        };
        for word in words {
            let full = format!("{}.{}", section.name, key.name);
            let model = nothing().flag("--model", "models.path", "m.gguf");
            let printed = model.flag("--flag", &full, word).settings().to_toml();
            assert!(printed.contains(&format!("\n{} = \"{word}\"\n", key.name)));
        }
    }
}

#[test]
fn a_relative_path_is_printed_absolute_so_that_the_text_may_be_saved_anywhere() {
    let settings = nothing()
        .flag("--model", "models.path", "m.gguf")
        .settings();
    let reloaded = file("b.toml", &settings.to_toml()).settings();
    assert_eq!(
        reloaded.models[0].path,
        std::env::current_dir().unwrap().join("m.gguf")
    );
    assert_eq!(reloaded.models[0].id, "m");
    assert_eq!(reloaded.to_toml(), settings.to_toml());
}

proptest! {
    #[test]
    fn any_valid_settings_load_again_to_the_same(
        port in any::<u16>(),
        seconds in 0..=3600_u32,
        threads in 0..=512_u32,
        log_prompts in any::<bool>(),
        models in proptest::collection::hash_map("\\PC{0,8}[a-z\"\\\\]", "/\\PC{1,12}[a-z\u{1}]", 0..4),
    ) {
        let mut given = nothing()
            .flag("--listen", "server.listen", &format!("[::1]:{port}"))
            .flag("--grace", "server.shutdown_grace_seconds", &seconds.to_string())
            .flag("--log-prompts", "telemetry.log_prompts", &log_prompts.to_string());
        for (index, (id, path)) in models.iter().enumerate() {
            prop_assume!(id.trim() == id);
            given = given
                .flag("--model", &format!("models[{index}].path"), path)
                .flag("--id", &format!("models[{index}].id"), id)
                .flag("--threads", &format!("models[{index}].threads"), &threads.to_string());
        }
        let settings = given.settings();
        let reloaded = file("b.toml", &settings.to_toml()).settings();
        prop_assert_eq!(reloaded.to_toml(), settings.to_toml());
        prop_assert_eq!(reloaded, settings);
    }

    #[test]
    fn no_text_whatever_panics(text in "\\PC{0,60}", key in "[a-z_.\\[\\]0-9]{0,16}") {
        let given = file("a.toml", &text)
            .env(&format!("EDGELLM__{}", key.to_uppercase()), &text)
            .flag("--flag", &key, &text);
        let _ = crate::config::load(&given.sources).map_err(|error| error.to_string());
    }
}
