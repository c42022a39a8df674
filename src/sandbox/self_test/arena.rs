//! What the test makes before the sandbox is closed, to be found in reach or out of reach afterwards.

use std::fs;
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};

/// Removed when it is dropped, by a thread that is not restricted.
pub(super) struct Arena {
    folder: PathBuf,
    home_file: Option<PathBuf>,
    listener: TcpListener,
    abstract_address: SocketAddr,
    _abstract_listener: UnixListener,
}

/// Of files of the test wherever they are.
pub(super) fn test_name() -> String {
    format!(".edgellm-sandbox-self-test-{}", std::process::id())
}

impl Arena {
    pub(super) fn make() -> io::Result<Self> {
        let folder = std::env::temp_dir().canonicalize()?.join(test_name());
        fs::create_dir(&folder)?;
        let abstract_address = SocketAddr::from_abstract_name(test_name())?;
        let mut arena = Self {
            folder,
            home_file: None,
            listener: TcpListener::bind(("127.0.0.1", 0))?,
            _abstract_listener: UnixListener::bind_addr(&abstract_address)?,
            abstract_address,
        };
        fs::create_dir(arena.state())?;
        fs::create_dir(arena.state().join("learnt"))?;
        fs::write(arena.secret(), "secret")?;
        symlink("../../secret", arena.link())?;
        let home = std::env::home_dir().map(|home| home.join(test_name()));
        arena.home_file = home.filter(|file| fs::write(file, "secret").is_ok());
        Ok(arena)
    }

    /// Not to be listed.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// For `state.path`; what is learnt is written below it.
    pub(super) fn state(&self) -> PathBuf {
        self.folder.join("state")
    }

    /// A file beside a folder that may be written into.
    pub(super) fn secret(&self) -> PathBuf {
        self.folder.join("secret")
    }

    /// A link to it out of that folder.
    pub(super) fn link(&self) -> PathBuf {
        self.state().join("learnt/link")
    }

    /// A file in the home folder, if there is one that can be written into.
    pub(super) fn home_file(&self) -> Option<&Path> {
        self.home_file.as_deref()
    }

    /// Where somebody listens.
    pub(super) fn port(&self) -> io::Result<u16> {
        Ok(self.listener.local_addr()?.port())
    }

    /// Where somebody listens without a file.
    pub(super) fn abstract_address(&self) -> SocketAddr {
        self.abstract_address.clone()
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        if let Some(file) = &self.home_file {
            let _ = fs::remove_file(file);
        }
    }
}
