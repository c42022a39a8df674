//! Whatever text a client sends has tokens, and they stand for it, with every pre-tokenizer.

#![no_main]

libfuzzer_sys::fuzz_target!(|runs: &[u8]| edgellm::fuzzing::read_runs(runs));
