//! Sends to systemd from a thread of its own: a send waits while systemd's queue is full, and neither the runtime nor
//! a shutdown is to wait for it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use sd_notify::NotifyState;

use crate::sync::Mutex;

/// Messages that may wait; systemd reads them at once unless it hangs itself.
const MOST_WAITING: usize = 64;
/// How long the end of the process waits for what is still to be sent.
const FLUSH_PATIENCE: Duration = Duration::from_secs(1);
/// Most characters of a status line.
const LONGEST_STATUS: usize = 1000;

enum Order {
    Send(String),
    /// Answer when everything before this is sent.
    Flush(Sender<()>),
}

/// Where messages are sent. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Messages {
    /// `None` sends nothing.
    orders: Option<SyncSender<Order>>,
    /// The status that was sent last.
    status: Arc<Mutex<String>>,
}

impl Messages {
    pub(super) fn to_nobody() -> Self {
        Self {
            orders: None,
            status: Arc::default(),
        }
    }

    /// To the socket of this address.
    pub(super) fn to(socket: OsString) -> Self {
        let (orders, coming) = sync_channel(MOST_WAITING);
        let thread = std::thread::Builder::new().name("systemd".to_owned());
        let orders = match thread.spawn(move || send_all(&socket, &coming)) {
            Ok(_) => Some(orders),
            Err(error) => {
                tracing::error!(%error, "the system gives no thread, so systemd is told nothing");
                None
            }
        };
        Self {
            orders,
            ..Self::to_nobody()
        }
    }

    /// Sends these together. They are lost if systemd takes nothing.
    pub(super) fn send(&self, states: &[NotifyState]) {
        if let Some(orders) = &self.orders {
            let lines: Vec<_> = states.iter().map(ToString::to_string).collect();
            let _ = orders.try_send(Order::Send(lines.join("\n")));
        }
    }

    /// Sends a new status; an old one is not repeated.
    pub(super) fn set_status(&self, status: &str) {
        let status = one_line(status);
        let mut last = self.status.lock();
        if *last != status {
            self.send(&[NotifyState::Status(&status)]);
            *last = status;
        }
    }

    /// Waits until everything is sent, but not for long.
    pub(super) fn flush(&self) {
        if let Some(orders) = &self.orders {
            let (done, is_done) = channel();
            if orders.try_send(Order::Flush(done)).is_ok() {
                let _ = is_done.recv_timeout(FLUSH_PATIENCE);
            }
        }
    }
}

fn send_all(socket: &OsStr, coming: &Receiver<Order>) {
    let mut has_failed = false;
    while let Ok(order) = coming.recv() {
        match order {
            Order::Send(lines) => {
                if let Err(error) = send(socket, &lines)
                    && !std::mem::replace(&mut has_failed, true)
                {
                    tracing::warn!(
                        "systemd cannot be told how the service is ($NOTIFY_SOCKET): {error}"
                    );
                }
            }
            Order::Flush(done) => {
                // Nobody may wait any more.
                let _ = done.send(());
            }
        }
    }
}

/// `sd_notify::notify` does not know addresses that begin with `@`.
fn send(socket: &OsStr, lines: &str) -> io::Result<()> {
    let sender = UnixDatagram::unbound()?;
    sender.connect_addr(&address(socket)?)?;
    sender.send(lines.as_bytes()).map(drop)
}

/// A path, or after `@` a name that is in no file system (unix(7), abstract).
fn address(socket: &OsStr) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = socket.as_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    SocketAddr::from_pathname(socket)
}

/// A line break would begin another message.
fn one_line(text: &str) -> String {
    let spaced = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    spaced.take(LONGEST_STATUS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_one_line_and_no_other_message() {
        let status = one_line("model `a\nMAINPID=1\n`: \r\0");
        assert_eq!(status, "model `a MAINPID=1 `:   ");
        assert_eq!(one_line(&"é".repeat(5000)).chars().count(), LONGEST_STATUS);
    }

    #[test]
    fn nothing_is_sent_twice_and_nobody_waits_for_a_systemd_that_hangs() {
        let (orders, coming) = sync_channel(2);
        let messages = Messages {
            orders: Some(orders),
            status: Arc::default(),
        };
        for status in ["loading", "loading", "serving"] {
            messages.set_status(status);
        }
        // There is no more room.
        messages.send(&[NotifyState::Watchdog]);
        messages.flush();
        drop(messages);
        let sent: Vec<_> = coming
            .iter()
            .map(|order| match order {
                Order::Send(lines) => lines,
                Order::Flush(_) => "flush".to_owned(),
            })
            .collect();
        assert_eq!(sent, ["STATUS=loading", "STATUS=serving"]);
    }
}
