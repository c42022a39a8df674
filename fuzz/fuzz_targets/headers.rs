//! Whatever headers a client sends are taken or refused in words.

#![no_main]

libfuzzer_sys::fuzz_target!(|lines: &[u8]| edgellm::fuzzing::read_headers(lines));
