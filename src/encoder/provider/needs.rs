//! The libraries that a provider needs and that are not there: all of them, where the loader names the first one that
//! it misses. Nothing is loaded to find that out.

use std::path::{Path, PathBuf};

use crate::encoder::runtime::elf;

/// What `ldconfig` keeps: every library in the folders of the system, by name.
const CACHE: &str = "/etc/ld.so.cache";
/// Folders that loaders search without being told to, of the distributions that ONNX Runtime is built for.
const DEFAULT_FOLDERS: [&str; 6] =
    ["/lib64", "/usr/lib64", "/lib", "/usr/lib", "/lib/x86_64-linux-gnu", "/lib/aarch64-linux-gnu"];

/// The libraries that the one at `path` asks for and that are in no place where the system's loader looks, as it asks
/// for them. Empty where that cannot be told.
pub(super) fn missing(path: &Path) -> Vec<String> {
    let needed = elf::needed(path);
    if needed.is_empty() {
        return needed;
    }
    let places = Places::of(path);
    needed.into_iter().filter(|name| !places.hold(name)).collect()
}

/// The places where the loader looks for what a library needs.
struct Places {
    /// The content of the loader's cache, in which every name ends in a NUL.
    cache: Vec<u8>,
    folders: Vec<PathBuf>,
}

impl Places {
    /// The places for the library at `path`, beside which ONNX Runtime's providers expect each other.
    fn of(path: &Path) -> Self {
        let given = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
        let beside = path.parent().map(Path::to_path_buf);
        let folders = std::env::split_paths(&given).chain(beside).chain(DEFAULT_FOLDERS.map(PathBuf::from)).collect();
        // Without a cache the folders are all there is.
        Self { cache: std::fs::read(CACHE).unwrap_or_default(), folders }
    }

    fn hold(&self, name: &str) -> bool {
        let entry = [b"\0", name.as_bytes(), b"\0"].concat();
        self.cache.windows(entry.len()).any(|window| window == entry)
            || self.folders.iter().any(|folder| folder.join(name).exists())
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
        assert!(!Places::of(&program).hold("libno_such_library.so.1"));
    }

    #[test]
    fn what_lies_beside_the_library_is_there() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("libbeside.so.1"), b"").unwrap();
        let places = Places::of(&folder.path().join("libprovider.so"));
        assert!(places.hold("libbeside.so.1"));
        assert!(!places.hold("libbeside.so"), "another name is another library");
    }

    #[test]
    fn a_name_in_the_cache_is_whole() {
        let places = Places {
            cache: b"glibc-ld.so.cache1.1\0libcudart.so.12\0/usr/lib/libcudart.so.12\0".into(),
            folders: Vec::new(),
        };
        assert!(places.hold("libcudart.so.12"));
        assert!(!places.hold("libcudart.so.1") && !places.hold("cudart.so.12"));
    }
}
