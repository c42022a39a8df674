//! What the server needs of the machine, decided from its settings and what is known of its surroundings.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::config::Settings;

use super::Surroundings;

/// What may be done in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Access {
    /// Read files and list folders.
    Read,
    /// Read, and start programs.
    Execute,
    /// Read, and write what is there.
    Write,
    /// Read and write, make files and folders, remove files.
    Keep,
    /// Make sockets, and remove them.
    Sockets,
}

/// Something on the disk. Where a folder is named, everything below it is meant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    /// A file by its name, which may become another file, or a link that leads elsewhere: the folders that the
    /// name leads through.
    Named(PathBuf),
    /// The same for a GGUF, with its other parts where it was split.
    Model(PathBuf),
    /// A folder, and whatever its GGUFs lead to.
    Models(PathBuf),
    /// A folder.
    Folder(PathBuf),
    /// A folder that is made if there is none.
    OwnFolder(PathBuf),
    /// Just this file, as long as nothing takes its name. For what is never replaced, or read again in vain.
    File(PathBuf),
}

impl Place {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Named(path)
            | Self::Model(path)
            | Self::Models(path)
            | Self::Folder(path)
            | Self::OwnFolder(path)
            | Self::File(path) => path,
        }
    }
}

/// A place, and what it is needed for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Need {
    pub(super) place: Place,
    pub(super) access: Access,
    /// The setting that names the place; `None` for what not every system has.
    pub(super) setting: Option<&'static str>,
}

/// Everything that the process may still do once the sandbox is closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    pub(super) places: BTreeSet<Need>,
    /// TCP ports to listen on; 0 is one that the system chooses.
    pub(super) ports: BTreeSet<u16>,
    /// Whether it must reach abstract Unix sockets of others.
    pub(super) abstract_sockets: bool,
}

/// What libc and we read to find libraries, names and the time zone. `ldconfig` replaces the first one, and then programs find
/// their libraries in the usual folders. All of `/etc` would hold other programs' passwords.
const LIBC_FILES: [&str; 7] = [
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/hostname",
    "/etc/localtime",
    // The domains in which this machine may be asked for by its name (`server.allowed_hosts`).
    "/etc/resolv.conf",
];
/// Random numbers where the system call is not there, and the sign of a virtual machine that was copied (aws-lc looks).
const READ_DEVICES: [&str; 3] = ["/dev/urandom", "/dev/random", "/dev/sysgenid"];

const RESOLVERS: [&str; 3] = [
    "/run/systemd/resolve",
    "/run/NetworkManager",
    "/run/resolvconf",
];

pub(super) fn needs(settings: &Settings, surroundings: &Surroundings) -> Needs {
    let listened = settings.server.listen.iter();
    let listened = listened.chain(&settings.server.admin_listen);
    Needs {
        places: of_the_program(surroundings)
            .into_iter()
            .chain(of_sensors(settings, surroundings))
            .chain(of_models(settings))
            .chain(of_the_network(settings))
            .chain(of_what_it_keeps(settings, surroundings))
            .collect(),
        ports: listened.map(|listen| listen.address.port()).collect(),
        abstract_sockets: surroundings.notify_socket_is_abstract,
    }
}

fn need(place: Place, access: Access, setting: Option<&'static str>) -> Need {
    Need {
        place,
        access,
        setting,
    }
}

/// To start itself again, which the helpers do, with its libraries.
fn of_the_program(surroundings: &Surroundings) -> Vec<Need> {
    let mut needs = vec![
        // No other name of the file will do after an update, and no other file in its folder is to be started.
        need(
            Place::File(surroundings.program.clone()),
            Access::Execute,
            None,
        ),
        need(Place::File("/dev/null".into()), Access::Write, None),
    ];
    for library in &surroundings.libraries {
        // An update of libc brings another file.
        let access = if is_loader(library) {
            Access::Execute
        } else {
            Access::Read
        };
        needs.push(need(Place::Named(library.clone()), access, None));
    }
    let kernels = surroundings.kernels_folder.iter();
    needs.extend(kernels.map(|folder| need(Place::Folder(folder.clone()), Access::Read, None)));
    let files = LIBC_FILES.iter().chain(&READ_DEVICES);
    needs.extend(files.map(|file| need(Place::File(file.into()), Access::Read, None)));
    // Nothing reads them again; a folder of a file in somebody's home would be the whole home.
    // Where /etc/resolv.conf leads on most systems, whose programs replace the file there.
    let resolvers = RESOLVERS.iter();
    needs.extend(resolvers.map(|folder| need(Place::Folder(folder.into()), Access::Read, None)));
    let configuration = surroundings.config_files.iter();
    needs.extend(configuration.map(|file| need(Place::File(file.clone()), Access::Read, None)));
    needs
}

/// Whether the kernel starts programs by it.
fn is_loader(library: &Path) -> bool {
    let name = library.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("ld") && name.contains(".so")
}

fn of_sensors(settings: &Settings, surroundings: &Surroundings) -> Vec<Need> {
    let governor = &settings.governor;
    // Helpers make themselves the first that are ended when memory runs out (`/proc/self/oom_score_adj`). Root could
    // write there what changes the system.
    let proc_access = if surroundings.is_root {
        Access::Read
    } else {
        Access::Write
    };
    let mut needs = vec![
        need(Place::Folder("/proc".into()), proc_access, None),
        need(Place::Folder("/sys".into()), Access::Read, None),
    ];
    let named = [
        (Some(&governor.sysfs_root), "governor.sysfs_root"),
        (Some(&governor.procfs_root), "governor.procfs_root"),
        (governor.cgroup_root.as_ref(), "governor.cgroup_root"),
        (governor.rehearsal_dir.as_ref(), "governor.rehearsal_dir"),
    ];
    for (folder, setting) in named {
        let places = folder.map(|folder| Place::Folder(folder.clone()));
        needs.extend(places.map(|place| need(place, Access::Read, Some(setting))));
    }
    needs
}

fn of_models(settings: &Settings) -> Vec<Need> {
    let mut needs = Vec::new();
    for model in &settings.models {
        let place = Place::Model(model.path.clone());
        needs.push(need(place, Access::Read, Some("models.path")));
        for adapter in &model.adapters {
            let place = Place::Model(adapter.path.clone());
            needs.push(need(place, Access::Read, Some("models.adapters")));
        }
    }
    let folder = settings.pool.models_dir.clone().map(Place::Models);
    needs.extend(folder.map(|place| need(place, Access::Read, Some("pool.models_dir"))));
    needs
}

fn of_the_network(settings: &Settings) -> Vec<Need> {
    let server = &settings.server;
    let files = [
        (&server.tls_cert, "server.tls_cert"),
        (&server.tls_key, "server.tls_key"),
        (&server.tls_client_ca, "server.tls_client_ca"),
        // A first key is made before the sandbox is closed, and `edgellm keys` is another process.
        (&settings.auth.keys_file, "auth.keys_file"),
    ];
    let named = files.into_iter().filter_map(|(file, setting)| {
        let place = Place::Named(file.clone()?);
        Some(need(place, Access::Read, Some(setting)))
    });
    let socket = server.unix_socket.as_ref().and_then(|socket| {
        let place = Place::Folder(folder_of(socket)?.to_owned());
        Some(need(place, Access::Sockets, Some("server.unix_socket")))
    });
    named.chain(socket).collect()
}

/// The folder of a name; `None` for one that stands in the root of the file system, which is no folder to give away.
fn folder_of(file: &Path) -> Option<&Path> {
    match file.parent()? {
        here if here.as_os_str().is_empty() => Some(Path::new(".")),
        folder if folder == Path::new("/") => None,
        folder => Some(folder),
    }
}

fn of_what_it_keeps(settings: &Settings, surroundings: &Surroundings) -> Vec<Need> {
    // The keys file may lie beside that folder, and is not to be written.
    let state = settings
        .state
        .learnt()
        .map(|folder| need(Place::OwnFolder(folder), Access::Keep, Some("state.path")));
    let runtime = surroundings.runtime_directory.clone().map(|folder| {
        need(
            Place::Folder(folder),
            Access::Keep,
            Some("RUNTIME_DIRECTORY"),
        )
    });
    state.into_iter().chain(runtime).collect()
}
