//! Paths on the Hub, against a server on this machine.

mod downloads;
mod faults;
mod paths;
mod proxy;
#[path = "../support/mod.rs"]
mod support;
