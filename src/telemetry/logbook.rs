//! How often the server started and how it ended, handed on from one process to the next.
//!
//! A process that is killed cannot count its own end. So every process writes down that it runs, and
//! crosses that out when it ends in order: one that finds such a line of an earlier process knows that
//! it did not. The book lies in the directory that systemd keeps for the service
//! (`$RUNTIME_DIRECTORY`, in memory). Without one nothing is known, and there are no series.

mod history;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use prometheus::{IntCounter, IntCounterVec, Opts};

use super::Metrics;
use super::metrics::MetricsError;
use history::{History, ProcessEnd, SuddenEnd};

const BOOK: &str = "process.json";
const NEXT_BOOK: &str = "process.json.new";
/// What the unit's `ExecStopPost=` writes about the end of a process.
const LAST_END: &str = "last-end";
/// Far more than we or systemd write.
const MOST_BYTES: u64 = 4096;

/// The file in which starts and ends of the process are recorded.
#[derive(Debug)]
pub struct Logbook {
    directory: PathBuf,
    history: History,
}

impl Logbook {
    /// Writes down that this process runs, and says so if the one before did not end by itself. No
    /// book is no reason not to serve: then there are no series, and a line of the log.
    #[must_use]
    pub fn open() -> Option<Self> {
        let directories = std::env::var_os("RUNTIME_DIRECTORY")?;
        let directory = std::env::split_paths(&directories).next()?;
        Self::open_in(directory, &boot(), std::process::id())
    }

    fn open_in(directory: PathBuf, boot: &str, pid: u32) -> Option<Self> {
        let words = read(&directory.join(LAST_END)).ok().flatten();
        let mut history = kept(&directory.join(BOOK), boot);
        let sudden = history.start(pid, words.as_deref());
        let logbook = Self { directory, history };
        if let Err(error) = logbook.write() {
            let path = logbook.directory.display();
            tracing::warn!("restarts are not counted: cannot write to {path}: {error}");
            return None;
        }
        // It is about the end that was just counted. If it stays, the next one overwrites it.
        let _ = fs::remove_file(logbook.directory.join(LAST_END));
        if let Some(sudden) = sudden {
            report(&sudden, words.as_deref());
        }
        Some(logbook)
    }

    /// Shows what is written.
    ///
    /// # Errors
    /// [`MetricsError`] on a defect of the names below.
    pub fn show(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        let starts = IntCounter::with_opts(options(
            "process_starts_total",
            "Starts of the server since the machine was started, this one included.",
        ))?;
        starts.inc_by(self.history.starts());
        metrics.register(Box::new(starts))?;
        let ends = IntCounterVec::new(
            options(
                "process_ends_total",
                "Ends of the server since the machine was started, by reason: stopped (asked to), failed (the log says why), killed (SIGKILL: out of memory, or by somebody), crashed (SIGSEGV, SIGABRT and the like), hung (systemd's watchdog ended it), unknown.",
            ),
            &["reason"],
        )?;
        for end in ProcessEnd::ALL {
            let count = self.history.ends(end);
            ends.with_label_values(&[end.as_str()]).inc_by(count);
        }
        metrics.register(Box::new(ends))
    }

    /// Writes down that this process ends by itself: well, or because it cannot go on.
    pub fn close(mut self, well: bool) {
        self.history.end(if well {
            ProcessEnd::Stopped
        } else {
            ProcessEnd::Failed
        });
        if let Err(error) = self.write() {
            let path = self.directory.display();
            tracing::warn!("this end will count as a sudden one: cannot write to {path}: {error}");
        }
    }

    /// In one step, so that nobody ever finds half a book. It survives the process without being
    /// synchronised to a disk, and nothing is to survive the machine.
    fn write(&self) -> io::Result<()> {
        let next = self.directory.join(NEXT_BOOK);
        fs::write(&next, self.history.text()?)?;
        fs::rename(next, self.directory.join(BOOK))
    }
}

/// The history that is there, or a new one.
fn kept(path: &Path, boot: &str) -> History {
    read(path)
        .and_then(|text| Ok(History::read(text.as_deref(), boot)?))
        .unwrap_or_else(|error| {
            let path = path.display();
            tracing::warn!("{path} cannot be read, restarts are counted from here: {error}");
            History::new(boot)
        })
}

/// Returns the text of a file; `None` if there is no file.
fn read(path: &Path) -> io::Result<Option<String>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text)?;
    Ok(Some(text))
}

/// Which start of the machine this is, wherever the directory lies: in a container it may outlive it.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map_or_else(|_| String::new(), |text| text.trim().to_owned())
}

fn report(sudden: &SuddenEnd, words: Option<&str>) {
    let remedy = match sudden.end {
        // Its last line was lost, and it ended well.
        ProcessEnd::Stopped => return,
        ProcessEnd::Failed => "its last lines say why",
        ProcessEnd::Killed => {
            "it was killed, by the system if memory ran out (`journalctl -k` says so), or by somebody"
        }
        ProcessEnd::Crashed => {
            "it crashed, which is a defect: please report it with the lines before this"
        }
        ProcessEnd::Hung => {
            "it hung, and systemd's watchdog ended it, which is a defect: please report it with the lines before this"
        }
        ProcessEnd::Unknown => "nobody says why; `journalctl -k` knows whether memory ran out",
    };
    let systemd = words.map(str::trim);
    tracing::error!(
        pid = sudden.pid,
        systemd,
        "the process before this one did not end by itself: {remedy}"
    );
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(name, help).namespace("edgellm")
}

#[cfg(test)]
mod tests {
    use super::*;

    struct LogbookFolder(tempfile::TempDir);

    impl LogbookFolder {
        fn new() -> Self {
            Self(tempfile::tempdir().expect("a folder"))
        }

        fn open(&self, pid: u32) -> Option<Logbook> {
            Logbook::open_in(self.0.path().to_owned(), "a-boot", pid)
        }

        fn put(&self, name: &str, text: &[u8]) {
            fs::write(self.0.path().join(name), text).expect("written");
        }
    }

    fn shown(book: &Logbook) -> String {
        let metrics = Metrics::new().expect("a sound table");
        book.show(&metrics).expect("sound names");
        let (text, _) = metrics.encode().expect("encodable");
        String::from_utf8(text).expect("text")
    }

    #[test]
    fn an_end_is_counted_by_the_next_process_and_known_to_be_0_before() {
        let place = LogbookFolder::new();
        let first = place.open(1).expect("a book");
        assert!(shown(&first).contains("edgellm_process_starts_total 1\n"));
        assert!(shown(&first).contains("edgellm_process_ends_total{reason=\"killed\"} 0\n"));
        drop(first);
        place.put(LAST_END, b"signal killed KILL\n");
        let second = place.open(2).expect("a book");
        assert!(shown(&second).contains("edgellm_process_starts_total 2\n"));
        assert!(shown(&second).contains("edgellm_process_ends_total{reason=\"killed\"} 1\n"));
        second.close(true);
        let third = place.open(3).expect("a book");
        assert!(shown(&third).contains("edgellm_process_ends_total{reason=\"stopped\"} 1\n"));
    }

    #[test]
    fn what_systemd_said_once_is_not_believed_twice() {
        let place = LogbookFolder::new();
        place.open(1).expect("a book");
        place.put(LAST_END, b"signal killed KILL\n");
        place.open(2).expect("a book");
        let third = place.open(3).expect("a book");
        assert!(shown(&third).contains("edgellm_process_ends_total{reason=\"killed\"} 1\n"));
        assert!(shown(&third).contains("edgellm_process_ends_total{reason=\"unknown\"} 1\n"));
    }

    #[test]
    fn a_garbled_book_is_begun_anew() {
        for garbled in [&b"{\"boot\""[..], &[0xff; 64], &[b' '; 8192]] {
            let place = LogbookFolder::new();
            place.put(BOOK, garbled);
            let book = place.open(1).expect("a new book");
            assert!(shown(&book).contains("edgellm_process_starts_total 1\n"));
        }
    }

    #[test]
    fn without_a_place_to_write_nothing_is_counted_and_nothing_fails() {
        let nowhere = Path::new("/nowhere/at/all").to_owned();
        assert!(Logbook::open_in(nowhere, "a-boot", 1).is_none());
        let place = LogbookFolder::new();
        fs::create_dir(place.0.path().join(NEXT_BOOK)).expect("in the way");
        assert!(place.open(1).is_none());
    }
}
