//! Whatever streams and their clients do, whoever comes back hears each event once and in order.

#![no_main]

libfuzzer_sys::fuzz_target!(|choices: &[u8]| edgellm::fuzzing::resume_streams(choices));
