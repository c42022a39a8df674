//! Whatever stands in a keys file is a list of sound keys or refused in words, and can be changed.

#![no_main]

libfuzzer_sys::fuzz_target!(|text: &[u8]| edgellm::fuzzing::read_keys(text));
