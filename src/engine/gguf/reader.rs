//! Reads the bytes of a header within bounds.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;

use super::HeaderError;

/// Bytes that a header may have. The largest vocabularies, of 260,000 tokens, take 20 MB with their merges.
const MOST_HEADER_BYTES: u64 = 256 << 20;
/// Bytes that are read from the file at once.
const BUFFER: usize = 256 << 10;

/// Reads a header from its beginning. No length that the file states is believed before the file was found to
/// have as many bytes left.
pub(super) struct HeaderReader<R> {
    input: BufReader<R>,
    at: u64,
    /// Where the file ends, or where no header may reach any more.
    end: u64,
}

impl<R: Read> HeaderReader<R> {
    pub(super) fn new(input: R, file_bytes: u64) -> Self {
        Self {
            input: BufReader::with_capacity(BUFFER, input),
            at: 0,
            end: file_bytes.min(MOST_HEADER_BYTES),
        }
    }

    /// Returns how many bytes were read.
    pub(super) fn position(&self) -> u64 {
        self.at
    }

    /// Returns the most entries of so many bytes each that can still come.
    pub(super) fn room_for(&self, entry_bytes: u64) -> u64 {
        (self.end - self.at) / entry_bytes
    }

    pub(super) fn bytes(&mut self, length: u64) -> Result<Vec<u8>, HeaderError> {
        let room = self.claim(length)?;
        let mut bytes = vec![0; room];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// Appends so many bytes to `list`.
    pub(super) fn append(&mut self, list: &mut Vec<u8>, length: u64) -> Result<(), HeaderError> {
        let start = list.len();
        let room = self.claim(length)?;
        list.resize(start + room, 0);
        Ok(self.input.read_exact(&mut list[start..])?)
    }

    pub(super) fn skip(&mut self, length: u64) -> Result<(), HeaderError> {
        self.claim(length)?;
        let skipped = io::copy(&mut (&mut self.input).take(length), &mut io::sink())?;
        if skipped == length {
            Ok(())
        } else {
            Err(HeaderError::CutOff)
        }
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        self.claim(N as u64)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, HeaderError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, HeaderError> {
        self.array().map(u64::from_le_bytes)
    }

    /// Reads the length of a text and the text, which may have `most` bytes.
    pub(super) fn text(&mut self, most: u64, what: &'static str) -> Result<Vec<u8>, HeaderError> {
        let length = self.u64()?;
        if length > most && length <= self.room_for(1) {
            return Err(HeaderError::TooLong { what, length, most });
        }
        self.bytes(length)
    }

    /// Counts so many bytes as read, if there are as many.
    fn claim(&mut self, length: u64) -> Result<usize, HeaderError> {
        if length > self.end - self.at {
            return Err(if self.end == MOST_HEADER_BYTES {
                HeaderError::TooLong {
                    what: "its header",
                    length: self.at.saturating_add(length),
                    most: MOST_HEADER_BYTES,
                }
            } else {
                HeaderError::CutOff
            });
        }
        self.at += length;
        // It fits into the header.
        usize::try_from(length).map_err(|_| HeaderError::CutOff)
    }
}

/// Reads an open file from its beginning, without moving the place that its descriptor has in it.
pub(super) struct FromBeginning<'f> {
    file: &'f File,
    at: u64,
}

impl<'f> FromBeginning<'f> {
    pub(super) fn new(file: &'f File) -> Self {
        Self { file, at: 0 }
    }
}

impl Read for FromBeginning<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}
