//! Gives the shared library the name that programs linked to it ask for. Cargo by itself gives it none, and a program
//! would then remember the path that it was linked by. And links ONNX Runtime, where the feature for that is on.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_LINKED_ONNXRUNTIME").is_some() {
        link_onnxruntime();
    }
    let part = |name: &str| env::var(format!("CARGO_PKG_VERSION_{name}")).unwrap_or_default();
    // What may break programs changes the name: below 1.0 the minor version does.
    let compatible = match part("MAJOR").as_str() {
        "0" => format!("0.{}", part("MINOR")),
        major => major.to_owned(),
    };
    match env::var("CARGO_CFG_TARGET_OS").unwrap_or_default().as_str() {
        "linux" | "android" | "freebsd" | "netbsd" | "openbsd" => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libtaskbasis.so.{compatible}");
            // A prefetch may be running, and ONNX Runtime holds our log function, when the host calls dlclose().
            println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
        }
        "macos" | "ios" => {
            println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libtaskbasis.{compatible}.dylib");
        }
        _ => {}
    }
}

/// Names ONNX Runtime to the linker. Where nothing says where it lies, that is left to the program that is linked in
/// the end: of static builds there is no single file that has one name.
fn link_onnxruntime() {
    println!("cargo:rerun-if-env-changed=TASKBASIS_ONNXRUNTIME_LIB_DIR");
    if let Ok(folder) = env::var("TASKBASIS_ONNXRUNTIME_LIB_DIR") {
        println!("cargo:rustc-link-search=native={folder}");
        println!("cargo:rustc-link-lib=onnxruntime");
    }
}
