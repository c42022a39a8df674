//! The child process: compiles what the server sends, within limits that it sets for itself.

use std::fs;
use std::io::{self, BufReader};
use std::thread;

use rlimit::Resource;

use crate::engine::{return_freed, status_bytes};

use super::super::GrammarError;
use super::super::compile::{Compiler, STACK};
use super::frame::{TrialVerdict, read_request};

/// Bytes of memory for one grammar, in addition to what the process has at its start.
pub const MEMORY: u64 = 96 << 20;
/// Processor time for one grammar, in whole seconds because `RLIMIT_CPU` counts in those.
const SECONDS: u64 = 1;

/// Compiles the grammars that come on standard input, until that ends.
///
/// # Errors
/// When the system refuses a thread or a limit, or the input is not a server's.
pub fn serve() -> io::Result<()> {
    let compiling = thread::Builder::new()
        .stack_size(STACK)
        .spawn(compile_all)?;
    compiling
        .join()
        .unwrap_or_else(|_| Err(io::Error::other("a grammar crashed its compiler")))
}

fn compile_all() -> io::Result<()> {
    // Where memory runs out, the system should kill this process before the server.
    let _ = fs::write("/proc/self/oom_score_adj", "1000");
    Resource::CORE.set(0, 0)?;
    Resource::FSIZE.set(0, 0)?;
    // Where the system does not say how much memory is in use, the limit would be a guess.
    if let Some(taken) = status_bytes("VmData") {
        let most = taken + MEMORY;
        Resource::DATA.set(most, most)?;
    }
    let mut input = BufReader::new(io::stdin());
    let mut output = io::stdout();
    let compiler = Compiler::for_bytes().map_err(io::Error::other)?;
    while let Some(text) = read_request(&mut input)? {
        allow_more_time()?;
        let before = status_bytes("RssAnon").unwrap_or(0);
        match compiler.compile(&text) {
            Ok(grammar) => {
                let after = status_bytes("RssAnon").unwrap_or(0);
                drop(grammar);
                let grown = usize::try_from(after.saturating_sub(before)).unwrap_or(usize::MAX);
                TrialVerdict::write_sound(&mut output, grown)?;
            }
            Err(GrammarError::Refused(why)) => TrialVerdict::write_refused(&mut output, &why)?,
            Err(other) => TrialVerdict::write_refused(&mut output, &other.to_string())?,
        }
        return_freed();
    }
    Ok(())
}

/// Allows the processor time for one more grammar. The system ends the process when it takes longer, also
/// when nobody waits for the result any more.
fn allow_more_time() -> io::Result<()> {
    let Some(taken) = cpu_seconds() else {
        return Ok(());
    };
    let (_, hard) = Resource::CPU.get()?;
    // The second under way counts as a whole one.
    Resource::CPU.set((taken + SECONDS + 1).min(hard), hard)
}

/// Returns the processor time that this process has used, in whole seconds: the fields `utime` and `stime`
/// of proc(5), which count in hundredths.
fn cpu_seconds() -> Option<u64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The program's name, before these fields, may contain spaces.
    let (_, fields) = stat.rsplit_once(')')?;
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: Option<u64> = times.map(|ticks| ticks.parse::<u64>().ok()).sum();
    Some(ticks? / 100)
}
