//! Whatever stands in a file's header is read within bounds or refused in words, and what is checked or
//! estimated of it does not overflow.

#![no_main]

libfuzzer_sys::fuzz_target!(|file: &[u8]| edgellm::fuzzing::read_gguf(file));
