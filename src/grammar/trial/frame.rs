//! The messages to the child and back. Numbers are little-endian, 32 bits.

use std::io::{self, Read, Write};

/// Bytes of the longest grammar that a child reads. A server sends shorter ones
/// ([`super::super::LONGEST_GRAMMAR`]), so a larger number is no server's.
const LONGEST_TEXT: usize = 16 << 20;
/// Bytes of the longest message that a verdict carries.
const LONGEST_MESSAGE: usize = 64 << 10;

const REQUEST_HEAD: usize = 4;
pub(super) const VERDICT_HEAD: usize = 9;
const SOUND: u8 = b'+';
const REFUSED: u8 = b'-';

/// Returns the bytes that precede the text of a grammar.
pub(super) fn request_head(text: &str) -> [u8; REQUEST_HEAD] {
    length(text.len()).to_le_bytes()
}

/// Reads the next grammar; `None` where the input ends.
pub(super) fn read_request(input: &mut impl Read) -> io::Result<Option<String>> {
    let mut head = [0; REQUEST_HEAD];
    match input.read_exact(&mut head) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let length = number(&head) as usize;
    if length > LONGEST_TEXT {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut text = vec![0; length];
    input.read_exact(&mut text)?;
    let text = String::from_utf8(text).map_err(|_| io::ErrorKind::InvalidData)?;
    Ok(Some(text))
}

/// The head that precedes a verdict's message.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TrialVerdict {
    pub(super) is_sound: bool,
    /// Memory that the compiled grammar holds, in bytes.
    pub(super) memory: usize,
    pub(super) message_length: usize,
}

impl TrialVerdict {
    pub(super) fn read(head: [u8; VERDICT_HEAD]) -> io::Result<Self> {
        let is_sound = match head[0] {
            SOUND => true,
            REFUSED => false,
            _ => return Err(io::ErrorKind::InvalidData.into()),
        };
        let [kilobytes, length] = [&head[1..5], &head[5..]].map(number);
        let message_length = length as usize;
        if message_length > LONGEST_MESSAGE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self {
            is_sound,
            memory: kilobytes as usize * 1024,
            message_length,
        })
    }

    /// Writes that a grammar can be followed, and takes `memory` bytes.
    pub(super) fn write_sound(output: &mut impl Write, memory: usize) -> io::Result<()> {
        Self::write(output, SOUND, memory, "")
    }

    pub(super) fn write_refused(output: &mut impl Write, message: &str) -> io::Result<()> {
        let mut ends = (0..=message.len().min(LONGEST_MESSAGE)).rev();
        let start = ends.find_map(|end| message.get(..end));
        Self::write(output, REFUSED, 0, start.unwrap_or_default())
    }

    fn write(output: &mut impl Write, kind: u8, memory: usize, message: &str) -> io::Result<()> {
        let mut bytes = vec![kind];
        bytes.extend(length(memory.div_ceil(1024)).to_le_bytes());
        bytes.extend(length(message.len()).to_le_bytes());
        bytes.extend(message.as_bytes());
        output.write_all(&bytes)?;
        output.flush()
    }
}

fn length(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn number(bytes: &[u8]) -> u32 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u32::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = "start: \"é\"".to_owned();
        let bytes = [&request_head(&text)[..], text.as_bytes()].concat();
        let mut input = bytes.as_slice();
        let read = read_request(&mut input).expect("sound");
        assert_eq!(read, Some(text));
        assert_eq!(read_request(&mut input).expect("sound"), None);
        assert!(read_request(&mut &bytes[..bytes.len() - 1]).is_err());

        let mut written = Vec::new();
        TrialVerdict::write_refused(&mut written, "no").expect("written");
        let head = written[..VERDICT_HEAD].try_into().expect("a head");
        let verdict = TrialVerdict {
            is_sound: false,
            memory: 0,
            message_length: 2,
        };
        assert_eq!(TrialVerdict::read(head).expect("sound"), verdict);
        written.clear();
        TrialVerdict::write_sound(&mut written, 5000).expect("written");
        let head = written[..VERDICT_HEAD].try_into().expect("a head");
        let verdict = TrialVerdict {
            is_sound: true,
            memory: 5120,
            message_length: 0,
        };
        assert_eq!(TrialVerdict::read(head).expect("sound"), verdict);
    }
}
