//! `taskbasis-bench`, as `taskbasis bench` starts it.

#[path = "../../../tests/cuda_host/driver.rs"]
mod driver;
mod figures;
#[path = "../../../tests/support/need.rs"]
#[allow(dead_code, unreachable_pub)] // What every test program shares.
mod need;
mod options;
