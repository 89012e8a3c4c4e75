//! The server in a process of its own, and a client that is no more than a socket: tests say what is sent, byte by
//! byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::need::root;

/// A running server.
pub struct Server {
    process: Process,
    pub address: String,
    /// Kept open: a program whose output is closed may not write to it.
    _stdout: BufReader<ChildStdout>,
}

/// Killed when dropped.
struct Process(Child);

/// The bundle that is served.
pub fn bundle() -> String {
    root().join("examples/glyphs/glyphs.taskbasis").to_str().unwrap().to_owned()
}

/// `taskbasis serve` over the bundle, on a free port.
pub fn command(options: &[&str]) -> Command {
    command_over(&bundle(), options)
}

fn command_over(model: &str, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
    command.args(["serve", model]).args(options);
    if !options.contains(&"--bind") {
        command.args(["--bind", "127.0.0.1:0"]);
    }
    // What a shell starts in the background ignores SIGINT, and so would the server that is started from there.
    #[cfg(unix)]
    // SAFETY: this is a call that may be made between fork and exec.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, || {
            libc::signal(libc::SIGINT, libc::SIG_DFL);
            Ok(())
        });
    }
    command
}

impl Server {
    /// Starts it, and waits until it answers.
    #[track_caller]
    pub fn start(options: &[&str]) -> Self {
        Self::over(&bundle(), options)
    }

    /// The same over another model.
    #[track_caller]
    pub fn over(model: &str, options: &[&str]) -> Self {
        let mut child = command_over(model, options).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        let (_, address) = line.trim().rsplit_once("http://").unwrap_or_else(|| panic!("no address in `{line}`"));
        Self { process: Process(child), address: address.to_owned(), _stdout: stdout }
    }

    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        Client { stream: BufReader::new(stream), address: self.address.clone() }
    }

    #[track_caller]
    pub fn get(&self, path: &str) -> Reply {
        self.connect().send("GET", path, &[], b"").unwrap()
    }

    #[track_caller]
    pub fn post(&self, path: &str, body: &Value) -> Reply {
        self.connect().post(path, body).unwrap()
    }

    /// The value of a metric, with its labels; 0 where it has not been counted.
    #[track_caller]
    pub fn metric(&self, name: &str) -> f64 {
        let text = String::from_utf8(self.get("/metrics").body).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until a metric is as wanted.
    #[track_caller]
    pub fn wait_for(&self, name: &str, is_wanted: impl Fn(f64) -> bool) {
        let until = Instant::now() + Duration::from_secs(20);
        while !is_wanted(self.metric(name)) {
            assert!(Instant::now() < until, "{name} is {}", self.metric(name));
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[cfg(unix)]
    pub fn signal(&self, signal: i32) {
        // SAFETY: the process is a child that has not been waited for.
        assert_eq!(unsafe { libc::kill(self.process.0.id() as i32, signal) }, 0);
    }

    /// Waits for its end.
    #[track_caller]
    pub fn ended(&mut self) -> ExitStatus {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.process.0.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection.
pub struct Client {
    pub stream: BufReader<TcpStream>,
    address: String,
}

/// An answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// What a success says.
    #[track_caller]
    pub fn done(self) -> Value {
        assert_eq!(self.status, 200, "{}", String::from_utf8_lossy(&self.body));
        self.json()
    }

    /// That it failed with this status and kind, and says all of `parts`.
    #[track_caller]
    pub fn failed(&self, status: u16, kind: &str, parts: &[&str]) {
        let body = String::from_utf8_lossy(&self.body);
        assert_eq!(self.status, status, "{body}");
        let error = &self.json()["error"];
        assert_eq!(error["kind"], kind, "{body}");
        let text = format!("{} {}", error["message"], error["hint"]);
        parts.iter().for_each(|part| assert!(text.contains(part), "`{part}` is not in: {body}"));
    }
}

impl Client {
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> std::io::Result<Reply> {
        let mut head =
            format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {}\r\n", self.address, body.len());
        headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
        self.write(&[format!("{head}\r\n").as_bytes(), body].concat())?;
        self.reply()
    }

    pub fn post(&mut self, path: &str, body: &Value) -> std::io::Result<Reply> {
        self.send("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    pub fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// The next answer.
    pub fn reply(&mut self) -> std::io::Result<Reply> {
        let ended = || std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
        let mut line = || -> std::io::Result<String> {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 { Err(ended()) } else { Ok(line.trim_end().to_owned()) }
        };
        let status = line()?.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(ended)?;
        let mut headers = Vec::new();
        loop {
            let line = line()?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let length = headers.iter().find(|(name, _)| name == "content-length").map_or(0, |(_, n)| n.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        Ok(Reply { status, headers, body })
    }
}

/// The first `n` images of a task's test, as files: PGM, which anything can write.
pub fn images(task: &str, n: usize) -> Vec<Vec<u8>> {
    const HEADER: usize = 16;
    const IMAGE: usize = 32 * 32;
    let path = root().join(format!("examples/glyphs/data/{task}/t10k-images-idx3-ubyte.gz"));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(std::fs::File::open(path).unwrap()).read_to_end(&mut bytes).unwrap();
    let image = |image: &[u8]| [&b"P5\n32 32\n255\n"[..], image].concat();
    bytes[HEADER..].chunks_exact(IMAGE).take(n).map(image).collect()
}

pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// A request for embeddings.
pub fn asking(weights: &str, images: &[Vec<u8>]) -> Value {
    let images: Vec<String> = images.iter().map(|image| base64(image)).collect();
    json!({ "weights": weights, "images": images })
}

/// Numbers in JSON, as f32.
pub fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}
