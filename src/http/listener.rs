//! The sockets that it listens on: bound by this process, or handed over by systemd.
//!
//! A socket of systemd's outlives the process. Clients that connect during a restart wait in its backlog and are served by
//! the next process, so a restart refuses nobody.

use std::fmt;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll, ready};

use listenfd::ListenFd;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::config::ServerSettings;

use super::peer::Peer;

/// The name that systemd's sockets for operators have (`FileDescriptorName=`).
const OPERATORS_NAME: &str = "admin";
/// Its owner and its group may connect to the Unix socket.
const SOCKET_MODE: u32 = 0o660;

/// A socket cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place}: {source}{}", remedy(.source, .place))]
pub struct ListenError {
    place: String,
    source: io::Error,
}

fn remedy(error: &io::Error, place: &str) -> &'static str {
    let is_path = place.contains('/');
    match error.kind() {
        io::ErrorKind::AddrInUse if is_path => {
            "; another program uses this socket: stop it, or choose another server.unix_socket"
        }
        io::ErrorKind::AlreadyExists => {
            "; there is a file of this name that is no socket: remove it, or choose another server.unix_socket"
        }
        io::ErrorKind::NotFound if is_path => {
            "; the folder of server.unix_socket does not exist: make it"
        }
        io::ErrorKind::PermissionDenied if is_path => {
            "; this user may not write into the folder of server.unix_socket"
        }
        io::ErrorKind::AddrInUse => {
            "; another program uses this port: stop it, or choose one with --listen or server.listen"
        }
        io::ErrorKind::PermissionDenied => "; ports below 1024 need rights: choose a higher one",
        io::ErrorKind::AddrNotAvailable => "; this machine does not have that address",
        _ => "",
    }
}

/// Sockets that systemd handed over, each with its name.
#[derive(Debug, Default)]
pub struct InheritedSockets(Vec<(String, InheritedSocket)>);

#[derive(Debug)]
enum InheritedSocket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

impl InheritedSockets {
    /// Takes those that the environment tells of. To be called once, before there are threads, because it takes
    /// the variables out of the environment.
    ///
    /// # Errors
    /// When one is neither a TCP nor a Unix stream socket.
    pub fn take() -> io::Result<Self> {
        // systemd always says whom it means.
        if std::env::var_os("LISTEN_PID").is_none() {
            return Ok(Self::default());
        }
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let mut handed_over = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..handed_over.len() {
            let name = names.next().unwrap_or_default().to_owned();
            let socket = if let Ok(Some(socket)) = handed_over.take_unix_listener(index) {
                InheritedSocket::Unix(socket)
            } else {
                let Some(socket) = handed_over.take_tcp_listener(index)? else {
                    continue;
                };
                InheritedSocket::Tcp(socket)
            };
            sockets.push((name, socket));
        }
        Ok(Self(sockets))
    }
}

/// A socket that is listened on.
#[derive(Debug)]
pub(super) struct Listener {
    socket: Socket,
    /// Whether its connections speak TLS.
    pub(super) is_tls: bool,
    /// Whether it stays when this process ends.
    pub(super) is_inherited: bool,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        /// Where this process made it.
        _file: Option<SocketFile>,
    },
}

/// A connection that was just accepted.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Accepted {
    pub(super) fn peer(&self) -> Peer {
        match self {
            Self::Tcp(_, address) => Peer::Address(*address),
            Self::Unix(_) => Peer::UnixSocket,
        }
    }
}

/// All sockets, by whom they are for.
#[derive(Debug)]
pub struct Listeners {
    pub(super) clients: Vec<Listener>,
    /// Empty where operators come with the clients.
    pub(super) operators: Vec<Listener>,
}

impl Listeners {
    /// Binds what the settings say. What systemd handed over stands in place of `server.listen` and
    /// `server.admin_listen`.
    ///
    /// # Errors
    /// Such as an address being in use.
    pub async fn open(
        settings: &ServerSettings,
        inherited: InheritedSockets,
    ) -> Result<Self, ListenError> {
        let has_certificate = settings.tls_cert.is_some();
        let (mut clients, mut operators) = (Vec::new(), Vec::new());
        for (name, socket) in inherited.0 {
            let listener = Listener::inherited(socket, has_certificate)?;
            if name == OPERATORS_NAME {
                operators.push(listener);
            } else {
                clients.push(listener);
            }
        }
        for (listeners, addresses) in [
            (&mut clients, &settings.listen),
            (&mut operators, &settings.admin_listen),
        ] {
            if !listeners.is_empty() {
                continue;
            }
            for listen in addresses {
                let is_tls = has_certificate && !listen.is_plain;
                listeners.push(Listener::bind(listen.address, is_tls).await?);
            }
        }
        if let Some(path) = &settings.unix_socket {
            clients.push(Listener::bind_unix(path).await?);
        }
        Ok(Self { clients, operators })
    }

    /// Every one of them, those for clients first.
    pub fn all(&self) -> impl Iterator<Item = String> {
        let all = self.clients.iter().chain(&self.operators);
        all.map(Listener::to_string)
    }

    /// Whether one of them speaks TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        let mut all = self.clients.iter().chain(&self.operators);
        all.any(|listener| listener.is_tls)
    }

    /// The addresses that others than this machine reach without a certificate of theirs.
    pub fn open_addresses(&self, tls_asks_for_certificates: bool) -> Vec<SocketAddr> {
        let all = self.clients.iter().chain(&self.operators);
        let open = all.filter(|listener| !(listener.is_tls && tls_asks_for_certificates));
        let addresses = open.filter_map(Listener::address);
        addresses
            .filter(|address| !address.ip().to_canonical().is_loopback())
            .collect()
    }
}

impl Listener {
    async fn bind(address: SocketAddr, is_tls: bool) -> Result<Self, ListenError> {
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| ListenError {
            place: address.to_string(),
            source,
        })?;
        Ok(Self {
            socket: Socket::Tcp(listener),
            is_tls,
            is_inherited: false,
        })
    }

    async fn bind_unix(path: &Path) -> Result<Self, ListenError> {
        let bound = SocketFile::bind(path).await.map_err(|source| ListenError {
            place: path.display().to_string(),
            source,
        });
        let (listener, file) = bound?;
        Ok(Self {
            socket: Socket::Unix {
                listener,
                _file: Some(file),
            },
            is_tls: false,
            is_inherited: false,
        })
    }

    fn inherited(socket: InheritedSocket, is_tls: bool) -> Result<Self, ListenError> {
        let is_listening = match &socket {
            InheritedSocket::Tcp(socket) => SockRef::from(socket).is_listener(),
            InheritedSocket::Unix(socket) => SockRef::from(socket).is_listener(),
        };
        let of_systemd = |source| ListenError {
            place: "a socket of systemd".to_owned(),
            source,
        };
        if !is_listening.map_err(of_systemd)? {
            return Err(of_systemd(io::Error::other(
                "nobody listens on it (ListenStream= makes one on which somebody does)",
            )));
        }
        let taken = match socket {
            InheritedSocket::Tcp(socket) => socket
                .set_nonblocking(true)
                .and_then(|()| TcpListener::from_std(socket))
                .map(|listener| (Socket::Tcp(listener), is_tls)),
            InheritedSocket::Unix(socket) => socket
                .set_nonblocking(true)
                .and_then(|()| UnixListener::from_std(socket))
                .map(|listener| {
                    let socket = Socket::Unix {
                        listener,
                        _file: None,
                    };
                    (socket, false)
                }),
        };
        let (socket, is_tls) = taken.map_err(of_systemd)?;
        Ok(Self {
            socket,
            is_tls,
            is_inherited: true,
        })
    }

    pub(super) fn poll_accept(&self, context: &mut Context<'_>) -> Poll<io::Result<Accepted>> {
        Poll::Ready(Ok(match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = ready!(listener.poll_accept(context))?;
                Accepted::Tcp(stream, address)
            }
            Socket::Unix { listener, .. } => {
                Accepted::Unix(ready!(listener.poll_accept(context))?.0)
            }
        }))
    }

    fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix { .. } => None,
        }
    }
}

/// As a client would write it.
impl fmt::Display for Listener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        match &self.socket {
            Socket::Tcp(listener) => match listener.local_addr() {
                Ok(address) => write!(out, "{scheme}://{address}"),
                Err(error) => write!(out, "{scheme}://? ({error})"),
            },
            Socket::Unix { listener, .. } => {
                let address = listener.local_addr().ok();
                let path = address.as_ref().and_then(|address| address.as_pathname());
                write!(out, "unix:{}", path.unwrap_or(Path::new("?")).display())
            }
        }
    }
}

/// The file of a Unix socket, which goes when the socket does.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Somebody may have put another file there since.
    inode: u64,
}

impl SocketFile {
    async fn bind(path: &Path) -> io::Result<(UnixListener, Self)> {
        let listener = match UnixListener::bind(path) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                remove_left_over(path).await?;
                UnixListener::bind(path)?
            }
            bound => bound?,
        };
        fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
        let inode = fs::metadata(path)?.ino();
        let file = Self {
            path: path.to_owned(),
            inode,
        };
        Ok((listener, file))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| metadata.ino() == self.inode) {
            // The next process finds that nobody answers there, and removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes the socket of a process that is gone.
///
/// # Errors
/// When a process answers there, or it is no socket.
async fn remove_left_over(path: &Path) -> io::Result<()> {
    if !fs::symlink_metadata(path)?.file_type().is_socket() {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    // It does not wait for one that takes no connections because its backlog is full.
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_that_was_left_over_is_replaced_and_one_in_use_is_not() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("edgellm.sock");
        // As a process leaves it that is killed.
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let listener = Listener::bind_unix(&path).await.expect("bound again");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, SOCKET_MODE);
        let error = Listener::bind_unix(&path)
            .await
            .expect_err("in use")
            .to_string();
        assert!(
            error.contains("another program uses this socket"),
            "{error}"
        );
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn what_is_no_socket_is_left_alone() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("notes.txt");
        fs::write(&path, "keep me").expect("written");
        let error = Listener::bind_unix(&path)
            .await
            .expect_err("a file")
            .to_string();
        assert!(error.contains("no socket"), "{error}");
        assert_eq!(fs::read_to_string(&path).expect("there"), "keep me");
        let nowhere = directory.path().join("none/edgellm.sock");
        let error = Listener::bind_unix(&nowhere).await.expect_err("no folder");
        assert!(error.to_string().contains("does not exist: make it"));
    }

    #[tokio::test]
    async fn a_socket_that_another_process_put_there_since_stays() {
        let directory = tempfile::tempdir().expect("a folder");
        let path = directory.path().join("edgellm.sock");
        let ours = Listener::bind_unix(&path).await.expect("bound");
        fs::remove_file(&path).expect("removed");
        let theirs = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }
}
