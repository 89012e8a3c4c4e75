//! Other libraries on the same weights and images, in a process of Python that runs one of them when it is asked to: so
//! they take turns with what runs here.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use taskbasis::{Error, ErrorKind, Result, TaskExpr};

use super::Setup;
use super::frozen::FrozenFile;
use crate::output;

/// The program that the process runs. It says what goes over the pipes.
const WORKER: &str = include_str!("worker.py");

/// What installs them all.
const INSTALL: &str = "-m pip install openvino onnxruntime onnx torch numpy";

/// One of the other libraries, in one precision.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Peer {
    /// `openvino-f32`, `openvino-bf16`, `onnxruntime-int8`, `pytorch-bf16`.
    pub peer: String,
    pub package: String,
    pub version: Option<String>,
    /// The time until it could run: compiling or quantising.
    pub ready_ms: f64,
}

/// One that is not measured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct LeftOut {
    pub peer: String,
    /// The package that is missing, or failed.
    pub package: String,
    pub version: Option<String>,
    pub why: String,
}

impl LeftOut {
    /// `openvino-bf16 is not measured: openvino 2026.4.1: …`.
    pub fn text(&self) -> String {
        let version = self.version.as_ref().map_or(String::new(), |version| format!(" {version}"));
        format!("{} is not measured: {}{version}: {}", self.peer, self.package, self.why)
    }
}

/// The process, and what it can run.
#[derive(Debug)]
pub struct Peers {
    worker: Worker,
    pub there: Vec<Peer>,
    pub left_out: Vec<LeftOut>,
}

#[derive(Deserialize)]
struct Seen {
    python: String,
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    package: String,
    version: Option<String>,
    why: Option<String>,
}

#[derive(Deserialize)]
struct Begun {
    there: Vec<Peer>,
    left_out: Vec<LeftOut>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Ran {
    Done { ms: f64, embeds: Option<Vec<f32>> },
    Failed { error: String },
}

/// The interpreter that `--peers` names: a program, or the folder of an environment.
pub fn interpreter(given: &Path) -> PathBuf {
    if !given.is_dir() {
        return given.to_owned();
    }
    let (folder, program) = if cfg!(windows) { ("Scripts", "python.exe") } else { ("bin", "python") };
    given.join(folder).join(program)
}

/// Whether any peer can be had, before minutes are spent on the rest.
///
/// # Errors
/// [`ErrorKind::Io`] where there is no such program; [`ErrorKind::NotFound`] where it is no Python or has none of the
/// packages, each with what its import says.
pub fn check(given: &Path) -> Result<()> {
    let python = interpreter(given);
    let mut worker = Worker::start(&python, "look")?;
    let Seen { python: version, packages } = worker.answer()?;
    let (there, lacking): (Vec<_>, Vec<_>) = packages.iter().partition(|package| package.version.is_some());
    let has = |name: &str| there.iter().any(|package| package.package == name);
    let told = lacking.iter().map(|Package { package, why, .. }| {
        format!("{package}: {}", why.as_deref().unwrap_or("it cannot be imported"))
    });
    if has("numpy") && ["openvino", "onnxruntime", "torch"].into_iter().any(has) {
        return Ok(());
    }
    Err(Error::not_found(format!("Python {version} has none of the peers' packages, or no numpy"))
        .at(&python)
        .because(told.collect::<Vec<_>>().join("; "))
        .hint(format!("Install them: {} {INSTALL}", python.display())))
}

impl Peers {
    /// Starts the process, which makes all peers that it can make from the task's file. What is left out is said.
    ///
    /// # Errors
    /// As [`check`]; [`ErrorKind::Runtime`] where the process ends.
    pub fn start(setup: &Setup<'_>, python: &Path, frozen: &FrozenFile, task: &TaskExpr) -> Result<Self> {
        let mut worker = Worker::start(&interpreter(python), "serve")?;
        let folder = worker.folder.path();
        let (weights, pixels) = (folder.join("task.safetensors"), folder.join("pixels.f32"));
        setup.family.open(setup.threads, 0)?.weights(task)?.get()?.save(&weights, &[], &[])?;
        let most = setup.batches.iter().copied().max().unwrap_or(1);
        let bytes: Vec<u8> = setup.pixels(most).into_iter().flat_map(f32::to_le_bytes).collect();
        std::fs::write(&pixels, bytes).map_err(|e| Error::io("cannot write", &pixels, e))?;
        let side = setup.about.arch.image_size();
        let about = json!({
            "onnx": frozen.path(), "weights": weights, "pixels": pixels, "folder": folder, "image": [3, side, side],
            "threads": setup.threads, "arch": setup.about.arch,
        });
        worker.ask(&about)?;
        let Begun { there, left_out } = worker.answer()?;
        left_out.iter().for_each(|peer| output::note(&peer.text()));
        Ok(Self { worker, there, left_out })
    }

    /// The milliseconds of one run of the first `batch` images.
    ///
    /// # Errors
    /// [`ErrorKind::Runtime`], with package and version, where the run or the process fails.
    pub fn run(&mut self, peer: &str, batch: usize) -> Result<f64> {
        self.ask(peer, batch, false).map(|(ms, _)| ms)
    }

    /// The embeddings of the first `batch` images.
    ///
    /// # Errors
    /// As [`Peers::run`].
    pub fn embed(&mut self, peer: &str, batch: usize) -> Result<Vec<f32>> {
        self.ask(peer, batch, true).map(|(_, embeds)| embeds)
    }

    fn ask(&mut self, peer: &str, batch: usize, embeds: bool) -> Result<(f64, Vec<f32>)> {
        self.worker.ask(&json!({ "peer": peer, "batch": batch, "embeds": embeds }))?;
        let failed = |error: String| {
            let about = self.there.iter().find(|about| about.peer == peer);
            let version = about.map_or(String::new(), |about| {
                format!(" ({} {})", about.package, about.version.as_deref().unwrap_or("of unknown version"))
            });
            Error::new(ErrorKind::Runtime, format!("a run of {peer}{version} failed, batch {batch}")).because(error)
        };
        match self.worker.answer()? {
            Ran::Done { ms, embeds } => Ok((ms, embeds.unwrap_or_default())),
            Ran::Failed { error } => Err(failed(error)),
        }
    }

    /// Takes a peer out of what is measured, and says so.
    pub fn leave_out(&mut self, peer: &str, why: String) {
        let Some(at) = self.there.iter().position(|about| about.peer == peer) else { return };
        let Peer { peer, package, version, .. } = self.there.remove(at);
        let left_out = LeftOut { peer, package, version, why };
        output::note(&left_out.text());
        self.left_out.push(left_out);
    }
}

/// A process that answers a line with a line. It ends with this value.
#[derive(Debug)]
struct Worker {
    python: PathBuf,
    child: Child,
    /// `None` once the process is to end.
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    /// Its program, what it prints, and its files.
    folder: tempfile::TempDir,
}

impl Worker {
    fn start(python: &Path, mode: &str) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(|e| Error::io("cannot make", std::env::temp_dir(), e))?;
        let (program, log) = (folder.path().join("worker.py"), folder.path().join("log"));
        std::fs::write(&program, WORKER).map_err(|e| Error::io("cannot write", &program, e))?;
        let printed = std::fs::File::create(&log).map_err(|e| Error::io("cannot write", &log, e))?;
        let mut command = Command::new(python);
        command.arg(&program).arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(printed);
        let start = command.spawn().map_err(|e| Error::io("cannot start the Python of --peers", python, e));
        let mut child = start?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Error::new(ErrorKind::Internal, "a process has no pipes"));
        };
        Ok(Self {
            python: python.to_owned(),
            child,
            requests: Some(requests),
            answers: BufReader::new(answers),
            folder,
        })
    }

    fn ask(&mut self, request: &serde_json::Value) -> Result<()> {
        let line = format!("{request}\n");
        let requests = self.requests.as_mut();
        match requests.map(|requests| requests.write_all(line.as_bytes()).and_then(|()| requests.flush())) {
            Some(Ok(())) => Ok(()),
            _ => Err(self.ended()),
        }
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = Vec::new();
        match self.answers.read_until(b'\n', &mut line) {
            Ok(read) if read > 0 => serde_json::from_slice(&line).map_err(|e| {
                let said = String::from_utf8_lossy(&line);
                let error = Error::new(ErrorKind::Runtime, "the peers' process answers something else");
                error.at(&self.python).got(said.trim().chars().take(200).collect::<String>()).because(e)
            }),
            _ => Err(self.ended()),
        }
    }

    /// The error of a process that is gone, with the last that it printed.
    fn ended(&mut self) -> Error {
        self.requests = None;
        let status = self.child.wait().map_or_else(|e| e.to_string(), |status| status.to_string());
        let printed = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        let printed = String::from_utf8_lossy(&printed);
        let lines: Vec<&str> = printed.lines().filter(|line| !line.trim().is_empty()).collect();
        let last = lines[lines.len().saturating_sub(5)..].join("; ");
        Error::new(ErrorKind::Runtime, format!("the peers' process ended: {status}")).at(&self.python).because(last)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // It ends with its input, unless it hangs in a run.
        self.requests = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(all(test, unix))]
mod tests;
