//! The C ABI, and the C and C++ programs that use it.

mod arguments;
mod bundle;
mod c_package;
mod c_programs;
mod c_readme;
mod groups;
mod header;
mod lifetimes;
mod other_encoders;
mod process;
mod products;
mod promotion;
mod router;
mod streamed;
mod structs;
#[path = "../support/mod.rs"]
mod support;
mod values;
