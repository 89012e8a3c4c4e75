//! Several that write one file, signals in the midst of it, and limits: nothing is lost, and nothing is left.
#![cfg(all(unix, feature = "cli"))]

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::build::{content, write_family};
use crate::support::bundle::{Family, tiny_files};
use crate::support::program::{fail, text};
use taskbasis::{
    BaseFormat, Bundle, BundleUpdate, Checkpoint, ErrorKind, Method, ModelOptions, NewTask, TaskExpr, lock_output,
};

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
    command.args(arguments).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// A fine-tuned checkpoint of the family's model.
fn finetuned(family: &Family, bundle: &Path) -> PathBuf {
    let path = family.path("finetuned.safetensors");
    let expr: TaskExpr = "Task0@0.5 + Task1@0.5".parse().unwrap();
    let model = Bundle::open(bundle).unwrap().model(None, &ModelOptions::default()).unwrap();
    model.weights(&expr).unwrap().get().unwrap().save(&path, &[], &[]).unwrap();
    path
}

/// What is ours beside the outputs in a folder.
fn left(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".taskbasis-")).collect()
}

#[test]
fn programs_that_add_tasks_at_once_all_do() {
    let family = tiny_files(Method::Autoencoder);
    let path = family.pack("x.taskbasis", "f32", BaseFormat::F32);
    let finetuned = finetuned(&family, &path);
    let mut added = Vec::new();
    for round in 0..3 {
        let programs: Vec<_> = (0..4)
            .map(|i| {
                let name = format!("New{round}{i}");
                let task = format!("{name}={}", text(&finetuned));
                added.push(name);
                program(&["add-task", text(&path), "--task", &task]).spawn().unwrap()
            })
            .collect();
        for program in programs {
            let output = program.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
    }
    let bundle = Bundle::open(&path).unwrap();
    assert!(bundle.verify(0, &|_| {}).is_empty());
    let mut tasks = bundle.tasks()[3..].to_vec();
    tasks.sort();
    assert_eq!((tasks, left(family.folder.path())), (added, Vec::new()));
}

/// A bundle that is packed anew meanwhile is not lost to one that has a task added to what it was.
#[test]
fn what_is_packed_meanwhile_is_not_lost() {
    let family = tiny_files(Method::Autoencoder);
    let path = family.pack("x.taskbasis", "f32", BaseFormat::F32);
    let finetuned = finetuned(&family, &path);
    let task = format!("New={}", text(&finetuned));
    let (basis, base) = (text(&family.basis), text(&family.base));
    let pack = ["pack", "--basis", basis, "--base", base, "--heads-count", "2", "--no-golden", "--format", "f16"];
    let pack = [&pack[..], &["-o", text(&path)]].concat();
    for round in 0..6 {
        family.pack("x.taskbasis", "f32", BaseFormat::F32);
        let (adds, packs) = (["add-task", text(&path), "--task", &task], &pack[..]);
        let order: [&[&str]; 2] = if round % 2 == 0 { [&adds, packs] } else { [packs, &adds] };
        let programs = order.map(|arguments| program(arguments).spawn().unwrap());
        for program in programs {
            let output = program.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let bundle = Bundle::open(&path).unwrap();
        // Either the task was added to what was packed, or all was packed anew when it had been added.
        assert!(
            bundle
                .sections()
                .iter()
                .any(|section| section.kind == "vectors" && section.format.eq_ignore_ascii_case("f16"))
        );
        assert!(bundle.verify(0, &|_| {}).is_empty());
    }
}

#[test]
fn a_bundle_that_was_changed_meanwhile_is_not_replaced() {
    let family = tiny_files(Method::Autoencoder);
    let path = family.pack("x.taskbasis", "f32", BaseFormat::F32);
    let finetuned = Checkpoint::open(finetuned(&family, &path)).unwrap();
    let other = family.path("other.taskbasis");
    fs::hard_link(&path, family.path("y.taskbasis")).unwrap();
    let new = |name| NewTask { name, finetuned: &finetuned, head: None, residual: None };
    let (first, second) = (Bundle::open(&path).unwrap(), Bundle::open(&path).unwrap());
    let mut update = BundleUpdate::new(&first, None).unwrap();
    update.task(new("First")).unwrap();
    update.write(&path, &[], &|_| {}).unwrap();
    let written = fs::read(&path).unwrap();

    let mut update = BundleUpdate::new(&second, None).unwrap();
    update.task(new("Second")).unwrap();
    let error = update.write(&path, &[], &|_| {}).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Mismatch, Some(&*path)));
    assert!(error.to_string().contains("nothing was written"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), written);
    // To another file, and to the one that it still is, it goes.
    for path in [&other, &family.path("y.taskbasis")] {
        let mut update = BundleUpdate::new(&second, None).unwrap();
        update.task(new("Second")).unwrap();
        update.write(path, &[], &|_| {}).unwrap();
        assert_eq!(Bundle::open(path).unwrap().tasks().last().unwrap(), "Second");
    }
    // Gone altogether, it is not made anew either.
    let third = Bundle::open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let mut update = BundleUpdate::new(&third, None).unwrap();
    update.task(new("Third")).unwrap();
    assert_eq!(update.write(&path, &[], &|_| {}).unwrap_err().kind(), ErrorKind::Mismatch);
    assert!(!path.exists() && left(family.folder.path()).is_empty());
}

#[test]
fn a_program_says_whom_it_waits_for() {
    let family = tiny_files(Method::Autoencoder);
    let path = family.pack("x.taskbasis", "f32", BaseFormat::F32);
    let task = format!("New={}", text(&finetuned(&family, &path)));
    let lock = lock_output(&path, &|| {}).unwrap();
    let program = program(&["add-task", text(&path), "--task", &task]).spawn().unwrap();
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!(Bundle::open(&path).unwrap().tasks().len(), 3, "it did not wait");
    drop(lock);
    let output = program.wait_with_output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{told}");
    let waiting = format!("note: waiting for another program that writes {}", path.display());
    assert_eq!(told.lines().filter(|line| **line == waiting).count(), 1, "{told}");
    assert_eq!(Bundle::open(&path).unwrap().tasks().len(), 4);
}

/// Ended by a signal at any moment, a program leaves nothing beside its output; those who started it see the signal.
#[test]
fn signals_leave_no_partial_file() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let around = tempfile::tempdir().unwrap();
    let (base, tasks) = (text(&files[0]), text(folder.path()));
    let mut ended = 0;
    for (name, more) in [("out", &[][..]), ("out.taskbasis", &["--heads-count", "3", "--no-golden"])] {
        let out = around.path().join(name);
        let arguments = ["build", "--vectors", "3", "--base", base, "--tasks-dir", tasks, "-o", text(&out)];
        let arguments = [&arguments[..], more].concat();
        let read = || if out.is_dir() { content(&out) } else { [(String::new(), fs::read(&out).unwrap())].into() };
        assert!(program(&arguments).status().unwrap().success());
        let whole = read();
        for (i, signal) in [Signal::INT, Signal::TERM, Signal::HUP].repeat(4).into_iter().enumerate() {
            let _ = fs::remove_dir_all(&out).or_else(|_| fs::remove_file(&out));
            let child = program(&arguments).spawn().unwrap();
            let began = Instant::now();
            let is_partial = |name: &String| name.ends_with(".partial");
            while !left(around.path()).iter().any(is_partial) && began.elapsed() < Duration::from_secs(10) {
                thread::yield_now();
            }
            thread::sleep(Duration::from_millis(2 * i as u64));
            let pid = Pid::from_raw(child.id().cast_signed()).unwrap();
            kill_process(pid, signal).unwrap();
            let output = child.wait_with_output().unwrap();
            let told = String::from_utf8(output.stderr).unwrap();
            if output.status.signal() == Some(signal.as_raw()) {
                ended += 1;
                assert!(!told.contains("error"), "{told}");
            } else {
                assert!(output.status.success(), "{signal:?}: {told}");
            }
            assert_eq!(left(around.path()), Vec::<String>::new(), "{name} after {signal:?}");
            assert!(!out.exists() || read() == whole, "{name} after {signal:?}");
        }
    }
    assert!(ended > 0, "no signal came in time");
}

/// Signals that were ignored stay so: `nohup` and background jobs of scripts rely on it.
#[test]
fn ignored_signals_stay_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let out = folder.path().join("out.taskbasis");
    let script = format!(
        "trap '' HUP; {} build --base {} --task A={} --task B={} --heads-count 3 --no-golden -o {} & kill -HUP $!; wait $!",
        env!("CARGO_BIN_EXE_taskbasis"),
        text(&files[0]),
        text(&files[1]),
        text(&files[2]),
        text(&out)
    );
    assert!(Command::new("sh").args(["-c", &script]).stdout(Stdio::null()).status().unwrap().success());
    assert!(out.is_file());
}

/// A limit on the size of files is an error as a full disk is: it names the output and the size that it would have.
#[test]
fn a_limit_on_the_size_of_files_is_a_clear_error() {
    let family = tiny_files(Method::Autoencoder);
    let bundle = family.pack("x.taskbasis", "f32", BaseFormat::F32);
    let finetuned = finetuned(&family, &bundle);
    let around = tempfile::tempdir().unwrap();
    let out = around.path().join("out");
    let (basis, base) = (text(&family.basis), text(&family.base));
    let model = format!("--basis {basis} --base {base}");
    for command in [
        format!("pack {model} --heads-count 2 --no-golden -o"),
        format!("add-task {} --task New={} -o", text(&bundle), text(&finetuned)),
        format!("reconstruct {model} --weights Task0 -o"),
        format!("export {model} --heads-count 2 --weights Task0 -o"),
    ] {
        fs::write(&out, "the old file").unwrap();
        let script = format!("ulimit -f 1; exec {} {command} {}", env!("CARGO_BIN_EXE_taskbasis"), text(&out));
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        let error = told.lines().last().unwrap_or_default();
        assert_eq!(output.status.code(), Some(1), "{command}: {told}");
        // Between them may be the tensor at which it happened.
        let names_it = error.starts_with(&format!("error: {}: ", out.display())) && error.contains("cannot write");
        assert!(names_it, "{command}: {error}");
        assert!(error.contains("expected room for ") && error.contains(" bytes"), "{command}: {error}");
        assert_eq!(fs::read_to_string(&out).unwrap(), "the old file");
        assert!(left(around.path()).is_empty());
    }
}

/// Every command with an output refuses one that could not be written before it looks at anything else.
#[test]
fn outputs_are_checked_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let long = "x".repeat(300);
    let blob = folder.path().join("hub/models--o--r/blobs/abc");
    fs::create_dir_all(blob.parent().unwrap()).unwrap();
    fs::write(&blob, "shared").unwrap();
    let commands = [
        "pack --basis no --base no -o",
        "reconstruct --basis no --weights x -o",
        "embed --basis no --weights x -i no -o",
        "export --basis no --weights x -o",
        "heads --text-model no --classes no -o",
        "bind no --basis no -o",
        "add-task no --task x=no -o",
        "eval --basis no --data no --sweep 0:1:3 --heads no --report",
    ];
    for command in commands {
        for (output, why) in [
            ("new/.", "is the name of a folder"),
            (&*long, "cannot write a file of this name"),
            ("hub/models--o--r/blobs/abc", "into the Hub's cache"),
            ("no/such/folder", "its folder does not exist"),
        ] {
            let output = folder.path().join(output);
            let arguments: Vec<&str> = command.split(' ').chain([text(&output)]).collect();
            fail(&arguments, &[why]);
        }
    }
    // Of `build` it may be a folder.
    for (output, why) in [
        (&*long, "cannot write a file of this name"),
        ("hub/models--o--r/new.taskbasis", "into the Hub's cache"),
        ("hub/models--o--r/new/", "into the Hub's cache"),
        ("no/such/folder", "the one around it does not exist"),
    ] {
        let output = folder.path().join(output);
        fail(&["build", "--base", "no", "--task", "a=no", "--task", "b=no", "-o", text(&output)], &[why]);
    }
    assert_eq!(fs::read_to_string(&blob).unwrap(), "shared");
}
