//! Whatever schema a client sends is refused in words or compiled within bounds of stack, time and memory.

#![no_main]

libfuzzer_sys::fuzz_target!(|choices: &[u8]| edgellm::fuzzing::compile_schema(choices));
