//! Bases and bundles: made, packed, grown, damaged, measured.

mod accuracy;
mod analysis;
mod build;
mod build_program;
mod door;
mod files;
mod gate;
mod golden;
mod golden_embedding;
mod graph;
mod growth;
mod hostile;
mod merges;
mod names;
mod other_encoders;
mod program;
mod refit;
mod small_formats;
#[path = "../support/mod.rs"]
mod support;
mod tasks_dir;
mod writers;
