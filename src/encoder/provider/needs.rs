//! Which libraries a provider needs that are not there.
//!
//! The loader names the first one that it misses. Whoever sets a machine up would rather know all of them.

use std::path::Path;

use crate::encoder::elf;

/// The libraries that the one at `path` asks for and the system's loader cannot give, as it asks for them. Empty where
/// that cannot be told.
pub(super) fn missing(path: &Path) -> Vec<String> {
    elf::needed(path).into_iter().filter(|name| !can_be_loaded(name)).collect()
}

/// Those that can be stay loaded: the provider would load them in any case.
fn can_be_loaded(name: &str) -> bool {
    // SAFETY: the loader runs the constructors of a library that ONNX Runtime's provider would load a moment later.
    match unsafe { libloading::Library::new(name) } {
        Ok(library) => {
            std::mem::forget(library);
            true
        }
        Err(_) => false,
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_runs_has_all_it_needs() {
        let program = std::env::current_exe().unwrap();
        assert!(elf::needed(&program).iter().any(|name| name.starts_with("libc.so")), "{:?}", elf::needed(&program));
        assert_eq!(missing(&program), Vec::<String>::new());
        assert!(missing(Path::new("/no/such/library.so")).is_empty());
        assert!(!can_be_loaded("libno_such_library.so.1"));
    }
}
