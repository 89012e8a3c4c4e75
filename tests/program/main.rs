//! The program, as a user runs it.

mod bench;
mod commands;
mod data_classes;
mod data_program;
mod data_sets;
mod eval;
#[cfg(target_os = "linux")]
mod files;
mod fit;
mod glyphs;
mod graph;
mod options;
mod readme;
mod route;
#[path = "../support/mod.rs"]
mod support;
mod terminal;
