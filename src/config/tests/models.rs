//! Names, siblings and adapters of models, and what they share.

use std::path::Path;
use std::time::Duration;

use super::{TestSources, file, nothing};

/// Models `a` and `b`, each with some lines of its own.
fn two(a: &str, b: &str) -> TestSources {
    let text = format!("[[models]]\npath = '/a'\n{a}\n[[models]]\npath = '/b'\n{b}");
    file("a.toml", &text)
}

#[test]
fn a_model_has_no_other_names_is_loaded_at_the_start_and_may_leave_unless_it_is_told_otherwise() {
    let settings = two("", "").settings();
    let model = &settings.models[0];
    assert!(model.aliases.is_empty() && model.siblings.is_empty() && model.adapters.is_empty());
    assert!(!model.default && !model.pinned && model.preload);
    assert_eq!(model.keep_alive, None);
    assert_eq!(settings.pool.memory_budget, None);
    assert_eq!(settings.pool.models_dir, None);
    assert_eq!(settings.state.path, None);
}

#[test]
fn lists_are_arrays_in_a_file_and_parted_by_commas_in_variables_and_flags() {
    let given = two(
        "aliases = ['gpt-4o-mini', 'gpt-*', 'a, b']\nsiblings = ['b']",
        "",
    );
    let models = given.settings().models;
    assert_eq!(models[0].aliases, ["gpt-4o-mini", "gpt-*", "a, b"]);
    assert_eq!(models[0].siblings, ["b"]);

    let given = given
        .env("EDGELLM__MODELS__0__ALIASES", " till , *-mini ")
        .flag("--siblings", "models[0].siblings", "");
    let models = given.settings().models;
    assert_eq!(models[0].aliases, ["till", "*-mini"]);
    assert!(models[0].siblings.is_empty());
}

#[test]
fn an_adapter_is_called_as_it_is_told_or_like_its_file_which_is_relative_to_the_configuration() {
    let given = two("adapters = ['lora/menu.gguf', 'chain=lora/x=1.gguf']", "").env(
        "EDGELLM__MODELS__1__ADAPTERS",
        "m.gguf,/till/b.f16.gguf,till=/till/b.f16.gguf",
    );
    let settings = given.settings();
    let adapters = |model: usize| {
        let adapters = settings.models[model].adapters.iter();
        adapters
            .map(|adapter| (adapter.name.as_str(), adapter.path.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        adapters(0),
        [
            ("menu", given.path("lora/menu.gguf")),
            ("chain", given.path("lora/x=1.gguf"))
        ]
    );
    assert_eq!(
        adapters(1),
        [
            ("m", "m.gguf".into()),
            ("b.f16", "/till/b.f16.gguf".into()),
            ("till", "/till/b.f16.gguf".into())
        ]
    );
}

#[test]
fn what_is_set_of_models_and_pool_survives_printing() {
    let settings = two(
        "aliases = ['gpt-*', 'say \"a\"']\npinned = true\npreload = false\nkeep_alive = 300\nsiblings = ['b']",
        "default = true\nadapters = ['menu=lora/a=b.gguf']\n\
         [pool]\nmemory_budget = 67108864\nmodels_dir = 'more'\n[state]\npath = 'state'",
    );
    let folder = settings.path("");
    let settings = settings.settings();
    assert_eq!(
        settings.models[0].keep_alive,
        Some(Duration::from_secs(5 * 60))
    );
    assert_eq!(settings.pool.memory_budget, Some(64 << 20));
    assert_eq!(settings.pool.models_dir, Some(folder.join("more")));
    assert_eq!(settings.state.path, Some(folder.join("state")));
    let reloaded = file("b.toml", &settings.to_toml()).settings();
    assert_eq!(reloaded, settings);
    assert_eq!(
        reloaded.models[1].adapters[0].path,
        folder.join("lora/a=b.gguf")
    );
}

#[test]
fn an_alias_is_no_other_models_id_and_no_other_models_alias() {
    let given = two(
        "aliases = ['b', 'x', 'gpt-*', 'x', 'a']",
        "aliases = ['x', 'gpt-4*', 'gpt-*']",
    );
    assert_eq!(
        given.complaints(),
        [
            "`models[0].aliases` in a.toml has \"b\", but `models[1].id` in a.toml already does; give each model names of its own",
            "`models[1].aliases` in a.toml has \"x\", but `models[0].aliases` in a.toml already does; give each model names of its own",
            "`models[1].aliases` in a.toml has \"gpt-*\", but `models[0].aliases` in a.toml already does; give each model names of its own",
        ]
    );
}

#[test]
fn one_model_at_most_answers_to_names_that_nobody_has() {
    let given = two("default = true", "").env("EDGELLM__MODELS__1__DEFAULT", "true");
    assert_eq!(
        given.complaints(),
        [
            "`models[1].default` in environment variable EDGELLM__MODELS__1__DEFAULT is true, but `models[0].default` in a.toml already is; only one model can answer to unknown names"
        ]
    );
    two("default = false", "default = true").settings();
}

#[test]
fn a_sibling_is_another_model_and_the_nearest_is_named() {
    let given = two("id = 'large'\nsiblings = ['smal', 'large']", "id = 'small'");
    assert_eq!(
        given.complaints(),
        [
            "`models[0].siblings` in a.toml has \"smal\"; it must be the id of another model, like \"small\"",
            "`models[0].siblings` in a.toml has \"large\"; it must be the id of another model, like \"small\"",
        ]
    );
    let alone = file("a.toml", "[[models]]\npath = '/a'\nsiblings = ['b']");
    assert_eq!(
        alone.complaints(),
        ["`models[0].siblings` in a.toml has \"b\"; it must be the id of another model"]
    );
}

#[test]
fn an_entry_of_a_list_that_does_not_fit_is_shown() {
    for (list, found) in [
        ("['gpt', ' x']", "the text \" x\""),
        ("['']", "the text \"\""),
        ("['a', 5]", "5"),
        ("'gpt'", "the text \"gpt\""),
    ] {
        let complaints = two(&format!("aliases = {list}"), "").complaints();
        assert_eq!(
            complaints,
            [format!(
                "`models[0].aliases` in a.toml must be a list of names, not empty, without control characters or spaces around them, like [\"kiosk\", \"till\"]; found {found}"
            )]
        );
    }
    for (list, found) in [
        ("['=x.gguf']", "the text \"=x.gguf\""),
        ("['a=']", "the text \"a=\""),
        ("['a+b.gguf']", "the text \"a+b.gguf\""),
        ("['x/m.gguf', 'm=y.gguf']", "the text \"m=y.gguf\""),
        ("[['m']]", "a list"),
    ] {
        let complaints = two(&format!("adapters = {list}"), "").complaints();
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints[0].starts_with("`models[0].adapters` in a.toml must be a list of files")
        );
        assert!(
            complaints[0].ends_with(&format!("; found {found}")),
            "{complaints:?}"
        );
    }
    let complaints = nothing()
        .flag("--model", "models.path", "m")
        .flag("--aliases", "models.aliases", "a,,b")
        .complaints();
    assert!(complaints[0].starts_with("`models[0].aliases` in --aliases must be"));
}

#[test]
fn a_budget_that_holds_no_model_is_refused() {
    let with = |bytes: &str| nothing().flag("--budget", "pool.memory_budget", bytes);
    assert_eq!(
        with("67108863").complaints(),
        [
            "`pool.memory_budget` in --budget must be 0 for none, or a whole number of bytes from 67108864 to 1125899906842624; found 67108863"
        ]
    );
    assert_eq!(with("-1").complaints().len(), 1);
    assert_eq!(with("0").settings().pool.memory_budget, None);
    assert_eq!(
        with("67108864").settings().pool.memory_budget,
        Some(64 << 20)
    );
}

#[test]
fn a_folder_of_models_is_relative_to_its_file() {
    let given = file("a.toml", "[pool]\nmodels_dir = 'models'");
    let models_dir = given.settings().pool.models_dir;
    assert_eq!(
        models_dir.as_deref(),
        Some(Path::new(&given.path("models")))
    );
}
