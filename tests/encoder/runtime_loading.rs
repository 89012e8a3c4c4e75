//! Finding and loading ONNX Runtime. A process can load one once, so every case runs in a process of its own: this
//! test program again, started for its one `child` test.

use crate::support::{Need, onnxruntime, skip};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use taskbasis::{ErrorKind, Runtime};

/// What the child is to do: `probe` or `load`, with the paths to give, one per line.
const ORDERS: &str = "TASKBASIS_TEST_ORDERS";

#[test]
#[ignore = "started by the other tests, with orders"]
fn child() {
    let Ok(orders) = std::env::var(ORDERS) else { return println!("skipped: no orders") };
    for order in orders.lines() {
        let (verb, path) = order.split_once(' ').unwrap_or((order, ""));
        let path = (!path.is_empty()).then(|| Path::new(path));
        let answer = match verb {
            "probe" => Runtime::probe(path).map(|p| format!("{} {} by {}", p.version, p.path.display(), p.origin)),
            _ => Runtime::load(path)
                .map(|r| format!("{} {} by {} with {:?}", r.version(), r.path().display(), r.origin(), r.providers())),
        };
        match answer {
            Ok(found) => println!("\n@ok {found}"),
            Err(e) => {
                assert!(matches!(e.kind(), ErrorKind::RuntimeMissing | ErrorKind::InvalidArgument), "{e:?}");
                println!("\n@error {e:?}");
            }
        }
    }
}

/// The child's answer to each order. `variable` is the value of `ORT_DYLIB_PATH`; `None` leaves it unset.
fn ask(variable: Option<&Path>, orders: &[String]) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["runtime_loading::child", "--exact", "--ignored", "--nocapture"]).env(ORDERS, orders.join("\n"));
    match variable {
        Some(path) => command.env("ORT_DYLIB_PATH", path),
        None => command.env_remove("ORT_DYLIB_PATH"),
    };
    let started = Instant::now();
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let trouble = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !trouble.contains("panicked"), "{}\n{text}\n{trouble}", output.status);
    assert!(started.elapsed() < Duration::from_secs(60), "nothing may hang");
    let answers: Vec<String> = text.lines().filter_map(|l| l.strip_prefix('@')).map(String::from).collect();
    assert_eq!(answers.len(), orders.len(), "{text}");
    answers
}

fn one(variable: Option<&Path>, order: &str, path: &Path) -> String {
    ask(variable, &[format!("{order} {}", path.display())]).remove(0)
}

/// A shared library made from C, or `None` where there is no compiler.
fn compile(dir: &Path, name: &str, source: &str) -> Option<PathBuf> {
    let (from, to) = (dir.join(format!("{name}.c")), dir.join(format!("lib{name}.so")));
    std::fs::write(&from, source).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&to).arg(&from).status();
    if !built.is_ok_and(|status| status.success()) {
        skip(Need::Cc, "there is no C compiler");
        return None;
    }
    Some(to)
}

/// C for a library with ONNX Runtime's entry point that reports `version`, which is a C expression.
fn fake(version: &str) -> String {
    format!(
        "static const void *api(unsigned v) {{ (void)v; return 0; }}
         static const char *version(void) {{ return {version}; }}
         static const struct {{ const void *(*a)(unsigned); const char *(*v)(void); }} base = {{ api, version }};
         const void *OrtGetApiBase(void) {{ return &base; }}"
    )
}

#[test]
fn the_path_given_comes_first() {
    let Some(good) = onnxruntime() else { return };
    let answer = one(Some(Path::new("/nonexistent/other.so")), "load", &good);
    assert!(answer.starts_with("ok 1.") && answer.contains("by the path given"), "{answer}");
    assert!(answer.contains("CPUExecutionProvider"), "{answer}");
    let answer = one(Some(&good), "load", Path::new(""));
    assert!(answer.starts_with("ok 1.") && answer.contains("by ORT_DYLIB_PATH"), "{answer}");
}

#[test]
fn a_library_beside_the_program_is_found() {
    let Some(good) = onnxruntime() else { return };
    // The program runs from a folder of its own, with the library in `../lib`.
    let dir = tempfile::tempdir().unwrap();
    let (bin, lib) = (dir.path().join("bin"), dir.path().join("lib"));
    std::fs::create_dir(&bin).unwrap();
    std::fs::create_dir(&lib).unwrap();
    let program = bin.join("program");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let name = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    std::fs::copy(&good, lib.join(name)).unwrap();
    let output = Command::new(program)
        .args(["runtime_loading::child", "--exact", "--ignored", "--nocapture"])
        .env_remove("ORT_DYLIB_PATH")
        .env(ORDERS, "probe\nload")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.matches("by beside the program").count(), 2, "{text}");
}

#[test]
fn what_is_no_onnx_runtime_is_a_clean_error() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let text = write("text.so", b"version https://git-lfs.github.com/spec/v1\n");
    let empty = write("empty.so", b"");
    let mut cases = vec![
        (PathBuf::from("/nonexistent/libonnxruntime.so"), "no such file"),
        (dir.path().to_path_buf(), "a directory"),
    ];
    if cfg!(target_os = "linux") {
        cases.push((text, "not a shared library"));
        cases.push((empty, "not a shared library"));
        cases.push((PathBuf::from("/dev/zero"), "not a regular file"));
        // The loader would end the process over these. (A program ends in debug notes, which it does not map.)
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        cases.push((write("piece.so", &program[..4096]), "truncated"));
        if let Some(good) = onnxruntime() {
            let library = std::fs::read(good).unwrap();
            cases.push((write("half.so", &library[..library.len() / 2]), "truncated"));
        }
        let mut narrow = b"\x7fELF\x01\x01".to_vec();
        narrow.resize(64, 0);
        cases.push((write("narrow.so", &narrow), "32-bit"));
    }
    if let Some(other) = compile(dir.path(), "other", "int x;") {
        cases.push((other, "does not export `OrtGetApiBase`"));
        for (version, says) in [
            ("\"1.22.1\"", "version 1.22.1"),
            ("\"2.0.0\"", "version 2.0.0"),
            ("\"\"", "not supported"),
            ("\"\\xff\\xfe\"", "not supported"),
            ("0", "reports no version"),
            ("\"1.99.0\"", "does not offer the interface"),
        ] {
            let name = format!("fake{}", cases.len());
            cases.push((compile(dir.path(), &name, &fake(version)).unwrap(), says));
        }
        let nothing = "const void *OrtGetApiBase(void) { return 0; }";
        cases.push((compile(dir.path(), "nothing", nothing).unwrap(), "returns nothing"));
        let incomplete = "int absent(void); int present(void) { return absent(); }";
        if let Some(incomplete) = compile(dir.path(), "incomplete", incomplete) {
            cases.push((incomplete, "`OrtGetApiBase`"));
        }
    }
    // All in one process: a failure leaves nothing behind that the next could trip over.
    let orders = cases.iter().flat_map(|(path, _)| ["probe", "load"].map(|verb| format!("{verb} {}", path.display())));
    let answers = ask(None, &orders.collect::<Vec<_>>());
    for ((path, says), answers) in cases.iter().zip(answers.chunks(2)) {
        for answer in answers {
            assert!(answer.starts_with("error [runtime_missing]") && answer.contains(says), "{says}: {answer}");
            for part in [path.to_str().unwrap(), "1.24 or newer", "ORT_DYLIB_PATH: not set", "make onnxruntime"] {
                assert!(answer.contains(part), "{part}: {answer}");
            }
        }
    }
}

#[test]
fn a_variable_that_is_wrong_is_not_passed_over() {
    let answer = one(Some(Path::new("/nonexistent/libonnxruntime.so")), "load", Path::new(""));
    assert!(answer.starts_with("error [runtime_missing] /nonexistent/"), "{answer}");
    assert!(answer.contains("ORT_DYLIB_PATH is no usable ONNX Runtime"), "{answer}");
}

#[test]
fn a_second_library_is_refused_and_the_first_stays() {
    let Some(good) = onnxruntime() else { return };
    let again = good.parent().unwrap().join(".").join(good.file_name().unwrap());
    let order = |verb: &str, path: &Path| format!("{verb} {}", path.display());
    let answers = ask(
        None,
        &[
            order("load", Path::new("/nonexistent/first.so")),
            order("probe", &good),
            order("load", &good),
            order("load", &again),
            order("load", Path::new("")),
            order("load", Path::new("/nonexistent/second.so")),
            order("probe", Path::new("/nonexistent/second.so")),
            order("probe", Path::new("")),
        ],
    );
    let ok: Vec<bool> = answers.iter().map(|answer| answer.starts_with("ok 1.")).collect();
    assert_eq!(ok, [false, true, true, true, true, false, false, true], "{answers:#?}");
    assert!(answers[5].contains("loaded already"), "{}", answers[5]);
    // The loader may know the file by another of its names (a link beside the program, say).
    let named = answers[5].rsplit_once(" from ").map(|(_, path)| Path::new(path.trim()));
    let named = named.unwrap().canonicalize().unwrap();
    assert_eq!(named, good.canonicalize().unwrap(), "{}", answers[5]);
}
