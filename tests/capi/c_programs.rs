//! The C and C++ examples: compiled as strictly as compilers can, against an installed copy, and run.
#![cfg(unix)]

use crate::support;
use crate::support::{Need, onnxruntime, skip};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::c::{Compiler, Installed, compilers, installed, run, source, text};
use crate::support::digits;

/// The files that the programs are given.
struct Family {
    basis: PathBuf,
    base: PathBuf,
    heads: PathBuf,
    classes: PathBuf,
}

fn family() -> Option<Family> {
    onnxruntime()?;
    Some(Family {
        basis: digits("bases/ViT-D-8_AE_M4_8task")?,
        base: digits("base/pickled_module.pt")?,
        heads: digits("heads.safetensors")?,
        classes: digits("classes.json")?,
    })
}

/// Compiles a C program against the installed copy and links it to the shared library.
fn c_program(compiler: Compiler, installed: &Installed, path: &str) -> PathBuf {
    let program = installed.scratch().join("program");
    let mut compile = compiler.c99();
    compile.arg(installed.include()).arg(source(path)).arg("-o").arg(&program);
    run(compile.args(installed.link()).args(["-pthread", "-lm"]));
    program
}

/// A program of C++ and any number of units.
fn cpp_program(compiler: Compiler, installed: &Installed, flags: &[&str], paths: &[&str]) -> PathBuf {
    let program = installed.scratch().join("program");
    let mut compile = compiler.cpp17();
    compile.arg(installed.include()).args(flags).args(paths.iter().map(source)).arg("-o").arg(&program);
    run(compile.args(installed.link()));
    program
}

/// What `quickstart` makes of the reference's images, beside what the reference makes of them.
fn check_quickstart(mut command: impl FnMut() -> Command) {
    let Some(golden) = digits("golden.safetensors") else { return };
    let bytes = std::fs::read(golden).unwrap();
    let golden = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let values = |bytes: &[u8]| -> Vec<f32> {
        bytes.chunks_exact(4).map(|value| f32::from_le_bytes(value.try_into().unwrap())).collect()
    };
    let pixels = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(pixels.path(), golden.tensor("pixel_values").unwrap().data()).unwrap();
    let expressions = [
        ("base", "zeroshot/embeds"),
        ("MNIST@1.0", "AE/task/MNIST@1.0/embeds"),
        ("merged@0.4", "AE/merged@0.4/embeds"),
        ("-MNIST@0.5", "AE/negated/MNIST@0.5/embeds"),
    ];
    for (expression, name) in expressions {
        let input = Stdio::from(std::fs::File::open(pixels.path()).unwrap());
        let output = run(command().arg(expression).stdin(input));
        let expected = values(golden.tensor(name).unwrap().data());
        let error = support::relative_l2(&values(&output.stdout), &expected);
        assert!(error <= 2e-5, "{expression}: {error:.1e}");
    }
}

#[test]
fn headers_compile_alone() {
    let Some(installed) = installed() else { return };
    for compiler in compilers() {
        for (mut compile, language, header) in [
            (compiler.c99(), "c", "taskbasis.h"),
            (compiler.cpp17(), "c++", "taskbasis.h"),
            (compiler.cpp17(), "c++", "taskbasis.hpp"),
        ] {
            let unit = installed.scratch().join("unit");
            std::fs::write(&unit, format!("#include <{header}>\n")).unwrap();
            run(compile.arg(installed.include()).args(["-fsyntax-only", "-x", language]).arg(unit));
        }
    }
}

#[test]
fn the_c_quickstart_gives_the_references_embeddings() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    for compiler in compilers() {
        let program = c_program(compiler, &installed, "examples/c/quickstart.c");
        let command = || {
            let mut command = installed.command(&program);
            command.arg(&family.basis).arg(&family.base);
            command
        };
        check_quickstart(command);
        let output = command().arg("MNIST + Nowhere").stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let message = String::from_utf8(output.stderr).unwrap();
        assert!(message.starts_with("not_found: ") && message.contains("Nowhere"), "{message}");
        quickstart_takes_no_error_for_an_end(&|| {
            let mut command = command();
            command.arg("MNIST");
            command
        });
    }
}

/// A read that fails is not the end of the images, half of one is none, and what cannot be written is not done.
fn quickstart_takes_no_error_for_an_end(command: &dyn Fn() -> Command) {
    let fails = |input: std::fs::File, output: Stdio, part: &str| {
        let ended = command().stdin(input).stdout(output).output().unwrap();
        let message = String::from_utf8(ended.stderr).unwrap();
        assert!(ended.status.code() == Some(1) && message.starts_with(part), "{message}");
    };
    let images = |bytes: usize| {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), vec![0; bytes]).unwrap();
        std::fs::File::open(file.path()).unwrap()
    };
    let image = 4 * 3 * 32 * 32;
    fails(std::fs::File::open("/").unwrap(), Stdio::null(), "images: Is a directory");
    fails(images(image + 5), Stdio::null(), "images: image 1 ends after 1 of 3072 values");
    if let Ok(full) = std::fs::OpenOptions::new().write(true).open("/dev/full") {
        fails(images(image), full.into(), "stdout: ");
    }
}

#[test]
fn tasks_are_switched_at_every_image() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    for compiler in compilers() {
        let program = c_program(compiler, &installed, "examples/c/switch_tasks.c");
        let said = text(installed.command(&program).arg(&family.basis).arg(&family.base).arg("2"));
        assert!(said.contains("cache: 8 hits, 8 misses"), "{said}");
        // A task's second turn gives what the first gave, and no two tasks give the same.
        let values = |round: &str| -> Vec<&str> {
            let lines = said.lines().filter(|line| line.starts_with(round));
            lines.map(|line| line.rsplit(' ').next().unwrap()).collect()
        };
        let mut first = values("round 1");
        assert_eq!(first, values("round 2"), "{said}");
        first.sort_unstable();
        first.dedup();
        assert_eq!(first.len(), 8, "{said}");
    }
}

#[test]
fn threads_get_their_own_tasks_bits() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    for compiler in compilers() {
        let program = c_program(compiler, &installed, "examples/c/threads.c");
        let said = text(installed.command(&program).arg(&family.basis).arg(&family.base).arg("1"));
        assert!(said.starts_with("8 threads, 8 tasks, ") && said.ends_with(" 0 wrong\n"), "{said}");
    }
}

#[test]
fn failures_are_reported_and_freed() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    for compiler in compilers() {
        let program = c_program(compiler, &installed, "tests/c/errors.c");
        let Family { basis, base, heads, classes } = &family;
        run(installed.command(&program).args([basis, base, heads, classes]));
    }
}

/// ONNX Runtime's destructors run in `exit`: no thread may be at work in it then. TASKBASIS_CYCLES sets how often each
/// end is tried.
#[test]
fn processes_end_whatever_is_under_way() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    let Some(compiler) = compilers().into_iter().next() else { return };
    let program = c_program(compiler, &installed, "tests/c/ending.c");
    let Family { basis, base, .. } = &family;
    let ending = |how: &str, number: u32| {
        let home = tempfile::tempdir().unwrap();
        let mut command = installed.command(&program);
        // As on a machine without a setting for it.
        command.env_remove("ORT_DISABLE_TELEMETRY").env_remove("XDG_CACHE_HOME").env("HOME", home.path());
        run(command.args([basis, base]).arg(how).arg(number.to_string()));
        let left: Vec<_> = std::fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "a library has no business in {left:?}");
    };
    ending("forked", 0);
    let asked = std::env::var("TASKBASIS_CYCLES").ok().and_then(|n| n.parse::<u32>().ok());
    let each = |how: &str, usual: u32, step: u32| (0..asked.unwrap_or(usual)).for_each(|i| ending(how, i % 60 * step));
    // Two at once, so that processors are short.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            each("promoting", 60, 60);
            // Before the thread that is to promote has begun: of 100 such ends, 2 crashed.
            each("promoting", 100, 0);
        });
        // Without a wait for the host's threads, of 40 ends by leaving main 26 were wrong, of 20 within a thread 14,
        // and of 10 within a callback 9.
        each("encoding", 40, 1000);
        each("within", 15, 3);
        each("callback", 10, 1000);
    });
}

#[test]
fn the_cpp_quickstart_classifies() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    for compiler in compilers() {
        let program = cpp_program(compiler, &installed, &[], &["examples/cpp/quickstart.cpp"]);
        let Family { basis, base, heads, classes } = &family;
        let said = text(installed.command(&program).args([basis, base, heads, classes]).arg("MNIST"));
        // The upright stroke is a 1.
        assert!(said.lines().count() == 2 && said.starts_with("1 "), "{said}");
        let output = installed.command(&program).args([basis, base, heads, classes]).arg("Nowhere").output().unwrap();
        assert!(!output.status.success() && output.stderr.starts_with(b"not_found: "), "{output:?}");
    }
}

/// The same program over a bundle whose encoder is its graph alone.
#[test]
fn the_cpp_quickstart_classifies_with_another_encoder() {
    use crate::support::other::{OUT, Other, WIDTH};

    let Some(installed) = installed() else { return };
    let other = Other::new(WIDTH);
    let (heads, classes) = (other.path("heads.safetensors"), other.path("classes.json"));
    let (weight, bias) = ([0.0; 2 * OUT], [1.0, -1.0]);
    let arrays: [(&str, &[usize], &[f32]); 2] = [("A/weight", &[2, OUT], &weight), ("A/bias", &[2], &bias)];
    taskbasis::save_arrays(std::path::Path::new(&heads), &arrays, &[], &[]).unwrap();
    std::fs::write(&classes, r#"{"A": ["yes", "no"]}"#).unwrap();
    let bundle = other.pack("m.taskbasis", &["--format", "q8", "--base-format", "f32"]);
    for compiler in compilers() {
        let program = cpp_program(compiler, &installed, &[], &["examples/cpp/quickstart.cpp"]);
        let base = other.path("model/base.safetensors");
        let said = text(installed.command(&program).args([&bundle, &base, &heads, &classes]).arg("A"));
        assert!(said.lines().count() == 2 && said.starts_with("yes         88.1 %"), "{said}");
    }
}

#[test]
fn cpp_works_without_exceptions() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    for compiler in compilers() {
        let program = cpp_program(compiler, &installed, &["-fno-exceptions"], &["tests/c/no_exceptions.cpp"]);
        let said = text(installed.command(&program).args([&family.basis, &family.base]).arg("MNIST"));
        assert_eq!(said, "64\n");
    }
}

#[test]
fn cpp_refuses_what_c_would_not_see() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    for compiler in compilers() {
        let program = cpp_program(compiler, &installed, &[], &["tests/c/refused.cpp"]);
        let Family { basis, base, heads, classes } = &family;
        run(installed.command(&program).args([basis, base, heads, classes]));
    }
}

#[test]
fn two_cpp_units_link() {
    let Some(installed) = installed() else { return };
    for compiler in compilers() {
        let program = cpp_program(compiler, &installed, &[], &["tests/c/unit_a.cpp", "tests/c/unit_b.cpp"]);
        run(&mut installed.command(&program));
    }
}

/// The static library needs no more than `taskbasis.pc` names, and no libtaskbasis.so when it runs.
#[test]
fn a_program_with_the_static_library_inside_works() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    let pc = std::fs::read_to_string(installed.prefix().join("lib/pkgconfig/taskbasis.pc")).unwrap();
    let private = pc.lines().find_map(|line| line.strip_prefix("Libs.private:")).unwrap();
    for compiler in compilers() {
        // Beside a link to ONNX Runtime, as a product would be laid out.
        let folder = installed.scratch();
        let program = folder.join("program");
        let runtime = installed.prefix().join("lib/libonnxruntime.so");
        if runtime.exists() {
            std::os::unix::fs::symlink(runtime, folder.join("libonnxruntime.so")).unwrap();
        }
        let mut compile = compiler.c99();
        compile.arg(installed.include()).arg(source("examples/c/quickstart.c")).arg("-o").arg(&program);
        run(compile.arg(installed.prefix().join("lib/libtaskbasis.a")).args(private.split_whitespace()));
        check_quickstart(|| {
            let mut command = installed.command(&program);
            command.arg(&family.basis).arg(&family.base);
            command
        });
    }
}

#[test]
fn pkg_config_tells_how_to_build() {
    let Some(installed) = installed() else { return };
    if !support::c::available("pkg-config") {
        return skip(Need::Cc, "there is no pkg-config");
    }
    let flags = |wanted: &str| -> Vec<String> {
        let mut pkg_config = Command::new("pkg-config");
        pkg_config.env("PKG_CONFIG_PATH", installed.prefix().join("lib/pkgconfig"));
        text(pkg_config.args([wanted, "taskbasis"])).split_whitespace().map(String::from).collect()
    };
    assert_eq!(flags("--modversion"), [env!("CARGO_PKG_VERSION")]);
    for compiler in compilers() {
        let program = installed.scratch().join("program");
        let mut compile = compiler.cpp17();
        compile.args(flags("--cflags")).args(["tests/c/unit_a.cpp", "tests/c/unit_b.cpp"].map(source));
        run(compile.arg("-o").arg(&program).args(flags("--libs")));
        run(installed.command(&program).env("LD_LIBRARY_PATH", installed.prefix().join("lib")));
    }
}

#[test]
fn a_cmake_project_uses_the_installed_copy() {
    let (Some(installed), Some(family)) = (installed(), family()) else { return };
    if !support::c::available("cmake") || compilers().is_empty() {
        return skip(Need::Cc, "there is no cmake, or no compiler");
    }
    // The project is copied, so that nothing of the repository can help it.
    let project = installed.scratch();
    for path in ["cmake/CMakeLists.txt", "c/quickstart.c", "cpp/quickstart.cpp"] {
        let to = project.join("examples").join(path);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(source(Path::new("examples").join(path)), to).unwrap();
    }
    let build = project.join("build");
    let mut cmake = Command::new("cmake");
    cmake.arg("-S").arg(project.join("examples/cmake")).arg("-B").arg(&build);
    run(cmake.arg(format!("-DCMAKE_PREFIX_PATH={}", installed.prefix().display())));
    run(Command::new("cmake").arg("--build").arg(&build));
    let runtime = installed.prefix().join("lib/libonnxruntime.so");
    if runtime.exists() {
        std::os::unix::fs::symlink(runtime, build.join("libonnxruntime.so")).unwrap();
    }
    for program in ["quickstart", "quickstart_static"] {
        check_quickstart(|| {
            let mut command = installed.command(&build.join(program));
            command.arg(&family.basis).arg(&family.base);
            command
        });
    }
    let Family { basis, base, heads, classes } = &family;
    run(installed.command(&build.join("quickstart_cpp")).args([basis, base, heads, classes]).arg("MNIST"));

    let mut old = Command::new("cmake");
    let lists = project.join("examples/cmake/CMakeLists.txt");
    let text = std::fs::read_to_string(&lists).unwrap().replace("taskbasis 0.1 ", "taskbasis 0.99 ");
    std::fs::write(&lists, text).unwrap();
    old.arg("-S").arg(project.join("examples/cmake")).arg("-B").arg(project.join("other"));
    old.arg(format!("-DCMAKE_PREFIX_PATH={}", installed.prefix().display()));
    assert!(!old.output().unwrap().status.success(), "a version that is not there was found");
}
