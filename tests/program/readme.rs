//! README's commands run as they stand there.
#![cfg(unix)]

use std::path::Path;
use std::process::Command;

/// The blocks of commands that README says are run, one after the other.
fn commands() -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let marked = readme.split("<!-- run by tests/readme.rs -->\n```sh\n").skip(1);
    marked.map(|from| from.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn commands_do_what_it_says() {
    let commands = commands();
    let folder = tempfile::tempdir().unwrap();
    let link = |from: &Path, to: &str| {
        let to = folder.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(from, to).unwrap();
    };
    link(&Path::new(env!("CARGO_MANIFEST_DIR")).join("examples"), "examples");
    // Where ONNX Runtime is found beside the program, as after `make demo`.
    link(Path::new(env!("CARGO_BIN_EXE_taskbasis")).parent().unwrap(), "target/release");

    let output = Command::new("sh").args(["-eu", "-c", &commands]).current_dir(folder.path()).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    // What is said beside the three commands, in their order.
    let said = ["MNIST", "Parity", "Loops"].map(|task| {
        let line = commands.lines().find(|line| line.contains(&format!("--task {task} "))).unwrap();
        line.split_once('#').unwrap().1.trim()
    });
    let mut rest = &*out;
    for said in said {
        let shown = format!("eight.png  {said} ");
        (_, rest) = rest.split_once(&shown).unwrap_or_else(|| panic!("no {shown:?} in {rest}"));
    }
    for made in ["embeds.safetensors", "merged.safetensors", "model.taskbasis"] {
        assert!(folder.path().join(made).is_file(), "{made}");
    }
}
