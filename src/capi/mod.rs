//! The C ABI: what `include/taskbasis.h` declares. One file a type; each function checks, calls and converts.
//!
//! Rust programs have no use for it. The documentation of the items is the header's, which cbindgen makes of it: it is
//! written for C readers.
#![allow(non_camel_case_types, missing_debug_implementations)] // C's.
#![allow(rustdoc::broken_intra_doc_links, rustdoc::invalid_html_tags)] // Shapes such as [n,e] are no links in C.
#![allow(clippy::missing_safety_doc)] // Said once, for all of them, at the header's top.

mod basis;
mod cache;
mod device;
mod encode;
mod encoder;
mod error;
mod groups;
mod guard;
mod handle;
mod head;
mod library;
mod logging;
mod pixels;
mod precision;
mod products;
mod promotion;
mod residency;
mod router;
mod tower;
mod tower_options;
mod weights;

pub use basis::*;
pub use cache::*;
pub use device::*;
pub use encode::*;
pub use encoder::*;
pub use error::*;
pub use groups::*;
pub use head::*;
pub use library::*;
pub use logging::*;
pub use pixels::*;
pub use precision::*;
pub use products::*;
pub use promotion::*;
pub use residency::*;
pub use router::*;
pub use tower::*;
pub use weights::*;
