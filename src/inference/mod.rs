//! What a request is, without a transport.

pub(crate) mod bounds;
pub(crate) mod constraint;
pub(crate) mod decoding;
pub(crate) mod generate;
pub(crate) mod generation;
pub(crate) mod truncation;
