use std::time::{Duration, UNIX_EPOCH};

use super::*;
use crate::keys::ApiKey;

struct Fixture {
    _directory: tempfile::TempDir,
    path: PathBuf,
}

impl Fixture {
    fn new(text: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("keys.toml");
        std::fs::write(&path, text).expect("written");
        Self {
            _directory: directory,
            path,
        }
    }

    fn write(&self, text: &str) {
        std::fs::write(&self.path, text).expect("written");
    }

    fn ring(&self) -> KeyRing {
        KeyRing::open(&self.path, true).expect("sound")
    }
}

fn entry(name: &str, key: &ApiKey, more: &str) -> String {
    format!(
        "[[keys]]\nname = \"{name}\"\nsha256 = \"{}\"\n{more}\n",
        key.sha256()
    )
}

fn new_key() -> ApiKey {
    ApiKey::generate().expect("random")
}

fn name(ring: &KeyRing, key: &ApiKey) -> Option<String> {
    let found = ring.find(key.reveal(), SystemTime::now()).ok()?;
    found.name.clone()
}

/// Until a change of the file is read: it has to be seen twice.
fn look_twice(ring: &KeyRing) -> Result<Option<KeyChanges>, KeysFileError> {
    match ring.look()? {
        None => ring.look(),
        changes => Ok(changes),
    }
}

#[test]
fn a_key_is_found_by_itself_and_by_nothing_like_it() {
    let (till, office) = (new_key(), new_key());
    let file =
        Fixture::new(&(entry("till", &till, "") + &entry("office", &office, "admin = true")));
    let ring = file.ring();
    assert_eq!(name(&ring, &till).as_deref(), Some("till"));
    assert_eq!(name(&ring, &office).as_deref(), Some("office"));
    let now = SystemTime::now();
    for wrong in [
        "",
        "sk-edge-",
        &till.reveal()[1..],
        &till.sha256(),
        &"k".repeat(100_000),
    ] {
        let found = ring.find(wrong, now).map(|found| found.name.clone());
        assert_eq!(found, Err(KeyRejection::Unknown), "{wrong:.80}");
    }
}

#[test]
fn an_expired_key_is_told_apart_and_comes_back_with_the_clock() {
    let key = new_key();
    let ring = Fixture::new(&entry("till", &key, "expires = 2027-01-31")).ring();
    let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
    let of = |now| ring.find(key.reveal(), now).map(drop);
    // 2026, 2100, and 2026 again.
    assert_eq!(of(at(1_790_000_000)), Ok(()));
    assert_eq!(of(at(4_102_444_800)), Err(KeyRejection::Expired));
    assert_eq!(of(at(1_790_000_000)), Ok(()));
    assert_eq!(of(at(0)), Ok(()));
}

#[test]
fn a_change_is_read_when_the_file_has_stayed_the_same_for_two_looks() {
    let (old, new) = (new_key(), new_key());
    let file = Fixture::new(&entry("till", &old, ""));
    let ring = file.ring();
    assert_eq!(ring.look(), Ok(None));
    file.write(&entry("kiosk", &new, ""));
    assert_eq!(ring.look(), Ok(None), "it may still be being written");
    assert_eq!(name(&ring, &old).as_deref(), Some("till"));
    let changes = ring.look().expect("sound").expect("changed");
    assert_eq!(
        (changes.added, changes.removed),
        (vec!["kiosk".to_owned()], vec!["till".to_owned()])
    );
    assert_eq!(
        (name(&ring, &old), name(&ring, &new).as_deref()),
        (None, Some("kiosk"))
    );
    assert_eq!(ring.look(), Ok(None));
}

#[test]
fn a_poisoned_file_changes_nothing_and_is_reported_once() {
    let key = new_key();
    let good = entry("till", &key, "");
    for poison in [
        good.replace("sha256", "sha"),
        good[..good.len() - 10].to_owned(),
        "\0\0\0".to_owned(),
        "keys = 7".to_owned(),
        format!("{good}{good}"),
        "[[keys]]\n".repeat(100_000),
    ] {
        let file = Fixture::new(&good);
        let ring = file.ring();
        file.write(&poison);
        let error = look_twice(&ring).expect_err("poisoned");
        assert!(error.to_string().len() < 500, "{error}");
        for _ in 0..3 {
            assert_eq!(look_twice(&ring), Ok(None), "reported already");
        }
        assert_eq!(name(&ring, &key).as_deref(), Some("till"));
        file.write(&(good.clone() + "# mended\n"));
        assert!(look_twice(&ring).expect("sound").is_some());
    }
}

#[test]
fn a_file_that_is_gone_or_not_text_changes_nothing() {
    let key = new_key();
    let file = Fixture::new(&entry("till", &key, ""));
    let ring = file.ring();
    std::fs::remove_file(&file.path).expect("removed");
    assert!(look_twice(&ring).is_err());
    assert_eq!(name(&ring, &key).as_deref(), Some("till"));
    std::fs::write(&file.path, [0xff, 0xfe]).expect("written");
    assert!(look_twice(&ring).is_err());
    std::fs::remove_file(&file.path).expect("removed");
    std::fs::create_dir(&file.path).expect("made");
    assert!(look_twice(&ring).is_err());
    assert_eq!(name(&ring, &key).as_deref(), Some("till"));
}

#[test]
fn a_change_is_noticed_though_the_clock_stepped_back() {
    let (old, new) = (new_key(), new_key());
    let file = Fixture::new(&entry("till", &old, ""));
    let ring = file.ring();
    file.write(&entry("till", &new, ""));
    let handle = std::fs::File::options()
        .write(true)
        .open(&file.path)
        .expect("open");
    handle
        .set_modified(UNIX_EPOCH + Duration::from_secs(1))
        .expect("set");
    let changes = look_twice(&ring).expect("sound").expect("changed");
    assert_eq!(changes.changed, ["till"]);
    assert_eq!(name(&ring, &new).as_deref(), Some("till"));
}

#[test]
fn an_account_and_a_number_survive_a_new_reading_of_the_file() {
    let (key, next) = (new_key(), new_key());
    let file = Fixture::new(&entry("till", &key, "requests_at_once = 1"));
    let ring = file.ring();
    let before = ring.find(key.reveal(), SystemTime::now()).expect("known");
    let _hold = before.quota.admit().expect("the first");
    file.write(&entry("till", &next, "requests_at_once = 1"));
    look_twice(&ring).expect("sound");
    let after = ring.find(next.reveal(), SystemTime::now()).expect("known");
    assert_eq!(after.tenant.id, before.tenant.id);
    assert!(after.quota.admit().is_err(), "its other request still runs");
}

#[test]
fn groups_share_prefixes_and_keys_without_one_are_alone() {
    let keys: Vec<ApiKey> = (0..5).map(|_| new_key()).collect();
    let text = entry("a", &keys[0], "group = \"kiosks\"")
        + &entry("b", &keys[1], "group = \"kiosks\"")
        + &entry("c", &keys[2], "")
        + &entry("kiosks", &keys[3], "")
        + &entry("d", &keys[4], "group = \"c\"");
    let file = Fixture::new(&text);
    let groups = |separate| -> Vec<PrefixGroup> {
        let ring = KeyRing::open(&file.path, separate).expect("sound");
        let group = |key: &ApiKey| {
            let found = ring.find(key.reveal(), SystemTime::now());
            found.expect("known").tenant.prefix_group
        };
        keys.iter().map(group).collect()
    };
    let apart = groups(true);
    assert_eq!(apart[0], apart[1]);
    for (one, other) in [(0, 2), (0, 3), (2, 3), (2, 4), (3, 4)] {
        assert_ne!(apart[one], apart[other], "{one} {other}");
    }
    assert!(
        groups(false)
            .iter()
            .all(|group| *group == PrefixGroup::default())
    );
}

#[test]
fn a_certificate_is_its_entrys_by_its_whole_subject_first_and_ends_with_it() {
    let key = new_key();
    let text = entry("till", &key, "subject = \"till-1\"\nrequests_at_once = 1")
        + "[[keys]]\nname = \"harbour\"\nsubject = \"cn=till-1, o=Harbour\"\nexpires = 2027-01-31\n";
    let file = Fixture::new(&text);
    let ring = file.ring();
    let of = |subject: &str, common_name: Option<&str>, seconds: u64| {
        let certificate = ClientCertificate {
            subject: subject.to_owned(),
            common_name: common_name.map(str::to_owned),
            not_after: jiff::Timestamp::MAX,
        };
        let found = ring.find_certificate(&certificate, UNIX_EPOCH + Duration::from_secs(seconds));
        found.map(|found| found.name.clone().expect("a name"))
    };
    let (in_2026, in_2100) = (1_790_000_000, 4_102_444_800);
    let till = Some("till-1");
    assert_eq!(of("CN=till-1", till, in_2026).as_deref(), Ok("till"));
    assert_eq!(
        of("CN=till-1,O=Other", till, in_2100).as_deref(),
        Ok("till")
    );
    assert_eq!(
        of("CN=till-1,O=Harbour", till, in_2026).as_deref(),
        Ok("harbour")
    );
    assert_eq!(
        of("CN=till-1,O=Harbour", till, in_2100),
        Err(KeyRejection::Expired)
    );
    for (subject, name) in [
        ("CN=till-2", Some("till-2")),
        ("CN=TILL-1", Some("TILL-1")),
        ("O=till-1", None),
        ("", None),
    ] {
        assert_eq!(
            of(subject, name, in_2026),
            Err(KeyRejection::Unknown),
            "{subject}"
        );
    }
    let now = SystemTime::now();
    let by_key = ring.find(key.reveal(), now).expect("known");
    let certificate = ClientCertificate {
        subject: "CN=till-1".to_owned(),
        common_name: Some("till-1".to_owned()),
        not_after: jiff::Timestamp::MAX,
    };
    let by_certificate = ring.find_certificate(&certificate, now).expect("known");
    assert_eq!(by_key.tenant.id, by_certificate.tenant.id);
    let _hold = by_key.quota.admit().expect("the first");
    assert!(
        by_certificate.quota.admit().is_err(),
        "one account for both"
    );
    file.write(&entry("till", &key, ""));
    look_twice(&ring).expect("sound");
    assert_eq!(
        ring.find_certificate(&certificate, now).map(drop),
        Err(KeyRejection::Unknown)
    );
}
