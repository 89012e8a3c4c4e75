//! One run of a scene with one fault, and the judgement of what came of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::chosen::{Calls, Fault};
use crate::scenes::{Kind, Scene};

/// The time after which a run counts as one that never ends: hundreds of times what it takes.
const PATIENCE: Duration = Duration::from_secs(30);

const SIGABRT: i32 = 6;

/// Parts of others whose own tables, of sizes that no file and no user has a say in, end the process where they are
/// refused; the standard library's trace then names them. `docs/embedding.md` says so.
const OUTSIDE: [&str; 4] = ["instant_clip_tokenizer", "regex_automata", "matrixmultiply", "clap_builder"];

/// What came of a run.
pub(crate) enum Verdict {
    /// The result of the undisturbed run.
    Right,
    /// One clean error.
    Error,
    /// An end that code of others makes of a refused allocation: see [`OUTSIDE`].
    Outside,
    Wrong(String),
}

/// The files of a folder, by their paths in it.
type Files = BTreeMap<PathBuf, Vec<u8>>;

struct Ended {
    status: Option<ExitStatus>,
    stdout: String,
    stderr: String,
    files: Files,
    log: String,
}

/// A scene with what comes of it undisturbed.
pub(crate) struct Bench<'a> {
    shim: &'a Path,
    scene: Scene<'a>,
    before: Files,
    right: Ended,
}

impl<'a> Bench<'a> {
    pub(crate) fn new(shim: &'a Path, scene: Scene<'a>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        (scene.prepare)(folder.path());
        let before = files(folder.path(), &scene);
        let right = start(shim, &scene, folder.path(), None);
        assert!(right.status.unwrap().success(), "{}: {}{}", scene.name, right.stdout, right.stderr);
        Self { shim, scene, before, right }
    }

    pub(crate) fn scene(&self) -> &Scene<'a> {
        &self.scene
    }

    /// The calls of an undisturbed run.
    pub(crate) fn count(&self) -> Calls {
        let folder = tempfile::tempdir().unwrap();
        (self.scene.prepare)(folder.path());
        let ended = start(self.shim, &self.scene, folder.path(), Some("count"));
        self.expect_right(&ended).unwrap_or_else(|why| panic!("{} with the shim: {why}", self.scene.name));
        let mut calls = Calls::new();
        for line in ended.log.lines() {
            let [call, _, hash] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            calls.entry(call.to_owned()).or_default().push(u64::from_str_radix(hash, 16).unwrap());
        }
        calls
    }

    pub(crate) fn run(&self, fault: &Fault) -> Verdict {
        let folder = tempfile::tempdir().unwrap();
        (self.scene.prepare)(folder.path());
        let ended = start(self.shim, &self.scene, folder.path(), Some(&fault.to_string()));
        let judged = self.judge(&ended, fault);
        let judged = judged.and_then(|verdict| {
            // What a failed run leaves must not hinder the next.
            let says = |text: &str| ended.stderr.contains(text);
            let is_told = says("has been written; what failed came after it") || says("it is written, but its name");
            let is_done = ended.files == self.right.files && (is_told || is_silenced(&ended, fault));
            if matches!(verdict, Verdict::Error) && self.scene.kind != Kind::C && !is_done {
                let again = start(self.shim, &self.scene, folder.path(), None);
                self.expect_right(&again).map_err(|why| format!("the run after it: {why}"))?;
            }
            Ok(verdict)
        });
        judged.unwrap_or_else(|why| {
            let Ended { status, stdout, stderr, log, .. } = &ended;
            let status = status.map_or_else(|| "never ended".to_owned(), |status| status.to_string());
            Verdict::Wrong(format!("{why}\n{status}\nstdout: {stdout}\nstderr: {stderr}\n{log}"))
        })
    }

    fn judge(&self, ended: &Ended, fault: &Fault) -> Result<Verdict, String> {
        let status = ended.status.ok_or("it hangs")?;
        if status.signal() == Some(SIGABRT) && OUTSIDE.iter().any(|parts| ended.stderr.contains(parts)) {
            return Ok(Verdict::Outside);
        }
        if let Some(signal) = status.signal() {
            return Err(format!("it dies of signal {signal}"));
        }
        let is_silenced = is_silenced(ended, fault);
        if ["panicked", "a defect in taskbasis"].iter().any(|said| ended.stderr.contains(said)) {
            return Err("it panics".into());
        }
        let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
        match status.code() {
            Some(0) => {
                if !errors.is_empty() {
                    return Err("it succeeds, and says an error".into());
                }
                self.expect_right(ended)?;
                Ok(Verdict::Right)
            }
            Some(1) => {
                let others = ended.stderr.lines().filter(|line| !line.starts_with("error: "));
                let others: Vec<&str> = others.filter(|line| !line.starts_with("note: ")).collect();
                if !is_silenced && !others.is_empty() {
                    return Err(format!("it says what is neither an error nor a note: {}", others.join(" | ")));
                }
                let count = errors.len();
                if !is_silenced && (count == 0 || (count > 1 && !self.scene.says_several())) {
                    return Err(format!("it fails with {count} errors"));
                }
                // A system that opens and looks at nothing lets nothing be removed: the next program that writes there
                // does it, after a while.
                let is_left = |path: &Path| {
                    let name = path.to_string_lossy();
                    // A lock's file that cannot be looked at stays, too, and the next writer takes it.
                    name.starts_with(".taskbasis-") && (fault.is_lasting || name.ends_with(".lock"))
                };
                for (path, bytes) in ended.files.iter().filter(|(path, _)| !is_left(path)) {
                    if self.before.get(path) != Some(bytes) && self.right.files.get(path) != Some(bytes) {
                        return Err(format!("{} is neither the old file nor the new", path.display()));
                    }
                }
                if let Some(lost) = self.before.keys().find(|path| !ended.files.contains_key(*path)) {
                    return Err(format!("{} is lost", lost.display()));
                }
                // The program in C tries everything again.
                if self.scene.kind == Kind::C && !fault.is_lasting && !is_hit(ended, 1) {
                    self.expect_same("stdout", &ended.stdout, &self.right.stdout)?;
                }
                Ok(Verdict::Error)
            }
            code => Err(format!("it ends with {code:?}")),
        }
    }

    fn expect_right(&self, ended: &Ended) -> Result<(), String> {
        if ended.status.is_none_or(|status| !status.success()) {
            return Err(format!("it fails: {}", ended.stderr));
        }
        self.expect_same("stdout", &ended.stdout, &self.right.stdout)?;
        if ended.files.keys().ne(self.right.files.keys()) {
            return Err(format!("other files: {:?}", ended.files.keys()));
        }
        let other = ended.files.iter().find(|(path, bytes)| self.right.files[*path] != **bytes);
        other.map_or(Ok(()), |(path, _)| Err(format!("{} has other bits", path.display())))
    }

    fn expect_same(&self, what: &str, got: &str, right: &str) -> Result<(), String> {
        let (got, right) = (without_times(got), without_times(right));
        if got == right { Ok(()) } else { Err(format!("{what} differs: {right}")) }
    }
}

/// Whether the fault was one of this descriptor.
fn is_hit(ended: &Ended, descriptor: u32) -> bool {
    ended.log.lines().any(|line| line == format!("hit {descriptor}"))
}

/// Whether nothing could be said on stderr, so that nothing need be.
fn is_silenced(ended: &Ended, fault: &Fault) -> bool {
    is_hit(ended, 2) || (fault.is_lasting && fault.call == "write")
}

/// The text without what a clock or the run's own folder puts into it.
fn without_times(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().map(|word| word.trim_end_matches([',', ';', '.'])).collect();
    let is_time = |i: usize| words.get(i + 1).is_some_and(|unit| ["ms", "s", "µs"].contains(unit));
    let kept = (0..words.len()).filter(|&i| !is_time(i) && !words[i].contains("/tmp"));
    kept.map(|i| words[i]).collect::<Vec<_>>().join(" ")
}

fn start(shim: &Path, scene: &Scene<'_>, folder: &Path, fault: Option<&str>) -> Ended {
    let beside = tempfile::tempdir().unwrap();
    let at = |name: &str| beside.path().join(name);
    let mut command = Command::new(&scene.program);
    command.args((scene.arguments)(folder)).current_dir(folder);
    (scene.environment)(&mut command, folder);
    // An abort then says whose it is.
    command.stdin(Stdio::null()).env("RUST_BACKTRACE", "1");
    command.stdout(File::create(at("stdout")).unwrap()).stderr(File::create(at("stderr")).unwrap());
    if let Some(fault) = fault {
        command.env("LD_PRELOAD", shim).env("FAULT", fault).env("FAULT_LOG", at("log"));
        if fault.contains('+') {
            command.env("FAULT_LASTS", "1");
        }
    }
    let mut child = command.spawn().unwrap();
    let began = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if began.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            break None;
        }
        thread::sleep(Duration::from_millis(2));
    };
    let text = |name: &str| String::from_utf8_lossy(&fs::read(at(name)).unwrap_or_default()).into_owned();
    Ended { status, stdout: text("stdout"), stderr: text("stderr"), files: files(folder, scene), log: text("log") }
}

/// What counts of the files below a folder.
fn files(folder: &Path, scene: &Scene<'_>) -> Files {
    let mut found = Files::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            let path = entry.path();
            let relative = path.strip_prefix(folder).unwrap().to_owned();
            if path.is_dir() {
                open.push(path);
            } else if (scene.counts)(&relative) {
                found.insert(relative, fs::read(&path).unwrap());
            }
        }
    }
    found
}
