//! Whatever bytes a client sends as a body are taken or refused in words.

#![no_main]

libfuzzer_sys::fuzz_target!(|body: &[u8]| edgellm::fuzzing::read_body(body));
