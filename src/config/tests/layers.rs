//! Which source wins, and what paths are relative to.

use std::path::Path;
use std::time::Duration;

use super::{file, nothing};
use crate::config::{LogFormat, LogLevel};

#[test]
fn without_sources_every_key_has_its_default_and_there_is_no_model() {
    let settings = nothing().settings();
    assert_eq!(settings.server.listen[0].to_string(), "127.0.0.1:8080");
    assert_eq!(settings.server.max_connections.get(), 1024);
    assert_eq!(settings.server.header_timeout, Duration::from_secs(10));
    assert_eq!(settings.server.body_timeout, Duration::from_secs(30));
    assert_eq!(settings.server.max_body_bytes, 4 * 1024 * 1024);
    assert_eq!(settings.server.write_timeout, Duration::from_secs(60));
    assert_eq!(settings.server.shutdown_grace, Duration::from_secs(30));
    assert_eq!(
        settings.scheduler.target_inter_token,
        Duration::from_millis(150)
    );
    assert_eq!(settings.scheduler.max_batch_tokens.get(), 512);
    assert_eq!(settings.admission.max_waiting, 64);
    assert_eq!(settings.telemetry.log_format, LogFormat::Auto);
    assert_eq!(settings.telemetry.log_level, LogLevel::Info);
    assert!(!settings.telemetry.log_prompts);
    assert!(settings.models.is_empty());
}

#[test]
fn a_model_needs_a_path_only() {
    let given = file("a.toml", "[[models]]\npath = '/m/tiny.q8.gguf'");
    let model = given.settings().models.remove(0);
    assert_eq!(model.path, Path::new("/m/tiny.q8.gguf"));
    assert_eq!(model.id, "tiny.q8");
    assert_eq!(model.context.get(), 8192);
    assert_eq!(model.max_running.get(), 16);
    assert_eq!(model.threads, None);
}

#[test]
fn flags_beat_variables_beat_later_files_beat_earlier_files() {
    let given = file("a.toml", "[admission]\nmax_waiting = 1");
    assert_eq!(given.settings().admission.max_waiting, 1);
    let given = given.file("b.toml", "[admission]\nmax_waiting = 2");
    assert_eq!(given.settings().admission.max_waiting, 2);
    let given = given.env("EDGELLM__ADMISSION__MAX_WAITING", "3");
    assert_eq!(given.settings().admission.max_waiting, 3);
    let given = given.flag("--max-waiting", "admission.max_waiting", "4");
    assert_eq!(given.settings().admission.max_waiting, 4);
    let given = given.flag("--max-waiting", "admission.max_waiting", "5");
    assert_eq!(given.settings().admission.max_waiting, 5);
}

#[test]
fn files_merge_key_by_key() {
    let given = file(
        "a.toml",
        "[server]\nlisten = '[::1]:1'\nmax_body_bytes = 2048",
    )
    .file("b.toml", "[server]\nmax_body_bytes = 4096");
    let server = given.settings().server;
    assert_eq!(server.listen[0].to_string(), "[::1]:1");
    assert_eq!(server.max_body_bytes, 4096);
}

#[test]
fn a_later_list_of_models_replaces_an_earlier_one() {
    let given = file(
        "a.toml",
        "[[models]]\npath = '/a'\ncontext = 128\n[[models]]\npath = '/b'",
    )
    .file("b.toml", "[[models]]\npath = '/c'");
    let models = given.settings().models;
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].id, "c");
    assert_eq!(models[0].context.get(), 8192);
}

#[test]
fn a_flag_creates_the_first_model_and_a_variable_completes_it() {
    let given = nothing()
        .flag("--model", "models[0].path", "m.gguf")
        .env("EDGELLM__MODELS__THREADS", " 4 ");
    let models = given.settings().models;
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].path, Path::new("m.gguf"));
    assert_eq!(models[0].threads.unwrap().get(), 4);
}

#[test]
fn variables_change_single_keys_of_models_in_a_file_and_add_models() {
    let given = file(
        "a.toml",
        "[[models]]\npath = '/a'\n[[models]]\npath = '/b'\nid = 'second'",
    )
    .env("EDGELLM__MODELS__2__PATH", "/c")
    .env("EDGELLM__MODELS__1__CONTEXT", "256");
    let models = given.settings().models;
    let ids: Vec<_> = models.iter().map(|model| model.id.as_str()).collect();
    assert_eq!(ids, ["a", "second", "c"]);
    assert_eq!(models[1].context.get(), 256);
}

#[test]
fn a_flag_without_an_index_sets_the_first_model() {
    let given =
        file("a.toml", "[[models]]\npath = '/a'").flag("--context", "models.context", "512");
    assert_eq!(given.settings().models[0].context.get(), 512);
}

#[test]
fn a_relative_path_starts_at_the_directory_of_its_file() {
    let given = file("a.toml", "[[models]]\npath = '../m/a.gguf'");
    assert_eq!(given.settings().models[0].path, given.path("../m/a.gguf"));
}

#[test]
fn a_path_that_may_be_left_out_is_none_when_empty_and_relative_to_its_file_otherwise() {
    assert_eq!(nothing().settings().governor.rehearsal_dir, None);
    let given = file("a.toml", "[governor]\nrehearsal_dir = ''");
    assert_eq!(given.settings().governor.rehearsal_dir, None);
    let given = file("a.toml", "[governor]\nrehearsal_dir = 'drill'");
    let folder = given.settings().governor.rehearsal_dir;
    assert_eq!(folder, Some(given.path("drill")));
}

#[test]
fn variables_without_the_prefix_are_passed_over() {
    let given = nothing()
        .env("EDGELLM_PORT", "tcp://10.0.0.1:80")
        .env("edgellm__server__listen", "x")
        .env("PATH", "/bin");
    assert_eq!(given.settings(), nothing().settings());
}

#[test]
fn serving_needs_a_model_and_says_how_to_name_one() {
    let error = nothing().settings().require_models().unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("pass --model FILE.gguf, or set models.path or pool.models_dir in a file")
    );
    let given = nothing().flag("--model", "models[0].path", "m.gguf");
    assert!(given.settings().require_models().is_ok());
    let given = file("a.toml", "[pool]\nmodels_dir = 'models'");
    assert!(given.settings().require_models().is_ok());
}
