//! What the logbook says and how it goes on: text and an event to text, without a file or a clock.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum ProcessEnd {
    /// It was asked to, or was stopped before it served.
    Stopped,
    /// It gave up and said why.
    Failed,
    /// By SIGKILL, which is what the system sends when memory runs out.
    Killed,
    /// By a signal that a defect raises, such as SIGSEGV or SIGABRT.
    Crashed,
    /// By systemd, because it did not get on with its work.
    Hung,
    /// Not by itself; nobody says how.
    Unknown,
}

impl ProcessEnd {
    pub(super) const ALL: [Self; 6] = [
        Self::Stopped,
        Self::Failed,
        Self::Killed,
        Self::Crashed,
        Self::Hung,
        Self::Unknown,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Killed => "killed",
            Self::Crashed => "crashed",
            Self::Hung => "hung",
            Self::Unknown => "unknown",
        }
    }

    /// What systemd says of it: `$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS`, as systemd.exec(5) has
    /// them.
    fn told_by_systemd(words: &str) -> Self {
        let mut words = words.split_whitespace();
        if words.next() == Some("watchdog") {
            return Self::Hung;
        }
        match (words.next(), words.next()) {
            // The signals before there is a handler for them, which systemd calls clean as well.
            (Some("exited"), Some("0")) | (Some("killed"), Some("TERM" | "INT" | "HUP")) => {
                Self::Stopped
            }
            (Some("exited"), Some(_)) => Self::Failed,
            (Some("killed"), Some("KILL")) => Self::Killed,
            (Some("killed" | "dumped"), Some(_)) => Self::Crashed,
            _ => Self::Unknown,
        }
    }
}

/// The processes since the machine was started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct History {
    /// Which start of the machine this is about.
    boot: String,
    starts: u64,
    ends: BTreeMap<ProcessEnd, u64>,
    /// The process that has not said yet that it ended.
    running: Option<u32>,
}

/// The end of a process that could not write it down itself.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SuddenEnd {
    pub(super) pid: u32,
    pub(super) end: ProcessEnd,
}

impl History {
    pub(super) fn new(boot: &str) -> Self {
        Self {
            boot: boot.to_owned(),
            starts: 0,
            ends: BTreeMap::new(),
            running: None,
        }
    }

    /// What `text` says; a new history if there is none, or if it is about an earlier start of the
    /// machine: a power cut ends every process, and none of them crashed.
    ///
    /// # Errors
    /// When it is garbled.
    pub(super) fn read(text: Option<&str>, boot: &str) -> Result<Self, serde_json::Error> {
        let told = text.map(serde_json::from_str::<Self>).transpose()?;
        Ok(told
            .filter(|history| history.boot == boot)
            .unwrap_or_else(|| Self::new(boot)))
    }

    /// Process `pid` starts; `words` are what systemd says about the end of the one before.
    pub(super) fn start(&mut self, pid: u32, words: Option<&str>) -> Option<SuddenEnd> {
        let before = self.running.replace(pid);
        self.starts += 1;
        let end = words.map_or(ProcessEnd::Unknown, ProcessEnd::told_by_systemd);
        before.map(|pid| {
            self.count(end);
            SuddenEnd { pid, end }
        })
    }

    /// The process that started last ends by itself.
    pub(super) fn end(&mut self, end: ProcessEnd) {
        self.running = None;
        self.count(end);
    }

    fn count(&mut self, end: ProcessEnd) {
        *self.ends.entry(end).or_default() += 1;
    }

    pub(super) fn starts(&self) -> u64 {
        self.starts
    }

    pub(super) fn ends(&self, end: ProcessEnd) -> u64 {
        self.ends.get(&end).copied().unwrap_or(0)
    }

    pub(super) fn text(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOT: &str = "a-boot";

    fn again(history: &History) -> History {
        let text = history.text().expect("writable");
        History::read(Some(&text), BOOT).expect("readable")
    }

    fn ends(history: &History) -> Vec<(&'static str, u64)> {
        ProcessEnd::ALL
            .iter()
            .map(|end| (end.as_str(), history.ends(*end)))
            .filter(|(_, count)| *count > 0)
            .collect()
    }

    #[test]
    fn the_first_process_has_nobody_before_it() {
        let mut history = History::read(None, BOOT).expect("a new one");
        assert_eq!(history.start(1, None), None);
        assert_eq!((history.starts(), ends(&history)), (1, vec![]));
    }

    #[test]
    fn a_process_that_ended_by_itself_is_told_apart_from_one_that_did_not() {
        let mut history = History::read(None, BOOT).expect("a new one");
        history.start(1, None);
        history.end(ProcessEnd::Stopped);
        let mut history = again(&history);
        assert_eq!(history.start(2, None), None);
        let mut history = again(&history);
        let sudden = history.start(3, None).expect("2 never said that it ended");
        assert_eq!((sudden.pid, sudden.end), (2, ProcessEnd::Unknown));
        history.end(ProcessEnd::Failed);
        let mut history = again(&history);
        // What systemd says about an end that the process has told itself adds nothing.
        assert_eq!(history.start(4, Some("exit-code exited 1")), None);
        assert_eq!(history.starts(), 4);
        let counted = [("stopped", 1), ("failed", 1), ("unknown", 1)];
        assert_eq!(ends(&history), counted);
    }

    #[test]
    fn what_systemd_says_is_the_reason() {
        for (words, end) in [
            ("signal killed KILL", ProcessEnd::Killed),
            ("oom-kill killed KILL", ProcessEnd::Killed),
            ("timeout killed KILL", ProcessEnd::Killed),
            ("signal killed SEGV", ProcessEnd::Crashed),
            ("core-dump dumped ABRT\n", ProcessEnd::Crashed),
            ("watchdog killed ABRT", ProcessEnd::Hung),
            ("watchdog dumped ABRT", ProcessEnd::Hung),
            // It did not end of SIGABRT.
            ("watchdog killed KILL", ProcessEnd::Hung),
            ("exit-code exited 1", ProcessEnd::Failed),
            ("success exited 0", ProcessEnd::Stopped),
            ("success killed TERM", ProcessEnd::Stopped),
            ("resources", ProcessEnd::Unknown),
            ("", ProcessEnd::Unknown),
            ("one two three", ProcessEnd::Unknown),
        ] {
            let mut history = History::read(None, BOOT).expect("a new one");
            history.start(1, None);
            let sudden = history.start(2, Some(words)).expect("an end");
            assert_eq!(sudden.end, end, "{words}");
            assert_eq!(history.ends(end), 1, "{words}");
        }
    }

    #[test]
    fn whoever_ran_when_the_machine_went_off_has_not_crashed() {
        let mut history = History::read(None, "yesterday").expect("a new one");
        history.start(1, None);
        let mut history = again(&history);
        assert_eq!(history.start(1, None), None);
        assert_eq!((history.starts(), ends(&history)), (1, vec![]));
    }

    #[test]
    fn what_is_garbled_is_no_history() {
        let mut history = History::new(BOOT);
        history.start(1, None);
        let text = history.text().expect("writable");
        for end in 0..text.len() {
            assert!(History::read(Some(&text[..end]), BOOT).is_err(), "{end}");
        }
        for wrong in [
            "null",
            "[]",
            "{}",
            "\0\0\0\0",
            r#"{"boot":"a-boot","starts":-1}"#,
        ] {
            assert!(History::read(Some(wrong), BOOT).is_err(), "{wrong}");
        }
    }
}
