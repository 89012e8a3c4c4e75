//! What this program and `taskbasis-bench`, which has this folder too, have in common: options, paths, and what is
//! printed.

pub mod args;
pub mod checkpoints;
pub mod choice;
pub mod command_line;
pub mod conflicts;
pub mod graph;
pub mod hub;
pub mod output;
pub mod paths;
pub mod provider;
pub mod report;
pub mod tower;
