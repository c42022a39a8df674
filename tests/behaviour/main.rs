//! The real binary with the model that ships, spoken to over bare sockets:
//! what a well-behaved SDK never does belongs here, the SDKs themselves are in
//! `tests/clients`.

// A test binary has no outside for `pub` to reach.
#![allow(unreachable_pub)]

mod answers;
mod bench;
mod connections;
mod drain;
mod flood;
mod gateway;
mod headroom;
mod hostile;
mod lifecycle;
mod meanwhile;
mod model_files;
mod privacy;
mod prompts;
mod quantize;
mod responses;
mod schemas;
mod slow_readers;
mod speculation;
mod stall;
mod structured;
mod tools;
mod vanishing;
