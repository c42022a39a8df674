use super::*;

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn key(more: &str) -> String {
    format!("[[keys]]\nname = \"till\"\nsha256 = \"{ABC}\"\n{more}\n")
}

fn mistake(text: &str) -> String {
    parse(text).expect_err("a mistake").to_string()
}

#[test]
fn a_key_needs_a_name_and_a_digest_and_the_rest_has_defaults() {
    let keys = parse(&key("")).expect("sound");
    assert_eq!(keys.len(), 1);
    assert_eq!(keys[0].tier, ServiceTier::Default);
    assert_eq!((keys[0].share.get(), keys[0].admin), (1, false));
    assert_eq!(keys[0].limits(), QuotaLimits::default());
    assert_eq!(parse(""), Ok(Vec::new()));
    let all = key(
        "group = \"tills\"\ntier = \"priority\"\nmodels = [\"kiosk\"]\nrequests_per_minute = 60\n\
         tokens_per_minute = 10000\nrequests_at_once = 4\nshare = 3\nexpires = 2027-01-31\nadmin = true",
    );
    let keys = parse(&all).expect("sound");
    assert_eq!(keys[0].limits().tokens_per_minute, Some(10_000));
    assert_eq!(keys[0].tier, ServiceTier::Priority);
}

#[test]
fn what_is_wrong_is_told_with_its_place_and_the_remedy() {
    for (text, expected) in [
        (
            key("expires = \"soon\""),
            "line 4: expected a date, like 2027-01-31, or 2027-01-31T18:00:00Z",
        ),
        (
            key("share = 0"),
            "line 4: wrong value, expected a nonzero u32",
        ),
        (
            key("tier = \"gold\""),
            "line 4: wrong value, expected one of `flex`, `default`, `priority`",
        ),
        (key("name = \"two\""), "line 4: duplicate key"),
        (
            key("group = \"a b\""),
            "key 1 (`till`): `group` must be 1 to 64 letters, digits, dots, dashes or underscores",
        ),
        (
            format!("{}{}", key(""), key("")),
            "key 2 (`till`): key 1 has the same name: give it another one",
        ),
        (
            format!("{}{}", key(""), key("").replace("till", "other")),
            "key 2 (`other`): it is the same key as key 1: make a new one with `edgellm keys add`",
        ),
        (
            key(&format!("previous_sha256 = \"{}\"", "0".repeat(64))),
            "key 1 (`till`): `previous_sha256` needs `previous_until`, a date",
        ),
    ] {
        assert_eq!(mistake(&text), expected, "{text}");
    }
    let unknown = mistake(&key("teir = \"flex\""));
    assert!(
        unknown.starts_with("line 4: unknown field `teir`, expected one of"),
        "{unknown}"
    );
    let missing = mistake("[[keys]]\nname = \"till\"\n");
    assert!(
        missing.starts_with("key 1 (`till`): it needs `sha256`"),
        "{missing}"
    );
}

#[test]
fn a_certificate_may_stand_for_a_key_or_beside_it_and_names_one_entry_only() {
    let of =
        |name: &str, subject: &str| format!("[[keys]]\nname = \"{name}\"\nsubject = '{subject}'\n");
    let keys = parse(&(of("a", "till-1") + &key("subject = \"till-2\""))).expect("sound");
    assert_eq!(
        (keys[0].sha256.is_none(), keys[0].digests().count()),
        (true, 0)
    );
    assert_eq!(
        (keys[1].sha256.is_some(), keys[1].subject.as_deref()),
        (true, Some("till-2"))
    );
    let both = parse(&(of("a", "till-1") + &of("b", "CN=till-1,O=Harbour"))).expect("two subjects");
    assert_eq!(both.len(), 2);
    for (one, other) in [
        ("till-1", "till-1"),
        ("till-1", "CN=till-1"),
        ("CN=a,O=b", "cn=a, o=b"),
        (r"CN=a\2Cb", r"CN=a\,b"),
    ] {
        assert_eq!(
            mistake(&(of("a", one) + &of("b", other))),
            "key 2 (`b`): its `subject` is that of key 1 (`a`): a certificate can be one key's only"
        );
    }
    for wrong in ["", " ", "CN=", "till=1", "CN=a,"] {
        let mistake = mistake(&of("a", wrong));
        assert!(
            mistake.starts_with("key 1 (`a`): `subject` must be"),
            "{mistake}"
        );
    }
    let rotated = mistake(
        &(of("a", "b") + &format!("previous_sha256 = \"{ABC}\"\nprevious_until = 2027-01-01\n")),
    );
    assert!(
        rotated.contains("`previous_sha256` needs `sha256`"),
        "{rotated}"
    );
}

#[test]
fn no_message_repeats_a_key_that_stands_in_the_wrong_place() {
    let secret = "sk-edge-0123456789";
    for text in [
        format!("[[keys]]\nname = \"till\"\nsha256 = \"{secret}\"\n"),
        format!("[[keys]]\nname = \"{secret} \"\nsha256 = \"{ABC}\"\n"),
        key(&format!("subject = \"{secret}=\"")),
        key(&format!("admin = \"{secret}\"")),
        key(&format!("tier = \"{secret}\"")),
        key(&format!("expires = \"{secret}\"")),
        key(&format!("models = \"{secret}\"")),
        format!("{secret}\n"),
        format!("keys = \"{secret}\"\n"),
        format!("[[keys]]\nname = \"{secret}"),
    ] {
        assert!(!mistake(&text).contains(secret), "{}", mistake(&text));
    }
}

/// A file that is being written may end anywhere.
#[test]
fn a_file_that_ends_too_early_is_refused_or_has_whole_keys_only() {
    let text = key("expires = 2027-01-31\nadmin = true")
        + &key("").replace("till", "b").replace(ABC, &"0".repeat(64));
    let whole = parse(&text).expect("sound");
    for end in 0..text.len() {
        if let Ok(keys) = parse(&text[..end]) {
            for (key, expected) in keys.iter().zip(&whole) {
                assert_eq!(key.name, expected.name);
                assert_eq!(key.sha256, expected.sha256);
                assert_eq!(key.subject, expected.subject);
            }
        }
    }
}

#[test]
fn a_date_is_meant_with_its_day_and_a_clock_may_jump() {
    let at = |text: &str| {
        let moment: jiff::Timestamp = text.parse().expect("a moment");
        SystemTime::try_from(moment).expect("a time")
    };
    let day = Expiry::read("2027-01-31").expect("a date");
    assert!(!day.has_come(at("2027-01-31T23:59:59Z")));
    assert!(day.has_come(at("2027-02-01T00:00:00Z")));
    let time = Expiry::read("2027-01-31T18:00:00").expect("a time");
    assert!(time.has_come(at("2027-01-31T18:00:00Z")));
    let zoned = Expiry::read("2027-01-31T18:00:00+02:00").expect("a time with a zone");
    assert!(zoned.has_come(at("2027-01-31T16:00:00Z")));
    assert!(!zoned.has_come(at("2027-01-31T15:59:59Z")));
    // A box without a battery for its clock starts in 1970, or even before.
    assert!(!day.has_come(UNIX_EPOCH));
    assert!(!day.has_come(UNIX_EPOCH - Duration::from_secs(1000)));
    for text in ["18:00:00", "2027-02-30", "9999-12-31", "tomorrow", ""] {
        assert_eq!(Expiry::read(text), None, "{text}");
    }
}

#[test]
fn a_key_that_was_rotated_ends_with_its_time_or_its_keys() {
    let text = key(&format!(
        "previous_sha256 = \"{}\"\nprevious_until = 2027-03-01\nexpires = 2027-02-01",
        "0".repeat(64)
    ));
    let keys = parse(&text).expect("sound");
    let ends: Vec<_> = keys[0].digests().map(|(_, end)| end).collect();
    assert_eq!(
        ends,
        [Expiry::read("2027-02-01"), Expiry::read("2027-02-01")]
    );
}

#[test]
fn what_is_fuzzed_holds_for_the_seeds() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/seeds/keys");
    for seed in std::fs::read_dir(folder).expect("seeds") {
        fuzz(&std::fs::read(seed.expect("a seed").path()).expect("readable"));
    }
}
