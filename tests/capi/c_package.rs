//! What `make install` leaves behind: names, symbols, versions, and nothing that ties it to where it was made.
#![cfg(unix)]

use crate::support;
use crate::support::{Need, skip};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::c::{available, installed, root, run, text};

const VERSION: &str = env!("CARGO_PKG_VERSION");

fn read(path: impl AsRef<Path>) -> String {
    std::fs::read_to_string(path).unwrap()
}

/// Every file below `folder`, relative to it.
fn files(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).into_iter().flatten().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                found.insert(entry.path().strip_prefix(folder).unwrap().to_path_buf());
            }
        }
    }
    found
}

/// The functions that the header declares: `tb_…(` at the start of a declaration.
fn declared() -> BTreeSet<String> {
    let header = read(root().join("include/taskbasis.h"));
    let code = header.lines().filter(|line| !line.trim_start().starts_with(['/', '*']));
    code.filter_map(|line| {
        let (before, _) = line.split_once('(')?;
        let name = before.rsplit([' ', '*']).next()?;
        (name.starts_with("tb_") && !before.starts_with(' ')).then(|| name.to_string())
    })
    .collect()
}

/// Nothing of Rust's, or of a library inside, can clash with the host's own.
#[test]
#[cfg(target_os = "linux")]
fn the_shared_library_exports_what_the_header_declares() {
    let Some(installed) = installed().filter(|_| available("nm")) else { return };
    let mut nm = Command::new("nm");
    let said = text(nm.args(["-D", "--defined-only"]).arg(installed.prefix().join("lib/libtaskbasis.so")));
    let exported: BTreeSet<String> = said.lines().map(|line| line.rsplit(' ').next().unwrap().to_string()).collect();
    assert_eq!(exported, declared());
    assert!(exported.len() >= 35 && exported.iter().all(|name| name.starts_with("tb_")), "{exported:?}");
}

/// Linked programs ask for the name that changes when something breaks, and for nothing where it was built.
#[test]
#[cfg(target_os = "linux")]
fn the_shared_library_has_its_name() {
    let Some(installed) = installed().filter(|_| available("readelf")) else { return };
    let lib = installed.prefix().join("lib");
    let mut parts = VERSION.split('.');
    let (major, minor) = (parts.next().unwrap(), parts.next().unwrap());
    let series = if major == "0" { format!("{major}.{minor}") } else { major.to_string() };
    let dynamic = text(Command::new("readelf").arg("-d").arg(lib.join("libtaskbasis.so")));
    assert!(dynamic.contains(&format!("[libtaskbasis.so.{series}]")), "{dynamic}");
    assert!(!dynamic.contains("RPATH") && !dynamic.contains("RUNPATH"), "{dynamic}");
    let link = |name: &str| std::fs::read_link(lib.join(name)).unwrap().to_str().unwrap().to_string();
    assert_eq!(link("libtaskbasis.so"), format!("libtaskbasis.so.{series}"));
    assert_eq!(link(&format!("libtaskbasis.so.{series}")), format!("libtaskbasis.so.{VERSION}"));
}

#[test]
fn one_version_everywhere() {
    let bindings = root().join("bindings");
    assert!(read(bindings.join("pkgconfig/taskbasis.pc")).contains(&format!("\nVersion: {VERSION}\n")));
    let cmake = read(bindings.join("cmake/taskbasisConfigVersion.cmake"));
    assert!(cmake.contains(&format!("set(PACKAGE_VERSION \"{VERSION}\")")));
    let number = VERSION.split('.').fold(0, |number, part| number * 1000 + part.parse::<u32>().unwrap());
    let header = read(root().join("include/taskbasis.h"));
    let define = header.lines().find_map(|line| line.strip_prefix("#define TB_VERSION_NUMBER ")).unwrap();
    assert_eq!(define.trim(), number.to_string());
}

/// pkg-config and CMake tell the same of the static library.
#[test]
fn one_list_of_system_libraries() {
    let bindings = root().join("bindings");
    let pc = read(bindings.join("pkgconfig/taskbasis.pc"));
    let private = pc.lines().find_map(|line| line.strip_prefix("Libs.private: ")).unwrap();
    let list = private.replace("-l", "").replace(' ', ";");
    let cmake = read(bindings.join("cmake/taskbasisConfig.cmake"));
    assert!(cmake.contains(&format!("INTERFACE_LINK_LIBRARIES \"{list}\"")), "{list}");
}

#[test]
fn no_installed_text_names_where_it_was_made() {
    let Some(installed) = installed() else { return };
    let prefix = installed.prefix();
    for path in files(&prefix) {
        // Programs and libraries hold the paths of Rust's sources in their debug information.
        if let Ok(text) = std::fs::read_to_string(prefix.join(&path)) {
            for place in [root().to_str().unwrap(), "/opt/taskbasis", "staging"] {
                assert!(!text.contains(place), "{}: {place}", path.display());
            }
        }
    }
}

#[test]
fn uninstalling_leaves_what_others_put_there() {
    if !available("make") {
        return skip(Need::Cc, "there is no make");
    }
    let folder = tempfile::tempdir().unwrap();
    let built = format!("BUILT={}", support::c::built(folder.path()).display());
    for foreign in [false, true] {
        let staging = folder.path().join(if foreign { "shared" } else { "own" });
        let theirs = staging.join("opt/taskbasis/lib/libonnxruntime.so");
        if foreign {
            std::fs::create_dir_all(theirs.parent().unwrap()).unwrap();
            std::fs::write(&theirs, "another package's").unwrap();
        }
        run(support::c::install("install", &staging).arg(&built));
        run(support::c::install("install", &staging).arg(&built)); // again, over the first
        assert!(files(&staging).len() > 8);
        assert!(!foreign || read(&theirs) == "another package's");
        run(&mut support::c::install("uninstall", &staging));
        let left: Vec<_> = files(&staging).into_iter().collect();
        let expected = if foreign { vec![theirs.strip_prefix(&staging).unwrap().to_path_buf()] } else { vec![] };
        assert_eq!(left, expected);
    }
}

/// A cross build's library beside the host's ONNX Runtime would be found out by the first encoder only, elsewhere.
#[test]
#[cfg(target_os = "linux")]
fn what_is_for_another_machine_is_not_installed() {
    use std::fs;

    let Some(installed) = installed() else { return };
    let folder = installed.scratch();
    let [from, runtime] = ["built", "runtime"].map(|name| folder.join(name));
    let shared = installed.prefix().join("lib/libtaskbasis.so");
    let (ours, other) = match std::env::consts::ARCH {
        "x86_64" => ("x86_64", [0xb7, 0]),
        arch => (arch, [0x3e, 0]),
    };
    let lay = |path: &Path, foreign: bool| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let mut bytes = fs::read(&shared).unwrap()[..4096].to_vec();
        if foreign {
            bytes[18..20].copy_from_slice(&other);
        }
        fs::write(path, bytes).unwrap();
    };
    let attempt = |target: Option<&str>| {
        let mut install = Command::new("sh");
        install.arg(root().join("scripts/install")).args([&from, &folder.join("prefix"), &runtime]);
        install.env_remove("DESTDIR").env_remove("CARGO_BUILD_TARGET");
        install.envs(target.map(|target| ("CARGO_BUILD_TARGET", target)));
        let output = install.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let files = ["built/libtaskbasis.so", "built/libtaskbasis.a", "built/taskbasis", "runtime/libonnxruntime.so"];
    files.iter().for_each(|file| lay(&folder.join(file), false));
    assert_eq!(attempt(None), (true, String::new()));
    assert!(attempt(Some(&format!("{ours}-unknown-linux-gnu"))).0);
    for file in &files[1..] {
        lay(&folder.join(file), true);
        let (is_installed, why) = attempt(None);
        assert!(!is_installed && why.contains(file) && why.contains(ours), "{file}: {why}");
        assert!(!file.starts_with("runtime") || why.contains("fetch-onnxruntime --machine"), "{why}");
        lay(&folder.join(file), false);
    }
    let (is_installed, why) = attempt(Some("riscv64gc-unknown-linux-gnu"));
    assert!(!is_installed && why.contains("riscv64gc") && why.contains(ours), "{why}");
}
