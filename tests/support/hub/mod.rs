//! A server on this machine that answers as the Hub does, and misbehaves when it is told to.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use sha1::{Digest, Sha1};

mod said;

pub use said::{complaint, git_sha1, hex, sha256, stdout};

pub const REPO: &str = "owner/bases";

/// The token that the private repository wants.
pub const TOKEN: &str = "hf_secret";

/// The requests that a fault is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    Revision,
    Tree,
    /// `/owner/repo/resolve/…`: small files, and redirects to the other host for large ones.
    Resolve,
    /// The other host, which has the large files.
    Cdn,
}

/// A fault that happens once.
#[derive(Clone, Debug)]
pub enum Fault {
    Status(u16, Vec<(&'static str, &'static str)>),
    /// The connection is closed after this many bytes of the body.
    Cut(usize),
    /// A pause of this length after this many bytes.
    Stall(usize, Duration),
    /// One byte of the body is another.
    WrongByte,
    /// A length that the body has not, and a body of that length.
    Length(usize),
    /// No length at all, and this many bytes more than there should be.
    Surplus(usize),
    /// The answer to a range begins elsewhere.
    WrongRange,
    /// A redirect to the address.
    Redirect(String),
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub on: On,
    pub target: String,
    /// HEAD, where it is not GET.
    pub is_head: bool,
    pub headers: BTreeMap<String, String>,
    pub when: Instant,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

struct Content {
    bytes: Vec<u8>,
    /// Whether it is kept elsewhere, known by SHA-256.
    is_large: bool,
    /// The size that the listing says, where that is a lie.
    listed_size: Option<u64>,
}

#[derive(Default)]
struct State {
    repos: Mutex<BTreeMap<String, Repo>>,
    faults: Mutex<Vec<(On, Fault)>>,
    log: Mutex<Vec<Request>>,
    ranges: AtomicBool,
    page: AtomicUsize,
    ports: Mutex<(u16, u16)>,
    scheme: Mutex<&'static str>,
}

#[derive(Default)]
struct Repo {
    files: BTreeMap<String, Content>,
    /// The branch `main`, and others.
    commits: BTreeMap<String, String>,
    is_private: bool,
}

pub struct Server {
    state: Arc<State>,
    /// The cache that the program is given.
    pub home: tempfile::TempDir,
}

impl Server {
    pub fn start() -> Self {
        Self::start_with(None)
    }

    /// One that talks https, with the certificate in tests/data.
    pub fn start_tls() -> Self {
        use rustls::pki_types::pem::PemObject;
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
        let certificate = rustls::pki_types::CertificateDer::from_pem_file(data.join("localhost_cert.pem")).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::from_pem_file(data.join("localhost_key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        Self::start_with(Some(Arc::new(config.with_no_client_auth().with_single_cert(vec![certificate], key).unwrap())))
    }

    fn start_with(tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let state = Arc::new(State::default());
        *state.scheme.lock().unwrap() = if tls.is_some() { "https" } else { "http" };
        state.ranges.store(true, Ordering::SeqCst);
        state.page.store(2, Ordering::SeqCst);
        let listen = |is_cdn: bool| {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = listener.local_addr().unwrap().port();
            let (state, tls) = (Arc::clone(&state), tls.clone());
            thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let (state, tls) = (Arc::clone(&state), tls.clone());
                    // A client that goes away is none of the server's business.
                    thread::spawn(move || match tls {
                        None => drop(state.serve(stream, is_cdn)),
                        Some(tls) => {
                            let connection = rustls::ServerConnection::new(tls).unwrap();
                            drop(state.serve(rustls::StreamOwned::new(connection, stream), is_cdn));
                        }
                    });
                }
            });
            port
        };
        *state.ports.lock().unwrap() = (listen(false), listen(true));
        Self { state, home: tempfile::tempdir().unwrap() }
    }

    pub fn endpoint(&self) -> String {
        self.state.endpoint()
    }

    /// Adds a file, or changes it. Files of 1 kB and more are kept on the other host.
    pub fn put(&self, repo: &str, path: &str, bytes: &[u8]) {
        let mut repos = self.state.repos.lock().unwrap();
        let repo = repos.entry(repo.into()).or_default();
        let content = Content { bytes: bytes.into(), is_large: bytes.len() >= 1000, listed_size: None };
        repo.files.insert(path.into(), content);
        let all: Vec<u8> = repo.files.iter().flat_map(|(path, file)| [path.as_bytes(), &file.bytes].concat()).collect();
        repo.commits.insert("main".into(), hex(&Sha1::digest(all)));
    }

    /// All files of a folder on the disk.
    pub fn put_folder(&self, repo: &str, path: &str, folder: &Path) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let name = file.file_name().unwrap().to_str().unwrap().to_owned();
            self.put(repo, &format!("{path}/{name}"), &std::fs::read(&file).unwrap());
        }
    }

    /// Names where `main` is now.
    pub fn tag(&self, repo: &str, name: &str) {
        let mut repos = self.state.repos.lock().unwrap();
        let repo = repos.get_mut(repo).unwrap();
        let commit = repo.commits["main"].clone();
        repo.commits.insert(name.into(), commit);
    }

    pub fn commit(&self, repo: &str) -> String {
        self.state.repos.lock().unwrap()[repo].commits["main"].clone()
    }

    pub fn make_private(&self, repo: &str) {
        self.state.repos.lock().unwrap().get_mut(repo).unwrap().is_private = true;
    }

    pub fn list_with_size(&self, repo: &str, path: &str, size: u64) {
        let mut repos = self.state.repos.lock().unwrap();
        repos.get_mut(repo).unwrap().files.get_mut(path).unwrap().listed_size = Some(size);
    }

    pub fn without_ranges(&self) {
        self.state.ranges.store(false, Ordering::SeqCst);
    }

    pub fn fault(&self, on: On, fault: Fault) {
        self.state.faults.lock().unwrap().push((on, fault));
    }

    /// The requests since the last call.
    pub fn requests(&self) -> Vec<Request> {
        std::mem::take(&mut *self.state.log.lock().unwrap())
    }

    /// The program, knowing nothing but this server and its own cache.
    pub fn program(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
        command.args(arguments);
        self.environment(&mut command);
        command
    }

    pub fn environment(&self, command: &mut Command) {
        for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()) {
            let lower = name.to_lowercase();
            if name.starts_with("HF_")
                || name.starts_with("HUGGING")
                || lower.ends_with("_proxy")
                || name == "XDG_CACHE_HOME"
            {
                command.env_remove(name);
            }
        }
        command
            .env_remove("TRANSFORMERS_OFFLINE")
            .env("HF_ENDPOINT", self.endpoint())
            .env("HF_HOME", self.home.path())
            .env("TASKBASIS_HUB_RETRY_MS", "5");
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.program(arguments).output().unwrap()
    }

    /// The output of a command that has to succeed, without its last newline.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        stdout(self.run(arguments))
    }

    /// The message of a command that has to fail: one paragraph.
    #[track_caller]
    pub fn fail(&self, arguments: &[&str]) -> String {
        complaint(self.run(arguments))
    }

    /// A repository's folder in the cache.
    pub fn cache(&self, repo: &str) -> PathBuf {
        self.home.path().join("hub").join(format!("models--{}", repo.replace('/', "--")))
    }

    /// The content of the blobs' folder, sorted.
    pub fn blobs(&self, repo: &str) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.cache(repo).join("blobs")) else { return Vec::new() };
        let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Content that differs wherever it is cut.
pub fn large(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

/// A repository with a large and a small file in a folder, and other folders; and the large file.
pub fn server() -> (Server, Vec<u8>) {
    let server = Server::start();
    let content = large(1_000_000);
    server.put(REPO, "README.md", b"bases");
    server.put(REPO, "folder/large.bin", &content);
    server.put(REPO, "folder/inner/small.json", b"{}");
    server.put(REPO, "folder2/other.bin", &large(5_000));
    server.put(REPO, "ViT-B-32_AE_M4_8task/basis_vectors.pt", &large(2_000));
    (server, content)
}

pub fn of(requests: &[Request], on: On) -> Vec<&Request> {
    requests.iter().filter(|request| request.on == on).collect()
}

impl Content {
    fn oid(&self) -> String {
        git_sha1(&self.bytes)
    }

    fn size(&self) -> u64 {
        self.listed_size.unwrap_or(self.bytes.len() as u64)
    }
}

struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Answer {
    fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    /// An error as the Hub explains it.
    fn error(status: u16, code: &str, message: &str) -> Self {
        let body = json!({ "error": message }).to_string();
        Self::new(status, body).with("X-Error-Code", code).with("X-Error-Message", message)
    }
}

impl State {
    fn endpoint(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme.lock().unwrap(), self.ports.lock().unwrap().0)
    }

    fn serve(&self, mut stream: impl Read + Write, is_cdn: bool) -> std::io::Result<()> {
        let mut reader = BufReader::new(&mut stream);
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let target = line.split(' ').nth(1).unwrap_or_default().to_owned();
        let mut headers = BTreeMap::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        let on = match () {
            () if is_cdn => On::Cdn,
            () if target.contains("/revision/") => On::Revision,
            () if target.contains("/tree/") => On::Tree,
            () => On::Resolve,
        };
        let is_head = line.starts_with("HEAD ");
        let request = Request { on, target, is_head, headers, when: Instant::now() };
        self.log.lock().unwrap().push(request.clone());
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            faults.iter().position(|(which, _)| *which == on).map(|i| faults.remove(i).1)
        };
        self.answer(stream, &request, fault)
    }

    fn answer(&self, mut stream: impl Write, request: &Request, fault: Option<Fault>) -> std::io::Result<()> {
        let mut answer = match &fault {
            Some(Fault::Status(status, headers)) => {
                headers.iter().fold(Answer::new(*status, "busy"), |answer, (name, value)| answer.with(name, value))
            }
            Some(Fault::Redirect(to)) => Answer::new(307, "").with("Location", to),
            _ => self.respond(request),
        };
        let mut length = Some(answer.body.len());
        match fault {
            Some(Fault::WrongByte) => *answer.body.last_mut().unwrap() ^= 1,
            Some(Fault::Length(n)) => {
                answer.body.resize(n, 0);
                length = Some(n);
            }
            Some(Fault::Surplus(n)) => {
                answer.body.resize(answer.body.len() + n, 0);
                length = None;
            }
            Some(Fault::WrongRange) => {
                answer.headers.retain(|(name, _)| name != "Content-Range");
                answer = answer.with("Content-Range", "bytes 0-9/1000000");
            }
            _ => {}
        }
        let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(length) = length {
            head += &format!("Content-Length: {length}\r\n");
        }
        stream.write_all(format!("{head}\r\n").as_bytes())?;
        if request.is_head {
            return Ok(());
        }
        match fault {
            Some(Fault::Cut(n)) => stream.write_all(&answer.body[..n]),
            Some(Fault::Stall(n, pause)) => {
                stream.write_all(&answer.body[..n])?;
                thread::sleep(pause);
                stream.write_all(&answer.body[n..])
            }
            _ => stream.write_all(&answer.body),
        }
    }

    fn respond(&self, request: &Request) -> Answer {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let path = path.replace("%20", " ").replace("%2F", "/");
        let repos = self.repos.lock().unwrap();
        if request.on == On::Cdn {
            let hash = path.rsplit('/').next().unwrap();
            let found = repos.values().flat_map(|repo| repo.files.values()).find(|file| sha256(&file.bytes) == hash);
            return found.map_or_else(|| Answer::new(404, ""), |file| self.ranged(&file.bytes, request));
        }
        let parts: Vec<&str> = path.trim_start_matches("/api/models").trim_start_matches('/').splitn(4, '/').collect();
        let [owner, name, what, rest] = parts[..] else { return Answer::new(400, "") };
        let repo = repos.get(&format!("{owner}/{name}"));
        let is_allowed = |repo: &Repo| {
            !repo.is_private || request.header("authorization") == Some(format!("Bearer {TOKEN}").as_str())
        };
        let Some(repo) = repo.filter(|repo| is_allowed(repo)) else {
            return match request.header("authorization") {
                None => Answer::error(401, "RepoNotFound", "Invalid username or password."),
                Some(_) => Answer::error(404, "RepoNotFound", "Repository not found"),
            };
        };
        let known = repo.commits.iter().flat_map(|(name, commit)| [(name, commit), (commit, commit)]);
        let known = known.filter(|(name, _)| rest == *name || rest.starts_with(&format!("{name}/")));
        let Some((revision, commit)) = known.max_by_key(|(name, _)| name.len()) else {
            return Answer::error(404, "RevisionNotFound", &format!("Invalid rev id: {rest}"));
        };
        let path = rest[revision.len()..].trim_start_matches('/');
        match what {
            "revision" => Answer::new(200, json!({ "id": format!("{owner}/{name}"), "sha": commit }).to_string()),
            "tree" => self.tree(repo, path, query, &request.target),
            _ => self.resolve(repo, path, commit, request),
        }
    }

    fn tree(&self, repo: &Repo, path: &str, query: &str, target: &str) -> Answer {
        let parameter = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let mut items = BTreeMap::new();
        for (file, content) in repo.files.iter().filter(|(file, _)| file.starts_with(&prefix)) {
            let inner = &file[prefix.len()..];
            for (at, _) in inner.match_indices('/') {
                let folder = format!("{prefix}{}", &inner[..at]);
                items.insert(folder.clone(), json!({ "type": "directory", "oid": "0", "size": 0, "path": folder }));
            }
            let mut item = json!({ "type": "file", "oid": content.oid(), "size": content.size(), "path": file });
            if content.is_large {
                item["lfs"] = json!({ "oid": sha256(&content.bytes), "size": content.size(), "pointerSize": 133 });
            }
            items.insert(file.clone(), item);
        }
        if parameter("recursive") != Some("true") {
            items.retain(|item, _| !item[prefix.len()..].contains('/'));
        }
        if items.is_empty() {
            return Answer::error(404, "EntryNotFound", &format!("{path} does not exist"));
        }
        let start: usize = parameter("cursor").map_or(0, |cursor| cursor.parse().unwrap());
        let page: Vec<_> = items.values().skip(start).take(self.page.load(Ordering::SeqCst)).collect();
        let answer = Answer::new(200, serde_json::to_string(&page).unwrap());
        if start + page.len() == items.len() {
            return answer;
        }
        let target = target.split("&cursor=").next().unwrap();
        answer.with("Link", format!("<{}{target}&cursor={}>; rel=\"next\"", self.endpoint(), start + page.len()))
    }

    fn resolve(&self, repo: &Repo, path: &str, commit: &str, request: &Request) -> Answer {
        let Some(content) = repo.files.get(path) else {
            return Answer::error(404, "EntryNotFound", "Entry not found");
        };
        if !content.is_large {
            let answer = self.ranged(&content.bytes, request).with("ETag", format!("\"{}\"", content.oid()));
            return answer.with("X-Repo-Commit", commit);
        }
        let hash = sha256(&content.bytes);
        let port = self.ports.lock().unwrap().1;
        Answer::new(302, "Found. Redirecting")
            .with("Location", format!("{}://127.0.0.1:{port}/repos/{hash}?signature=x", self.scheme.lock().unwrap()))
            .with("X-Linked-ETag", format!("\"{hash}\""))
            .with("X-Linked-Size", content.bytes.len())
            .with("ETag", format!("\"{hash}\""))
            .with("X-Repo-Commit", commit)
    }

    fn ranged(&self, bytes: &[u8], request: &Request) -> Answer {
        let from =
            request.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok());
        match from {
            Some(from) if self.ranges.load(Ordering::SeqCst) => match bytes.get(from..).filter(|rest| !rest.is_empty())
            {
                Some(rest) => Answer::new(206, rest)
                    .with("Content-Range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len())),
                None => Answer::new(416, "").with("Content-Range", format!("bytes */{}", bytes.len())),
            },
            _ => Answer::new(200, bytes),
        }
    }
}
