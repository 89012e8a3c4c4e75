//! The support of the tests of the C side: an installed copy outside the repository, and compilers.
#![allow(clippy::print_stderr, clippy::unwrap_used)]

use super::{Need, skip};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A tree that `make install` made and that was moved since, so that whatever it knew of its old place is wrong.
pub struct Installed {
    folder: tempfile::TempDir,
}

/// The installed tree, made once and removed when no test uses it any more; `None`, said aloud, without `make`.
pub fn installed() -> Option<Arc<Installed>> {
    static SHARED: Mutex<Weak<Installed>> = Mutex::new(Weak::new());
    if !available("make") {
        skip(Need::Cc, "there is no make");
        return None;
    }
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(installed) = shared.upgrade() {
        return Some(installed);
    }
    let installed = Arc::new(Installed::new());
    *shared = Arc::downgrade(&installed);
    Some(installed)
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let staging = folder.path().join("staging");
        run(install("install", &staging).arg(format!("BUILT={}", built(folder.path()).display())));
        std::fs::rename(staging.join("opt/taskbasis"), folder.path().join("taskbasis")).unwrap();
        Self { folder }
    }

    pub fn prefix(&self) -> PathBuf {
        self.folder.path().join("taskbasis")
    }

    pub fn include(&self) -> String {
        format!("-I{}", self.prefix().join("include").display())
    }

    /// A folder of one's own, gone with the tree.
    pub fn scratch(&self) -> PathBuf {
        tempfile::Builder::new().tempdir_in(self.folder.path()).unwrap().keep()
    }

    /// The arguments that link to the shared library, as the guide says.
    pub fn link(&self) -> [String; 3] {
        let lib = self.prefix().join("lib");
        [format!("-L{}", lib.display()), "-ltaskbasis".into(), format!("-Wl,-rpath,{}", lib.display())]
    }

    /// Runs a program that uses the library. It has to find the ONNX Runtime that was installed, where one was.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        // Cargo points tests to the build's folder, which would win over the installed copy.
        command.env_remove("LD_LIBRARY_PATH");
        if self.prefix().join("lib/libonnxruntime.so").exists() {
            command.env_remove("ORT_DYLIB_PATH");
        }
        command
    }
}

/// `make install` or `make uninstall` of /opt/taskbasis below `staging`.
pub fn install(target: &str, staging: &Path) -> Command {
    let mut make = Command::new("make");
    make.current_dir(root()).arg(target).arg("PREFIX=/opt/taskbasis").arg(format!("DESTDIR={}", staging.display()));
    make
}

/// The libraries that this very test was built with, and the program, in one folder.
pub fn built(within: &Path) -> PathBuf {
    let folder = within.join("built");
    std::fs::create_dir_all(&folder).unwrap();
    let test = std::env::current_exe().unwrap();
    let libraries = ["so", "dylib", "a"].map(|kind| test.with_file_name(format!("libtaskbasis.{kind}")));
    let program = option_env!("CARGO_BIN_EXE_taskbasis").map(PathBuf::from);
    for file in libraries.into_iter().chain(program).filter(|file| file.exists()) {
        let link = folder.join(file.file_name().unwrap());
        if !link.exists() {
            std::os::unix::fs::symlink(&file, link).unwrap();
        }
    }
    folder
}

/// A C compiler and its C++ side.
#[derive(Clone, Copy)]
pub struct Compiler {
    pub c: &'static str,
    pub cpp: &'static str,
}

/// The strictest that both languages offer without naming single warnings.
const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"];

impl Compiler {
    pub fn c99(self) -> Command {
        strict(self.c, "-std=c99")
    }

    pub fn cpp17(self) -> Command {
        strict(self.cpp, "-std=c++17")
    }
}

fn strict(compiler: &str, standard: &str) -> Command {
    let mut command = Command::new(compiler);
    command.arg(standard).args(STRICT);
    command
}

/// gcc and clang, where they are; none is said aloud.
pub fn compilers() -> Vec<Compiler> {
    let known = [Compiler { c: "gcc", cpp: "g++" }, Compiler { c: "clang", cpp: "clang++" }];
    let found: Vec<_> = known.into_iter().filter(|known| available(known.c) && available(known.cpp)).collect();
    if found.is_empty() {
        skip(Need::Cc, "there is neither gcc with g++ nor clang");
    }
    found
}

/// Whether there is a program of that name.
pub fn available(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// Runs a command that has to succeed, and gives its output.
pub fn run(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        output.status.success(),
        "{command:?}: {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

/// [`run`], for what it prints.
pub fn text(command: &mut Command) -> String {
    String::from_utf8(run(command).stdout).unwrap()
}

/// A source file of the repository.
pub fn source(path: impl AsRef<OsStr>) -> PathBuf {
    root().join(Path::new(path.as_ref()))
}
