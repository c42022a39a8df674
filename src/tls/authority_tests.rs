use std::os::unix::fs::PermissionsExt as _;
use std::time::UNIX_EPOCH;

use super::*;

/// 29 November 2026.
fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_910_400)
}

fn later(days: u32) -> SystemTime {
    now() + DAY * days
}

fn names(names: &[&str]) -> Vec<ServerName> {
    let names = names
        .iter()
        .map(|name| ServerName::parse(name).expect("a name"));
    names.collect()
}

fn folder() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().expect("a directory");
    let folder = directory.path().join("tls");
    (directory, folder)
}

fn text(file: &Path) -> String {
    std::fs::read_to_string(file).expect("readable")
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).expect("there").permissions().mode() & 0o777
}

#[test]
fn the_authority_and_the_servers_key_stay_when_the_certificate_is_made_anew() {
    let (_directory, folder) = folder();
    let first = Authority::open_or_make(&folder, now()).expect("made");
    assert!(first.is_new());
    let made = first
        .certify_server(&names(&["box", "10.0.0.5"]), 825)
        .expect("made");
    assert!(!made.has_kept_key && !made.ends_with_authority);
    assert_eq!(made.facts.names, ["box", "10.0.0.5"]);
    assert_eq!(made.facts.issuer, first.facts().subject);
    assert_eq!(made.facts.days_left(moment(now()).expect("a time")), 824);
    let (authority, old) = (first.files().clone(), text(&made.files.certificate));
    let kept = [&authority.certificate, &authority.key, &made.files.key].map(|file| text(file));
    for file in [&authority.key, &made.files.key] {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    for file in [&authority.certificate, &made.files.certificate] {
        assert_eq!(mode(file), 0o644, "{}", file.display());
    }
    drop(first);
    let again = Authority::open_or_make(&folder, later(800)).expect("opened");
    assert!(!again.is_new());
    let renewed = again
        .certify_server(&names(&["box.lan"]), 90)
        .expect("made");
    assert!(renewed.has_kept_key);
    assert_eq!(renewed.facts.names, ["box.lan"]);
    assert_eq!(
        kept,
        [&authority.certificate, &authority.key, &made.files.key].map(|file| text(file))
    );
    assert_ne!(text(&made.files.certificate), old);
    let serial = |pem: &str| {
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        parse(&der).expect("a certificate").raw_serial_as_string()
    };
    assert_ne!(
        serial(&text(&made.files.certificate)),
        serial(&old),
        "browsers refuse a number twice"
    );
}

#[test]
fn an_authority_signs_no_others_and_a_certificate_is_for_one_purpose() {
    let (_directory, folder) = folder();
    let authority = Authority::open_or_make(&folder, now()).expect("made");
    let der = read_certificate(&authority.files().certificate).expect("read");
    let parsed = parse(&der).expect("a certificate");
    let constraints = parsed.basic_constraints().expect("one").expect("there");
    assert!(constraints.critical && constraints.value.ca);
    assert_eq!(constraints.value.path_len_constraint, Some(0));
    let usage = parsed.key_usage().expect("one").expect("there").value;
    assert!(usage.key_cert_sign() && !usage.digital_signature());
    let server = authority
        .certify_server(&names(&["box"]), 825)
        .expect("made");
    let client = authority.certify_client("till-1", 825).expect("made");
    assert_eq!(client.facts.subject, "CN=till-1");
    for (files, is_server) in [(server.files, true), (client.files, false)] {
        let der = read_certificate(&files.certificate).expect("read");
        let parsed = parse(&der).expect("a certificate");
        let purposes = parsed
            .extended_key_usage()
            .expect("one")
            .expect("there")
            .value;
        assert_eq!(
            (purposes.server_auth, purposes.client_auth),
            (is_server, !is_server)
        );
        assert!(!parsed.is_ca());
        let seconds =
            parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
        assert!(seconds < 825 * 86_400, "Apple counts both ends");
    }
}

#[test]
fn nothing_is_good_for_longer_than_the_authority() {
    let (_directory, folder) = folder();
    let end = Authority::open_or_make(&folder, now())
        .expect("made")
        .facts()
        .not_after;
    let late = Authority::open_or_make(&folder, later(3600)).expect("opened");
    let made = late.certify_server(&names(&["box"]), 825).expect("made");
    assert!(made.ends_with_authority);
    assert_eq!(made.facts.not_after, end);
    drop(late);
    let error = Authority::open_or_make(&folder, later(3700)).expect_err("ended");
    assert!(error.to_string().contains("has to trust anew"), "{error}");
    assert!(folder.join("ca.pem").exists(), "nothing is replaced");
}

#[test]
fn a_broken_authority_is_told_with_what_to_do_and_never_replaced() {
    type Breakage = fn(&Path);
    let cases: [(Breakage, &str); 7] = [
        (
            |folder| std::fs::remove_file(folder.join("ca-key.pem")).expect("removed"),
            "ca-key.pem: put that back",
        ),
        (
            |folder| std::fs::remove_file(folder.join("ca.pem")).expect("removed"),
            "ca.pem: put that back",
        ),
        (
            |folder| std::fs::write(folder.join("ca.pem"), "hello").expect("written"),
            "no certificate in PEM",
        ),
        (
            |folder| std::fs::write(folder.join("ca-key.pem"), "hello").expect("written"),
            "no private key in PEM",
        ),
        (
            |folder| {
                let other = KeyPair::generate().expect("a key").serialize_pem();
                std::fs::write(folder.join("ca-key.pem"), other).expect("written");
            },
            "is not the key of",
        ),
        (
            |folder| {
                for end in [".pem", "-key.pem"] {
                    let (from, to) = (
                        folder.join(format!("server{end}")),
                        folder.join(format!("ca{end}")),
                    );
                    std::fs::copy(from, to).expect("copied");
                }
            },
            "may not sign",
        ),
        (
            |folder| {
                for file in ["ca.pem", "ca-key.pem"] {
                    std::fs::remove_file(folder.join(file)).expect("removed");
                }
            },
            "give another --output",
        ),
    ];
    for (breakage, words) in cases {
        let (_directory, folder) = folder();
        let authority = Authority::open_or_make(&folder, now()).expect("made");
        let server = authority
            .certify_server(&names(&["box"]), 825)
            .expect("made")
            .files
            .certificate;
        drop(authority);
        breakage(&folder);
        let server_before = text(&server);
        let before = std::fs::read(folder.join("ca.pem")).ok();
        let error = Authority::open_or_make(&folder, now()).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(std::fs::read(folder.join("ca.pem")).ok(), before);
        assert_eq!(text(&server), server_before);
    }
}

#[test]
fn a_certificate_of_somebody_else_is_not_overwritten() {
    let (_directory, folder) = folder();
    let authority = Authority::open_or_make(&folder, now()).expect("made");
    std::fs::copy(folder.join("ca.pem"), folder.join("till-1.pem")).expect("copied");
    assert!(
        authority.certify_client("till-1", 825).is_ok(),
        "its issuer is the same"
    );
    let elsewhere = folder.join("other");
    let other = Authority::open_or_make(&elsewhere, now()).expect("made");
    let theirs = other
        .certify_server(&names(&["box"]), 825)
        .expect("made")
        .files
        .certificate;
    std::fs::copy(&theirs, folder.join("server.pem")).expect("copied");
    let error = authority
        .certify_server(&names(&["box"]), 825)
        .expect_err("somebody else's");
    assert!(
        error
            .to_string()
            .contains("not from the authority of this folder"),
        "{error}"
    );
    assert_eq!(text(&folder.join("server.pem")), text(&theirs));
}

#[test]
fn a_clock_that_was_never_set_makes_no_certificates() {
    let (_directory, folder) = folder();
    let error = Authority::open_or_make(&folder, UNIX_EPOCH + DAY).expect_err("1970");
    assert!(error.to_string().contains("1970-01-02"), "{error}");
    assert!(!folder.exists());
}

#[test]
fn a_client_needs_an_authority_and_a_folder_a_parent() {
    let (directory, folder) = folder();
    std::fs::create_dir(&folder).expect("made");
    let error = Authority::open(&folder, now()).expect_err("none");
    assert!(
        error
            .to_string()
            .contains("edgellm tls self-signed --output"),
        "{error}"
    );
    let nowhere = directory.path().join("a/b");
    let error = Authority::open_or_make(&nowhere, now()).expect_err("no parent");
    assert!(error.to_string().contains("cannot be written"), "{error}");
}
