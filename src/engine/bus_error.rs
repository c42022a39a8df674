//! Says what happened when a mapped model file became shorter.
//!
//! Weights are read from a mapping of their file. If somebody truncates or overwrites the file, or its disk
//! fails, the next access to a page that is gone raises SIGBUS, which ends the process without a word. The
//! handler here says first which file it was, and then lets the signal do what it does: the process cannot go
//! on, since llama.cpp's threads wait for each other in the middle of a product.
//!
//! The handler may run at any point of any thread, so it makes system calls and nothing else: no memory is
//! allocated, and no lock taken.

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, Ordering};

const MAPS: &CStr = c"/proc/self/maps";
const UNKNOWN: &[u8] = b"a mapped file";
const BEFORE: &[u8] = b"edgellm: ";
const AFTER: &[u8] = b" was truncated, or can be read no longer, while it was in use; the server ends. \
Replace a model file by renaming a new one over its name, never by writing into it; if nobody did, look \
at the disk (SIGBUS)\n";

/// Has the process say which file it was that could not be read, before SIGBUS ends it.
///
/// # Errors
/// When the system refuses the handler.
pub fn explain_bus_errors() -> std::io::Result<()> {
    // SAFETY: zeros are a valid value of this struct of numbers and pointers.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = explain;
    action.sa_sigaction = handler as libc::sighandler_t;
    // Threads of the standard library have a stack for signals; others, as OpenMP's, use their own.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESETHAND;
    // SAFETY: the handler has the signature that SA_SIGINFO wants, and makes system calls only.
    let code = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut()) };
    if code == 0 {
        Ok(())
    } else {
        Err(std::io::Error::last_os_error())
    }
}

/// Returns to the access that failed, which fails again; by then the signal has its default action
/// (`SA_RESETHAND`).
extern "C" fn explain(_signal: c_int, info: *mut libc::siginfo_t, _context: *mut c_void) {
    if SCRATCH.is_taken.swap(true, Ordering::Relaxed) {
        // Another thread says it.
        return;
    }
    // SAFETY: nobody else passed the line above, or ever will.
    let room = unsafe { &mut *SCRATCH.room.get() };
    // SAFETY: the system passes a record of this signal, which has an address.
    let address = unsafe { (*info).si_addr() }.addr();
    let is_found = find(address, room);
    let name = room.line.name().filter(|_| is_found);
    for part in [BEFORE, name.unwrap_or(UNKNOWN), AFTER] {
        // SAFETY: as many bytes as there are. Where nobody reads them, nothing can be done.
        let _ = unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
}

/// Where the handler reads mappings. A thread's stack for signals has 8 KiB, and registers take a part of them.
struct Scratch {
    is_taken: AtomicBool,
    room: UnsafeCell<Room>,
}

// SAFETY: whoever sets `is_taken`, which is never unset, is the only one to use `room`.
unsafe impl Sync for Scratch {}

static SCRATCH: Scratch = Scratch {
    is_taken: AtomicBool::new(false),
    room: UnsafeCell::new(Room::new()),
};

struct Room {
    buffer: [u8; 4096],
    line: MapLine,
}

impl Room {
    const fn new() -> Self {
        Self {
            buffer: [0; 4096],
            line: MapLine::new(),
        }
    }
}

/// Reads the process's mappings up to the one of this address, whose line is then in the room; returns whether
/// there is one.
fn find(address: usize, Room { buffer, line }: &mut Room) -> bool {
    // SAFETY: a C string.
    let file = unsafe { libc::open(MAPS.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    if file < 0 {
        return false;
    }
    let mut is_found = false;
    while !is_found {
        // SAFETY: there is as much room.
        let read = unsafe { libc::read(file, buffer.as_mut_ptr().cast(), buffer.len()) };
        let Some(read) = usize::try_from(read).ok().filter(|read| *read > 0) else {
            break;
        };
        is_found = buffer[..read].iter().any(|byte| line.push(*byte, address));
    }
    // SAFETY: it is open.
    unsafe { libc::close(file) };
    is_found
}

/// Bytes of a line that are kept: the numbers at its beginning and the longest path.
const LINE: usize = 4096 + 256;

/// A line of `/proc/self/maps`: `start-end rights offset device inode   path`.
struct MapLine {
    bytes: [u8; LINE],
    length: usize,
}

impl MapLine {
    const fn new() -> Self {
        Self {
            bytes: [0; LINE],
            length: 0,
        }
    }

    /// Takes the next byte; returns whether a line is complete that has this address.
    fn push(&mut self, byte: u8, address: usize) -> bool {
        if byte != b'\n' {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = byte;
                self.length += 1;
            }
            return false;
        }
        let is_it = self.contains(address);
        if !is_it {
            self.length = 0;
        }
        is_it
    }

    fn contains(&self, address: usize) -> bool {
        let line = &self.bytes[..self.length];
        let Some((start, rest)) = hexadecimal(line) else {
            return false;
        };
        let Some((end, _)) = rest.strip_prefix(b"-").and_then(hexadecimal) else {
            return false;
        };
        (start..end).contains(&address)
    }

    /// The path, if the mapping has one.
    fn name(&self) -> Option<&[u8]> {
        let line = &self.bytes[..self.length];
        let start = line.iter().position(|byte| *byte == b'/')?;
        line.get(start..)
    }
}

/// Reads a number at the beginning of a line, and what follows it.
fn hexadecimal(text: &[u8]) -> Option<(usize, &[u8])> {
    let digits = text.iter().take_while(|byte| byte.is_ascii_hexdigit());
    let count = digits.count();
    let (digits, rest) = text.split_at_checked(count).filter(|_| count > 0)?;
    let number = digits.iter().fold(0_usize, |number, digit| {
        let digit = char::from(*digit).to_digit(16).unwrap_or_default() as usize;
        (number << 4) | digit
    });
    Some((number, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mapping_of_an_address_is_found_with_its_path() {
        let maps =
            b"7f00-7f10 r--p 00000000 08:01 12 /models/a b.gguf\n7f10-7f20 rw-p 0 00:00 0 \n";
        let name = |address| {
            let mut line = MapLine::new();
            let found = maps.iter().any(|byte| line.push(*byte, address));
            (found, line.name().map(<[u8]>::to_vec))
        };
        assert_eq!(name(0x7f0f), (true, Some(b"/models/a b.gguf".to_vec())));
        assert_eq!(name(0x7f10), (true, None));
        assert!(!name(0x7f20).0);
    }

    #[test]
    fn this_programs_own_code_is_found() {
        let mut room = Room::new();
        assert!(find(explain as *const () as usize, &mut room));
        let program = std::env::current_exe().expect("a path");
        let program = program.as_os_str().as_encoded_bytes();
        assert_eq!(room.line.name(), Some(program));
    }
}
