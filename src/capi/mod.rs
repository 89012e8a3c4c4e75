//! The C ABI: what `include/taskbasis.h` declares. One file a type; each function checks, calls and converts.
//!
//! The documentation of the items here is the header's: cbindgen copies it. It is written for C readers.
#![allow(non_camel_case_types)]
#![allow(clippy::missing_safety_doc)] // Said once, for all of them, at the header's top.

mod basis;
mod encoder;
mod error;
mod guard;
mod handle;
mod head;
mod library;
mod logging;
mod pixels;
mod weights;

