use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::{fs, io};

use crate::config::{SettingOverride, Settings, Sources, load};

use super::Surroundings;
use super::links::reach;
use super::needs::{Access, Need, Needs, Place, needs};

fn settings(values: &[(&str, &str)]) -> Settings {
    let overrides = values.iter().map(|(key, value)| SettingOverride {
        key: (*key).to_owned(),
        flag: "a test".to_owned(),
        value: (*value).to_owned(),
    });
    let sources = Sources {
        overrides: overrides.collect(),
        ..Sources::default()
    };
    load(&sources).expect("sound settings")
}

fn surroundings() -> Surroundings {
    Surroundings {
        config_files: vec!["/etc/edgellm/edgellm.toml".into()],
        program: "/proc/self/exe".into(),
        libraries: vec![
            "/lib/libc.so.6".into(),
            "/lib64/ld-linux-x86-64.so.2".into(),
        ],
        ..Surroundings::default()
    }
}

fn needed(values: &[(&str, &str)]) -> Needs {
    needs(&settings(values), &surroundings())
}

fn accesses(needs: &Needs, path: &str) -> Vec<Access> {
    let path = Path::new(path);
    let found = needs.places.iter().filter(|need| need.place.path() == path);
    found.map(|need| need.access).collect()
}

/// Which places may be changed in any way.
fn written(needs: &Needs) -> Vec<&Path> {
    let changes = |need: &&Need| !matches!(need.access, Access::Read | Access::Execute);
    let found = needs.places.iter().filter(changes);
    found.map(|need| need.place.path()).collect()
}

#[test]
fn what_is_configured_is_read_and_nothing_of_it_is_written() {
    let needs = needed(&[
        ("models[0].path", "/srv/models/a.gguf"),
        ("pool.models_dir", "/srv/more"),
        ("auth.keys_file", "/var/lib/edgellm/keys.toml"),
        ("server.tls_cert", "/etc/tls/cert.pem"),
        ("server.tls_key", "/etc/tls/key.pem"),
        ("state.path", "/var/lib/edgellm"),
    ]);
    for path in [
        "/srv/models/a.gguf",
        "/srv/more",
        "/var/lib/edgellm/keys.toml",
        "/etc/tls/cert.pem",
        "/etc/tls/key.pem",
        "/etc/edgellm/edgellm.toml",
    ] {
        assert_eq!(accesses(&needs, path), [Access::Read], "{path}");
    }
    let written = written(&needs);
    let expected = ["/var/lib/edgellm/learnt", "/proc", "/dev/null"];
    assert!(
        expected
            .iter()
            .all(|path| written.contains(&Path::new(path))),
        "{written:?}"
    );
    assert_eq!(written.len(), expected.len(), "{written:?}");
}

#[test]
fn the_program_and_what_starts_programs_are_all_that_is_executed() {
    let needs = needed(&[]);
    let executed = needs
        .places
        .iter()
        .filter(|need| need.access == Access::Execute);
    let executed: Vec<_> = executed.map(|need| need.place.clone()).collect();
    let expected = [
        Place::Named("/lib64/ld-linux-x86-64.so.2".into()),
        Place::File("/proc/self/exe".into()),
    ];
    assert_eq!(executed, expected);
}

#[test]
fn root_does_not_write_in_proc_where_it_could_change_the_system() {
    let root = Surroundings {
        is_root: true,
        ..surroundings()
    };
    let needs = needs(&settings(&[]), &root);
    // By itself, and as governor.procfs_root.
    assert_eq!(accesses(&needs, "/proc"), [Access::Read; 2]);
    assert_eq!(written(&needs), [Path::new("/dev/null")]);
}

#[test]
fn only_ports_that_are_configured_are_listened_on() {
    let needs = needed(&[
        ("server.listen", "127.0.0.1:0"),
        ("server.admin_listen", "127.0.0.1:9090"),
    ]);
    assert!(needs.ports.iter().eq(&[0, 9090]));
}

#[test]
fn sockets_are_made_where_the_unix_socket_is_and_nowhere_in_the_root_folder() {
    let needs = needed(&[("server.unix_socket", "/run/edgellm/socket")]);
    assert_eq!(accesses(&needs, "/run/edgellm"), [Access::Sockets]);
    let needs = needed(&[("server.unix_socket", "/socket")]);
    assert_eq!(accesses(&needs, "/"), []);
}

#[test]
fn what_systemd_gives_is_kept_and_heard() {
    let service = Surroundings {
        runtime_directory: Some("/run/edgellm".into()),
        notify_socket_is_abstract: true,
        ..surroundings()
    };
    let needs = needs(&settings(&[]), &service);
    assert_eq!(accesses(&needs, "/run/edgellm"), [Access::Keep]);
    assert!(needs.abstract_sockets);
    assert!(!needed(&[]).abstract_sockets);
}

/// A folder with a file of each of these paths in it.
fn tree(files: &[&str]) -> io::Result<tempfile::TempDir> {
    let tree = tempfile::tempdir()?;
    for file in files {
        let file = tree.path().join(file);
        fs::create_dir_all(file.parent().expect("a folder"))?;
        fs::write(file, "")?;
    }
    Ok(tree)
}

/// What a place reaches below a folder.
fn reached(place: &Place, root: &Path) -> Vec<String> {
    let root = root.canonicalize().expect("there");
    let below = |path: PathBuf| {
        let below = path.strip_prefix(&root).expect("below");
        below.to_string_lossy().into_owned()
    };
    reach(place).into_iter().map(below).collect()
}

#[test]
fn a_certificate_of_certbot_is_reached_where_the_link_is_and_where_it_leads() -> io::Result<()> {
    let tree = tree(&["archive/shop/cert1.pem", "live/shop/README"])?;
    let cert = tree.path().join("live/shop/cert.pem");
    symlink("../../archive/shop/cert1.pem", &cert)?;
    assert_eq!(
        reached(&Place::Named(cert), tree.path()),
        ["archive/shop", "live/shop"]
    );
    Ok(())
}

#[test]
fn every_part_of_a_split_model_is_followed_on_its_own() -> io::Result<()> {
    let tree = tree(&["one/blob", "two/blob", "models/README"])?;
    let first = tree.path().join("models/m-00001-of-00002.gguf");
    symlink("../one/blob", &first)?;
    symlink(
        "../two/blob",
        tree.path().join("models/m-00002-of-00002.gguf"),
    )?;
    assert_eq!(
        reached(&Place::Model(first), tree.path()),
        ["models", "one", "two"]
    );
    Ok(())
}

#[test]
fn models_of_a_folder_that_are_links_are_followed_and_other_links_are_not() -> io::Result<()> {
    let tree = tree(&["models/a.gguf", "blobs/b", "secrets/c"])?;
    symlink("../blobs/b", tree.path().join("models/b.gguf"))?;
    symlink("../secrets/c", tree.path().join("models/c.txt"))?;
    let models = Place::Models(tree.path().join("models"));
    assert_eq!(reached(&models, tree.path()), ["blobs", "models"]);
    Ok(())
}

#[test]
fn a_file_that_is_not_there_yet_is_reached_by_its_folder() -> io::Result<()> {
    let tree = tree(&["keys/README"])?;
    let file = Place::Named(tree.path().join("keys/keys.toml"));
    assert_eq!(reached(&file, tree.path()), ["keys"]);
    let nowhere = Place::Named(tree.path().join("nowhere/keys.toml"));
    assert!(reached(&nowhere, tree.path()).is_empty());
    Ok(())
}

#[test]
fn links_that_lead_in_a_circle_end() -> io::Result<()> {
    let tree = tree(&["a/README"])?;
    symlink("two", tree.path().join("a/one"))?;
    symlink("one", tree.path().join("a/two"))?;
    assert_eq!(
        reached(&Place::Named(tree.path().join("a/one")), tree.path()),
        ["a"]
    );
    Ok(())
}

#[test]
fn the_root_of_the_file_system_is_never_given_away() {
    for place in [
        Place::Named("/model.gguf".into()),
        Place::Model("/model.gguf".into()),
        Place::Models("/".into()),
        Place::Folder("/".into()),
    ] {
        assert!(!reach(&place).contains(&PathBuf::from("/")), "{place:?}");
    }
}
