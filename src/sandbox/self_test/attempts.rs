//! Everything that is tried. What would do harm without a sandbox is undone at once.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::config::Settings;
use crate::replace_file::parent;

use super::arena::{Arena, test_name};
use super::{Attempt, Expected, SelfTest};

use Expected::{DeniedSince, Works};

fn attempt(
    what: impl Into<String>,
    expected: Expected,
    run: impl FnOnce() -> io::Result<()> + Send + 'static,
) -> Attempt {
    Attempt {
        what: what.into(),
        expected,
        run: Box::new(run),
    }
}

pub(super) fn all(settings: &Settings, test: &SelfTest, arena: &Arena) -> io::Result<Vec<Attempt>> {
    let mut all = forbidden_reads(arena);
    all.extend(forbidden_writes(settings, test, arena));
    // Some containers have none.
    if Path::new("/bin/sh").exists() {
        all.push(attempt("start /bin/sh", Expected::DENIED, || {
            Command::new("/bin/sh")
                .args(["-c", "exit 0"])
                .status()
                .map(drop)
        }));
    }
    all.extend(network(settings, arena)?);
    all.push(signal(test.helper)?);
    all.extend(needed(settings, test));
    Ok(all)
}

fn forbidden_reads(arena: &Arena) -> Vec<Attempt> {
    let mut files = vec![
        ("a file beside a folder of ours", arena.secret()),
        ("the same through a link", arena.link()),
        (
            "the same by the way of ..",
            arena.state().join("learnt/../../secret"),
        ),
        ("/etc/passwd", PathBuf::from("/etc/passwd")),
    ];
    let home = arena.home_file().map(Path::to_owned);
    files.extend(home.map(|file| ("a file in the home folder", file)));
    let mut all: Vec<_> = files
        .into_iter()
        .map(|(what, file)| {
            attempt(format!("read {what}"), Expected::DENIED, move || {
                read(&file)
            })
        })
        .collect();
    let folder = arena.folder().to_owned();
    all.push(attempt("list a folder", Expected::DENIED, move || {
        fs::read_dir(folder).map(drop)
    }));
    all
}

fn forbidden_writes(settings: &Settings, test: &SelfTest, arena: &Arena) -> Vec<Attempt> {
    let mut folders = vec![
        ("the folder for temporary files", std::env::temp_dir()),
        ("state.path, beside what is learnt", arena.state()),
    ];
    let mut files = Vec::new();
    if let Some(model) = settings.models.first() {
        folders.push(("the model's folder", parent(&model.path).to_owned()));
        files.push(("the model", model.path.clone()));
    }
    if let Some(keys) = &settings.auth.keys_file {
        folders.push(("the folder of the keys", parent(keys).to_owned()));
        files.push(("the keys file", keys.clone()));
    }
    let mut all = Vec::new();
    for config in &test.config_files {
        folders.push(("the configuration's folder", parent(config).to_owned()));
        files.push(("the configuration", config.clone()));
        let config = config.clone();
        let what = "rename the configuration";
        all.push(attempt(what, Expected::DENIED, move || {
            rename_and_back(&config)
        }));
    }
    all.extend(folders.into_iter().map(|(what, folder)| {
        let what = format!("make a file in {what}");
        attempt(what, Expected::DENIED, move || make(&folder))
    }));
    all.extend(files.into_iter().map(|(what, file)| {
        let what = format!("open {what} for writing");
        attempt(what, Expected::DENIED, move || {
            OpenOptions::new().write(true).open(file).map(drop)
        })
    }));
    all
}

fn network(settings: &Settings, arena: &Arena) -> io::Result<Vec<Attempt>> {
    let listened = arena.port()?;
    let unused = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
    let address = arena.abstract_address();
    let mut all = vec![
        attempt("connect to a TCP port", DeniedSince(4), move || {
            TcpStream::connect(("127.0.0.1", listened)).map(drop)
        }),
        attempt("listen on another TCP port", DeniedSince(4), move || {
            TcpListener::bind(("127.0.0.1", unused)).map(drop)
        }),
        attempt(
            "connect to a Unix socket without a file",
            DeniedSince(6),
            move || UnixStream::connect_addr(&address).map(drop),
        ),
    ];
    let server = &settings.server;
    for listen in server.listen.iter().chain(&server.admin_listen) {
        let address = listen.address;
        let what = format!("listen on {address}");
        all.push(attempt(what, Works, move || bind(address)));
    }
    Ok(all)
}

/// A server may be running on the port: the question is whether the sandbox refuses it.
fn bind(address: SocketAddr) -> io::Result<()> {
    match TcpListener::bind(address) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(()),
        outcome => outcome.map(drop),
    }
}

/// The helper is started before the sandbox is closed, and so stands outside; it ends when it is forgotten.
fn signal(helper: &str) -> io::Result<Attempt> {
    let mut outside = start(helper, Stdio::piped())?;
    Ok(attempt(
        "signal another process",
        DeniedSince(6),
        move || {
            let outcome = outside.kill();
            // Where it was not killed, it ends with its input.
            drop(outside.stdin.take());
            outside.wait()?;
            outcome
        },
    ))
}

fn start(helper: &str, input: Stdio) -> io::Result<Child> {
    Command::new("/proc/self/exe")
        .arg(helper)
        .env_clear()
        .stdin(input)
        .stdout(Stdio::null())
        .spawn()
}

fn needed(settings: &Settings, test: &SelfTest) -> Vec<Attempt> {
    let mut files: Vec<(&str, PathBuf)> = vec![
        ("/proc/self/status", "/proc/self/status".into()),
        ("the program itself", "/proc/self/exe".into()),
    ];
    let config = test.config_files.iter().cloned();
    files.extend(config.map(|file| ("the configuration", file)));
    for model in &settings.models {
        files.push(("a model", model.path.clone()));
        let adapters = model.adapters.iter();
        files.extend(adapters.map(|adapter| ("an adapter", adapter.path.clone())));
    }
    let server = &settings.server;
    let named = [
        ("the keys file", &settings.auth.keys_file),
        ("the certificate", &server.tls_cert),
        ("the certificate's key", &server.tls_key),
        ("clients' authorities", &server.tls_client_ca),
    ];
    files.extend(
        named
            .into_iter()
            .filter_map(|(what, file)| Some((what, file.clone()?))),
    );
    let mut all: Vec<_> = files
        .into_iter()
        .map(|(what, file)| attempt(format!("read {what}"), Works, move || read(&file)))
        .collect();
    let learnt = settings.state.learnt();
    all.extend(learnt.map(|folder| {
        attempt("write and replace what is learnt", Works, move || {
            let file = folder.join("models.json");
            for text in ["{}", "{ }"] {
                crate::replace_file::replace_file(&file, text, 0o600)?;
            }
            fs::remove_file(file)
        })
    }));
    let helper = test.helper;
    all.push(attempt("start a helper", Works, move || {
        let status = start(helper, Stdio::null())?.wait()?;
        let ended_well = status.success();
        let failed = || io::Error::other(format!("it ended with {status}"));
        ended_well.then_some(()).ok_or_else(failed)
    }));
    all
}

fn read(file: &Path) -> io::Result<()> {
    File::open(file)?.read(&mut [0; 4]).map(drop)
}

fn make(folder: &Path) -> io::Result<()> {
    let file = folder.join(test_name() + ".made");
    File::create_new(&file)?;
    fs::remove_file(file)
}

fn rename_and_back(file: &Path) -> io::Result<()> {
    let other = crate::replace_file::beside(file, &test_name());
    fs::rename(file, &other)?;
    fs::rename(other, file)
}
