//! What is said about each kind of mistake.

use super::{file, nothing};

#[test]
fn an_unknown_key_is_named_with_its_file_and_the_nearest_key() {
    let given = file("store.toml", "[server]\nlisen = '127.0.0.1:1'");
    assert_eq!(
        given.complaints(),
        ["unknown key `server.lisen` in store.toml; did you mean `server.listen`?"]
    );
}

#[test]
fn an_unknown_key_of_a_model_keeps_its_index() {
    let given = file(
        "a.toml",
        "[[models]]\npath = '/a'\n[[models]]\npath = '/b'\nmax_runing = 1",
    );
    assert_eq!(
        given.complaints(),
        ["unknown key `models[1].max_runing` in a.toml; did you mean `models[1].max_running`?"]
    );
}

#[test]
fn a_key_in_the_wrong_section_or_in_none_is_recognised() {
    let given = file("a.toml", "listen = 1\n[server]\nmax_waiting = 3");
    assert_eq!(
        given.complaints(),
        [
            "unknown key `listen` in a.toml; did you mean `server.listen`?",
            "unknown key `server.max_waiting` in a.toml; did you mean `admission.max_waiting`?",
        ]
    );
}

#[test]
fn an_unknown_section_is_one_mistake_whatever_it_holds() {
    let given = file(
        "a.toml",
        "[sever]\na = 1\nb = 2\n[[model]]\npath = 'x'\n[heating]\nkeys = []",
    );
    assert_eq!(
        given.complaints(),
        [
            "unknown section `heating` in a.toml; the sections are [server], [auth], [[models]], [pool], [state], [scheduler], [admission], [governor], [telemetry]",
            "unknown section `model` in a.toml; did you mean `[[models]]`?",
            "unknown section `sever` in a.toml; did you mean `[server]`?",
        ]
    );
}

#[test]
fn an_unknown_variable_is_answered_with_a_variable() {
    let given = nothing()
        .env("EDGELLM__SERVER__LISEN", "x")
        .env("EDGELLM__MODELS__0__PTH", "x")
        .env("EDGELLM__SERVER", "x")
        .env("EDGELLM__SERVER__0__LISTEN", "x");
    assert_eq!(
        given.complaints(),
        [
            "unknown key `models[0].pth` in environment variable EDGELLM__MODELS__0__PTH; did you mean `models[0].path` (EDGELLM__MODELS__0__PATH)?",
            "unknown key `server` in environment variable EDGELLM__SERVER; the nearest key is `server.listen` (EDGELLM__SERVER__LISTEN)",
            "unknown key `server[0].listen` in environment variable EDGELLM__SERVER__0__LISTEN; did you mean `server.listen` (EDGELLM__SERVER__LISTEN)?",
            "unknown key `server.lisen` in environment variable EDGELLM__SERVER__LISEN; did you mean `server.listen` (EDGELLM__SERVER__LISTEN)?",
        ]
    );
}

#[test]
fn a_variable_with_too_few_underscores_is_answered_with_the_right_one() {
    let given = nothing()
        .env("EDGELLM_SERVER_LISTEN", "x")
        .env("EDGELLM_SERVER__MAX_BODY_BYTES", "x")
        .env("EDGELLM_MODELS_0_PATH", "x")
        .env("EDGELLM_MODELS__00__CONTEXT", "x")
        .env("EDGELLM_MODELS_MAX_RUNNING", "x")
        .env("EDGELLM_SERVER_PORT", "of an orchestrator");
    assert_eq!(
        given.complaints(),
        [
            "environment variable EDGELLM_SERVER_LISTEN sets nothing; did you mean EDGELLM__SERVER__LISTEN?",
            "environment variable EDGELLM_SERVER__MAX_BODY_BYTES sets nothing; did you mean EDGELLM__SERVER__MAX_BODY_BYTES?",
            "environment variable EDGELLM_MODELS_0_PATH sets nothing; did you mean EDGELLM__MODELS__0__PATH?",
            "environment variable EDGELLM_MODELS__00__CONTEXT sets nothing; did you mean EDGELLM__MODELS__00__CONTEXT?",
            "environment variable EDGELLM_MODELS_MAX_RUNNING sets nothing; did you mean EDGELLM__MODELS__MAX_RUNNING?",
        ]
    );
}

#[test]
fn a_wrong_value_is_shown_with_the_expected_form_and_an_example() {
    let given = file(
        "a.toml",
        "[server]\nlisten = 'localhost:80'\nmax_connections = '7'\nbody_timeout_seconds = nan\n\
         [telemetry]\nlog_level = 'INFO'\nlog_prompts = 1",
    )
    .env("EDGELLM__ADMISSION__MAX_WAITING", "-1")
    .flag("--listen", "server.listen", "");
    assert_eq!(
        given.complaints(),
        [
            "`server.body_timeout_seconds` in a.toml must be a whole number of seconds from 1 to 3600, like 30; found NaN",
            "`server.listen` in a.toml must be an IP address and a port, like \"127.0.0.1:8080\", or a list of such, each with http:// before it where it is to be without TLS in spite of server.tls_cert; found the text \"localhost:80\"",
            "`server.max_connections` in a.toml must be a whole number of connections from 1 to 65536, like 1024; found the text \"7\"",
            "`telemetry.log_level` in a.toml must be one of \"off\", \"error\", \"warn\", \"info\", \"debug\", \"trace\"; found the text \"INFO\"",
            "`telemetry.log_prompts` in a.toml must be true or false; found 1",
            "`admission.max_waiting` in environment variable EDGELLM__ADMISSION__MAX_WAITING must be a whole number of requests from 0 to 100000, like 64; found -1",
            "`server.listen` is empty; it must be an address while there is no server.unix_socket: nobody could ask",
        ]
    );
}

#[test]
fn numbers_are_valid_up_to_their_bounds_and_not_beyond() {
    for (key, min, max) in [
        ("server.max_connections", 1, 65_536),
        ("server.header_timeout_seconds", 1, 3600),
        ("server.body_timeout_seconds", 1, 3600),
        ("server.max_body_bytes", 1024, 134_217_728),
        ("server.write_timeout_seconds", 1, 3600),
        ("server.max_unsent_bytes", 1_048_576, 1_099_511_627_776),
        ("server.shutdown_grace_seconds", 0, 3600),
        ("models.context", 128, 16_777_216),
        ("models.max_running", 1, 255),
        ("models.threads", 0, 512),
        ("models.keep_alive", 0, 31_536_000),
        ("scheduler.target_inter_token_ms", 1, 10_000),
        ("scheduler.max_batch_tokens", 16, 8192),
        ("admission.max_waiting", 0, 100_000),
    ] {
        let with = |number: i64| {
            nothing()
                .flag("--model", "models.path", "m")
                .flag("--flag", key, &number.to_string())
        };
        with(min).settings();
        with(max).settings();
        for beyond in [min - 1, max + 1, i64::MIN, i64::MAX] {
            let complaints = with(beyond).complaints();
            assert_eq!(complaints.len(), 1, "{key} = {beyond}: {complaints:?}");
        }
    }
}

#[test]
fn names_and_paths_must_be_visible() {
    for id in ["", " kiosk", "kio\\nsk"] {
        let text = format!("[[models]]\npath = '/m'\nid = \"{id}\"");
        let complaints = file("a.toml", &text).complaints();
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("`models[0].id` in a.toml must be a name, not empty"));
    }
    for path in ["", "/", "..", "a\\u0000b"] {
        let text = format!("[[models]]\npath = \"{path}\"");
        let complaints = file("a.toml", &text).complaints();
        assert_eq!(complaints.len(), 1);
        assert!(complaints[0].starts_with("`models[0].path` in a.toml must be the path of a file"));
    }
    assert_eq!(
        file("a.toml", "[[models]]\npath = '/m/ .gguf'").complaints(),
        [
            "`models[0].id` is missing in a.toml; it must be a name, not empty, without control characters or spaces around it, like \"kiosk\""
        ]
    );
}

#[test]
fn a_section_of_the_wrong_shape_is_shown_how_to_head_it() {
    let given = file(
        "a.toml",
        "server = 1\nmodels = [{ path = '/a' }, 5]\nadmission = [1]",
    )
    .file("b.toml", "[models]\npath = '/b'");
    assert_eq!(
        given.complaints(),
        [
            "`admission` in a.toml must be a section, headed [admission]; found a list",
            "`models[1]` in a.toml must be a section, headed [[models]]; found 5",
            "`server` in a.toml must be a section, headed [server]; found 1",
            "`models` in b.toml must be a list, each entry headed [[models]]; found a section",
        ]
    );
}

#[test]
fn a_model_without_a_path_is_a_mistake_where_the_rest_of_it_is() {
    let given = file("a.toml", "[[models]]\nid = 'a'\n[[models]]")
        .env("EDGELLM__MODELS__2__CONTEXT", "128");
    assert_eq!(
        given.complaints(),
        [
            "`models[0].path` is missing in a.toml; it must be the path of a file, like \"models/kiosk.gguf\"",
            "`models[1].path` is missing in a.toml; it must be the path of a file, like \"models/kiosk.gguf\"",
            "`models[2].path` is missing in environment variable EDGELLM__MODELS__2__CONTEXT; it must be the path of a file, like \"models/kiosk.gguf\"",
        ]
    );
}

#[test]
fn two_models_may_not_answer_to_one_name() {
    let given = file(
        "a.toml",
        "[[models]]\npath = '/a/kiosk.gguf'\n[[models]]\npath = '/b'\nid = 'kiosk'",
    );
    assert_eq!(
        given.complaints(),
        [
            "`models[1].id` in a.toml is \"kiosk\", but `models[0].id` in a.toml already is; give each model its own id"
        ]
    );
}

#[test]
fn models_are_numbered_without_gaps() {
    let given = file("a.toml", "[[models]]\npath = '/a'")
        .env("EDGELLM__MODELS__3__PATH", "/b")
        .env("EDGELLM__MODELS__18446744073709551615__PATH", "/b");
    assert_eq!(
        given.complaints(),
        [
            "`models[3].path` in environment variable EDGELLM__MODELS__3__PATH leaves a gap: 1 model(s) configured before it, so the next is `models[1]`",
            "`models[18446744073709551615].path` in environment variable EDGELLM__MODELS__18446744073709551615__PATH leaves a gap: 1 model(s) configured before it, so the next is `models[1]`",
        ]
    );
}

#[test]
fn two_variables_for_one_key_are_refused_since_neither_is_stronger() {
    let given = nothing()
        .env("EDGELLM__MODELS__PATH", "/a")
        .env("EDGELLM__MODELS__0__PATH", "/b");
    assert_eq!(
        given.complaints(),
        [
            "`models[0].path` is set twice, in environment variable EDGELLM__MODELS__0__PATH and in environment variable EDGELLM__MODELS__PATH; remove one"
        ]
    );
}

#[test]
fn a_mistake_is_found_even_where_a_stronger_source_hides_it() {
    let given = file(
        "a.toml",
        "[server]\nmax_connections = 0\n[[models]]\nid = ''",
    )
    .file(
        "b.toml",
        "[server]\nmax_connections = 1\n[[models]]\npath = '/b'",
    );
    assert_eq!(given.complaints().len(), 2);
}

#[test]
fn a_file_that_is_missing_or_not_text_is_named_with_the_reason() {
    let mut given = nothing().file("binary.toml", b"\xff\xfe");
    given.sources.files.push(given.path("absent.toml"));
    assert_eq!(
        given.complaints(),
        [
            "cannot read binary.toml: stream did not contain valid UTF-8",
            "cannot read absent.toml: No such file or directory (os error 2)",
        ]
    );
}

#[test]
fn a_syntax_mistake_is_shown_with_line_and_column_and_hides_no_other_source() {
    let given = file("a.toml", "[server]\nlisten = 127.0.0.1:8080\n")
        .file("b.toml", "[server]\nlisten = 1");
    let complaints = given.complaints();
    assert_eq!(complaints.len(), 2);
    assert!(
        complaints[0].starts_with("a.toml is not valid TOML: TOML parse error at line 2, column"),
        "{}",
        complaints[0]
    );
    assert!(complaints[0].contains("listen = 127.0.0.1:8080"));
}

#[test]
fn a_number_too_large_for_toml_is_shown_with_its_line() {
    let given = file(
        "a.toml",
        "[server]\n# é\nmax_body_bytes = 99999999999999999999\n[admission]\nmax_waiting = 99999999999999999999\n",
    );
    assert_eq!(
        given.complaints(),
        [
            "a.toml is not valid TOML: line 3: number too large to fit in target type: max_body_bytes = 99999999999999999999"
        ]
    );
}

#[test]
fn the_whole_error_is_one_line_for_each_mistake() {
    let given =
        nothing()
            .flag("--listen", "server.listen", "x")
            .flag("--threads", "models.threads", "x");
    let error = given.error();
    assert_eq!(
        error.to_string(),
        "the configuration has 2 mistakes:\
         \n  - `server.listen` in --listen must be an IP address and a port, like \"127.0.0.1:8080\", or a list of such, each with http:// before it where it is to be without TLS in spite of server.tls_cert; found the text \"x\"\
         \n  - `models[0].threads` in --threads must be a whole number of threads from 0 to 512, like 4; found the text \"x\""
    );
    let keys: Vec<_> = error.mistakes().iter().map(|m| m.key()).collect();
    assert_eq!(keys, [Some("server.listen"), Some("models[0].threads")]);
}

#[cfg(target_os = "linux")]
#[test]
fn a_relative_path_is_refused_where_its_directory_has_no_unicode_name() {
    use std::os::unix::ffi::OsStrExt as _;

    let mut given = nothing();
    let directory = given.directory.path();
    let directory = directory.join(std::ffi::OsStr::from_bytes(b"\xff"));
    std::fs::create_dir(&directory).unwrap();
    let path = directory.join("a.toml");
    std::fs::write(
        &path,
        "[[models]]\npath = 'a'\nid = 'a'\n[[models]]\npath = '/b'",
    )
    .unwrap();
    given.sources.files.push(path);
    let complaints = given.complaints();
    assert_eq!(complaints.len(), 1);
    assert!(complaints[0].contains("must be absolute"), "{complaints:?}");
}

#[test]
fn a_measure_that_would_never_begin_is_a_mistake_and_so_is_a_board_that_rests_at_work() {
    let given = file(
        "a.toml",
        "[governor]\nthermal_pace_percent = 95\nmemory_refuse_percent = 0\nmemory_cache_percent = 100\n\
         board_idle_watts = 12.5\nboard_full_watts = 10",
    );
    assert_eq!(
        given.complaints(),
        [
            "`governor.thermal_pace_percent` is 95; it must be below governor.thermal_refuse_percent, which is 90, or 0 for never",
            "`governor.board_full_watts` is 10; it must be above governor.board_idle_watts, which is 12.5, or both 0",
        ]
    );
}

#[test]
fn watts_may_have_a_fraction_and_must_be_possible() {
    let with = |watts: &str| nothing().env("EDGELLM__GOVERNOR__POWER_BUDGET_WATTS", watts);
    for (watts, budget) in [("20", Some(20.0)), ("7.25", Some(7.25)), ("0", None)] {
        let governor = with(watts).settings().governor;
        assert_eq!(governor.power_budget.map(crate::config::Watts::get), budget);
    }
    for watts in ["-1", "NaN", "inf", "10001", "20 W", ""] {
        let complaints = with(watts).complaints();
        assert!(
            complaints[0].contains("must be a number of watts from 0 to 10000, like 12.5"),
            "{complaints:?}"
        );
    }
}

#[test]
fn deterministic_answers_and_flash_attention_contradict_each_other() {
    let given = file(
        "a.toml",
        "[[models]]\npath = '/a'\ndeterministic = true\n[[models]]\npath = '/b'\ndeterministic = true\nattention = 'flash'",
    );
    let [complaint] = &given.complaints()[..] else {
        panic!("one mistake");
    };
    assert!(
        complaint.starts_with("`models[1].attention`"),
        "{complaint}"
    );
}

#[test]
fn beyond_this_machine_there_must_be_keys_or_the_word_that_it_is_open() {
    let listening = |listen: &str| nothing().flag("--listen", "server.listen", listen);
    let complaints = listening("0.0.0.0:8080").complaints();
    assert_eq!(
        complaints,
        [
            "`server.listen` is 0.0.0.0:8080; it must be an address of this machine alone, like 127.0.0.1:8080, while \
             there are no keys: set auth.keys_file to the file for keys (a first one is made), or auth.open to true if \
             anybody on the network may ask"
        ]
    );
    for listen in ["[::]:1", "192.168.1.5:80", "[fe80::1]:80"] {
        assert_eq!(listening(listen).complaints().len(), 1, "{listen}");
        listening(listen)
            .flag("--open", "auth.open", "true")
            .settings();
        let locked = listening(listen).env("EDGELLM__AUTH__KEYS_FILE", "/keys.toml");
        locked.settings();
        let with_certificates = listening(listen)
            .env("EDGELLM__SERVER__TLS_CERT", "/c.pem")
            .env("EDGELLM__SERVER__TLS_KEY", "/k.pem")
            .env("EDGELLM__SERVER__TLS_CLIENT_CA", "/ca.pem")
            .env("EDGELLM__SERVER__TLS_REQUIRE_CLIENT", "true");
        with_certificates.settings();
    }
    let plain = listening("127.0.0.1:1,http://10.0.0.5:80").complaints();
    assert!(plain[0].starts_with(
        "`server.listen` is http://10.0.0.5:80; it must be an address of this machine"
    ));
    for listen in [
        "127.0.0.1:80",
        "127.3.4.5:80",
        "[::1]:80",
        "[::ffff:127.0.0.1]:80",
    ] {
        listening(listen).settings();
    }
}

#[test]
fn what_of_listeners_and_tls_does_not_go_together_is_said() {
    for (settings, expected) in [
        (
            vec![("LISTEN", "127.0.0.1:80"), ("ADMIN_LISTEN", "127.0.0.1:80")],
            "`server.admin_listen` is 127.0.0.1:80; it must be another address or port: 127.0.0.1:80 has this one already",
        ),
        (
            vec![("LISTEN", "")],
            "`server.listen` is empty; it must be an address while there is no server.unix_socket: nobody could ask",
        ),
        (
            vec![("UNIX_SOCKET", "unix:/run/e.sock")],
            "`server.unix_socket` is unix:/run/e.sock; it must be the path alone, without unix: before it",
        ),
        (
            vec![("TLS_CERT", "/c.pem")],
            "`server.tls_key` is empty; it must be the file with the private key of server.tls_cert",
        ),
        (
            vec![("TLS_KEY", "/k.pem")],
            "`server.tls_cert` is empty; it must be the file with the certificate of server.tls_key",
        ),
        (
            vec![("TLS_REQUIRE_CLIENT", "true")],
            "`server.tls_require_client` is true; it must be false while there is no server.tls_client_ca: nobody could connect",
        ),
        (
            vec![
                ("TLS_CERT", "/c.pem"),
                ("TLS_KEY", "/k.pem"),
                ("TLS_CLIENT_CA", "/ca.pem"),
            ],
            "`server.tls_client_ca` is /ca.pem; it must be beside auth.keys_file, whose keys say who has which certificate; or \
             set server.tls_require_client to true, and whoever has a certificate of it may ask",
        ),
    ] {
        let given = settings.iter().fold(nothing(), |given, (name, value)| {
            given.env(&format!("EDGELLM__SERVER__{name}"), value)
        });
        assert_eq!(given.complaints(), [expected]);
    }
}

#[test]
fn an_address_that_is_none_is_answered_with_one_and_an_entry_of_a_list_is_named() {
    let given = file(
        "a.toml",
        "[server]\nlisten = ['127.0.0.1:80', 'https://10.0.0.5:443']\nallowed_hosts = ['box:80']\ncors_origins = ['https://a/']",
    );
    let complaints = given.complaints();
    assert_eq!(complaints.len(), 3);
    for (complaint, words) in complaints.iter().zip([
        "`server.allowed_hosts` in a.toml must be a list of host names without scheme and port",
        "`server.cors_origins` in a.toml must be a list of origins",
        "`server.listen` in a.toml must be an IP address and a port",
    ]) {
        assert!(complaint.starts_with(words), "{complaint}");
    }
    assert!(
        complaints[2].ends_with("found the text \"https://10.0.0.5:443\""),
        "{}",
        complaints[2]
    );
}

#[test]
fn a_mistake_in_one_section_hides_none_between_others() {
    let given = file(
        "a.toml",
        "[server]\nlisten = '0.0.0.0:80'\n[[models]]\nid = 'x'",
    );
    let complaints = given.complaints();
    assert_eq!(complaints.len(), 2);
    assert!(complaints[0].starts_with("`models[0].path` is missing in a.toml"));
    assert!(complaints[1].starts_with("`server.listen` is 0.0.0.0:80; it must be"));
}
