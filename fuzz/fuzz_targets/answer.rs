//! Whatever a model generates means the same however it is cut.

#![no_main]

libfuzzer_sys::fuzz_target!(|answer: &[u8]| edgellm::fuzzing::cut_answer(answer));
