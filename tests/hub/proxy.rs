//! `taskbasis pull` by other ways than straight to the Hub: servers that pass on single files and know no API, proxies,
//! caches that may not be written, caches that Python lays out, paths as the environment writes them.
#![cfg(feature = "cli")]

use crate::support;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::hub::{On, REPO, Server, TOKEN, complaint, git_sha1, large, of, server, sha256, stdout};
use sha1::{Digest, Sha1};

/// What a server answers to a method and a path: a status, headers, a body.
type Respond = dyn Fn(&str, &str) -> (u16, Vec<(&'static str, String)>, Vec<u8>) + Send + Sync;

/// A server on this machine that answers as `respond` says; its address, and what it was asked.
fn listen(respond: Box<Respond>) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let (respond, asked) = (Arc::new(respond), Arc::new(Mutex::new(Vec::new())));
    let log = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (respond, log) = (Arc::clone(&respond), Arc::clone(&log));
            // A client that goes away is not the server's business.
            thread::spawn(move || drop(answer(stream, &**respond, &log)));
        }
    });
    (address, asked)
}

fn answer(mut stream: TcpStream, respond: &Respond, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().unwrap_or_else(|| Ok(String::new()))?;
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    log.lock().unwrap().push(format!("{method} {target}"));
    let (status, headers, body) = respond(method, target);
    let mut head = format!("HTTP/1.1 {status} Whatever\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    stream.write_all(format!("{head}\r\n").as_bytes())?;
    if method == "HEAD" { Ok(()) } else { stream.write_all(&body) }
}

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The program, asking the server at `endpoint`, with a cache of its own in `home`.
fn pull(endpoint: &str, home: &Server, arguments: &[&str]) -> std::process::Output {
    home.program(&[&["pull"], arguments].concat()).env("HF_ENDPOINT", endpoint).output().unwrap()
}

/// A server that has one file and knows nothing of the API, with these headers, for these methods.
fn one_file(headers: Vec<(&'static str, String)>, has_head: bool, body: Vec<u8>) -> (String, Arc<Mutex<Vec<String>>>) {
    listen(Box::new(move |method, target| match target.strip_suffix("folder/file.bin") {
        Some(_) if method == "HEAD" && !has_head => (405, Vec::new(), Vec::new()),
        // By the name of the revision alone, as Python asks.
        Some("/o/r/resolve/main/") => (200, headers.clone(), body.clone()),
        _ => (404, Vec::new(), b"<html>no such page".to_vec()),
    }))
}

#[test]
fn one_named_file_needs_no_api() {
    let body = large(3_000);
    let (git, long) = (git_sha1(&body), sha256(&body));
    let plain = support::hub::hex(&Sha1::digest(&body));
    let commit = || ("X-Repo-Commit", COMMIT.to_owned());
    for (headers, has_head, blob) in [
        (vec![commit(), ("ETag", format!("\"{git}\""))], true, git.clone()),
        (vec![commit(), ("X-Linked-Etag", format!("\"{long}\"")), ("ETag", "\"x\"".into())], true, long.clone()),
        // A proxy that tells its own hash, and answers GET alone.
        (vec![commit(), ("ETag", plain.clone())], false, plain.clone()),
        (vec![commit(), ("ETag", "W/\"5f-61\"".into())], true, String::new()),
        (vec![commit()], true, String::new()),
    ] {
        let home = Server::start();
        let (endpoint, asked) = one_file(headers.clone(), has_head, body.clone());
        let local = stdout(pull(&endpoint, &home, &["o/r/folder/file.bin"]));
        assert!(fs::read(&local).unwrap() == body, "{headers:?}");
        assert!(local.ends_with(&format!("models--o--r/snapshots/{COMMIT}/folder/file.bin")), "{local}");
        if !blob.is_empty() {
            assert_eq!(home.blobs("o/r"), [blob]);
        }
        asked.lock().unwrap().clear();
        let again = home.program(&["inspect", "hf://o/r/folder/file.bin"]).env("HF_ENDPOINT", &endpoint).output();
        assert!(!again.unwrap().status.success() && asked.lock().unwrap().is_empty(), "the cache has it");
    }
}

#[test]
fn a_file_by_name_is_checked_where_it_can_be() {
    let body = large(3_000);
    let commit = || ("X-Repo-Commit", COMMIT.to_owned());
    for (name, value) in
        [("X-Linked-Etag", "a".repeat(64)), ("X-Linked-Etag", "a".repeat(40)), ("ETag", "b".repeat(40))]
    {
        let home = Server::start();
        let (endpoint, _) = one_file(vec![commit(), (name, value.clone())], true, body.clone());
        let error = complaint(pull(&endpoint, &home, &["o/r/folder/file.bin"]));
        assert!(error.contains("SHA") && error.contains(&value), "{error}");
        assert!(home.blobs("o/r").is_empty(), "nothing of it is kept");
    }
    let home = Server::start();
    let (endpoint, _) = one_file(vec![commit(), ("X-Linked-Size", "2999".into())], true, body.clone());
    let error = complaint(pull(&endpoint, &home, &["o/r/folder/file.bin"]));
    assert!(error.contains("another length"), "{error}");
    // What is at no known commit has no place in a cache.
    let (endpoint, _) = one_file(vec![], true, body.clone());
    let error = complaint(pull(&endpoint, &home, &["o/r/folder/file.bin"]));
    assert!(error.contains(&format!("404 to GET {endpoint}/api/models/o/r/revision/main")), "{error}");
    let (other, _) = listen(Box::new(|_, target| match target.contains(&format!("/resolve/{COMMIT}/")) {
        true => (200, Vec::new(), b"by its commit".to_vec()),
        false => (404, Vec::new(), Vec::new()),
    }));
    assert!(stdout(pull(&other, &home, &["o/r/folder/file.bin", "--revision", COMMIT])).contains(COMMIT));
    let (endpoint, _) = one_file(vec![("X-Repo-Commit", "../../..".into())], true, body);
    let error = complaint(pull(&endpoint, &home, &["o/r/folder/file.bin"]));
    assert!(error.contains("does not tell the file's commit") && error.contains("`../../..`"), "{error}");
}

#[test]
fn without_a_listing_the_error_says_which_requests_failed() {
    let home = Server::start();
    let (endpoint, _) = one_file(vec![("X-Repo-Commit", COMMIT.into())], true, large(3_000));
    for path in ["o/r/folder", "o/r/folder/other.bin"] {
        let error = complaint(pull(&endpoint, &home, &[path]));
        assert!(error.contains(&format!("404 to GET {endpoint}/o/r/resolve/main/{}", &path[4..])), "{error}");
        assert!(
            error.contains("Nor does the server list") && error.contains("/api/models/o/r/revision/main"),
            "{error}"
        );
    }
    for arguments in [&["--base", "o/r"][..], &["o/r"], &["o/r", "--list"]] {
        let error = complaint(pull(&endpoint, &home, arguments));
        assert!(error.contains("/api/models/o/r/revision/main") && error.contains("name one"), "{error}");
    }
    assert!(stdout(pull(&endpoint, &home, &["--base", "o/r/folder/file.bin"])).ends_with("/folder/file.bin"));
}

/// A SOCKS5 proxy of one way: it connects to whatever address it is told, and notes that.
fn socks() -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let told = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&told);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let log = Arc::clone(&log);
            thread::spawn(move || drop(relay(stream, &log)));
        }
    });
    (port, told)
}

fn relay(mut client: TcpStream, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut take = |n: usize| -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        client.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let methods = take(2)?[1];
    take(methods.into())?;
    client.write_all(&[5, 0])?;
    let mut take = |n: usize| -> std::io::Result<Vec<u8>> {
        let mut bytes = vec![0; n];
        client.read_exact(&mut bytes)?;
        Ok(bytes)
    };
    let host = match take(4)?[3] {
        1 => take(4)?.iter().map(u8::to_string).collect::<Vec<_>>().join("."),
        3 => {
            let length = take(1)?[0];
            String::from_utf8(take(length.into())?).unwrap()
        }
        kind => panic!("an address of kind {kind}"),
    };
    let port = u16::from_be_bytes(take(2)?.try_into().unwrap());
    log.lock().unwrap().push(host.clone());
    // The names of the test are all this machine.
    let mut server = TcpStream::connect(("127.0.0.1", port))?;
    client.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0])?;
    let (mut back, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || std::io::copy(&mut back, &mut to_client));
    std::io::copy(&mut client, &mut server).map(drop)
}

#[test]
fn proxies_are_used_and_named() {
    let (server, _) = server();
    let (port, told) = socks();
    // A name that only the proxy knows: it is not looked up here.
    let endpoint = server.endpoint().replace("127.0.0.1", "hub.nowhere.invalid");
    let through = |variable: &str, proxy: &str| {
        let mut command = server.program(&["pull", REPO, "folder/inner/small.json"]);
        command.env("HF_ENDPOINT", &endpoint).env(variable, proxy).output().unwrap()
    };
    stdout(through("ALL_PROXY", &format!("socks5h://127.0.0.1:{port}")));
    assert!(told.lock().unwrap().iter().all(|host| host == "hub.nowhere.invalid"));
    assert!(!told.lock().unwrap().is_empty());

    let error = complaint(through("HTTPS_PROXY", "socks5h://me:secret@127.0.0.1:1"));
    assert!(error.contains("through the proxy socks5h://127.0.0.1:1: GET http://hub.nowhere.invalid"), "{error}");
    assert!(error.contains("HTTPS_PROXY") && !error.contains("secret"), "{error}");
    let (refusing, _) = listen(Box::new(|_, _| (403, Vec::new(), Vec::new())));
    let error = complaint(through("HTTP_PROXY", &refusing));
    assert!(error.contains(&format!("through the proxy {refusing}")) && error.contains("CONNECT"), "{error}");
    // One that is not understood would be passed by.
    let error = complaint(through("HTTPS_PROXY", "socks6://secret"));
    assert!(error.contains("the variable HTTPS_PROXY names no proxy") && !error.contains("secret"), "{error}");
    let mut direct = server.program(&["pull", REPO, "folder"]);
    stdout(direct.env("ALL_PROXY", "http://127.0.0.1:1").env("NO_PROXY", "*").output().unwrap());
}

/// A cache as Python leaves it: nothing in it is ours, and blobs of a store that repositories share are links into it.
#[cfg(unix)]
fn fill(cache: &Path, commit: &str, files: &[(&str, &[u8])], is_shared: bool) {
    let folder = cache.join("models--owner--bases");
    fs::create_dir_all(folder.join("refs")).unwrap();
    fs::create_dir_all(folder.join("blobs")).unwrap();
    fs::write(folder.join("refs/main"), commit).unwrap();
    for (path, bytes) in files {
        let name = if bytes.len() >= 1000 { sha256(bytes) } else { git_sha1(bytes) };
        let blob = folder.join("blobs").join(&name);
        if is_shared {
            let stored = sha256(&[bytes, &b"xet"[..]].concat());
            let store = cache.join("blobs").join(&stored[..2]);
            fs::create_dir_all(&store).unwrap();
            fs::write(store.join(&stored), bytes).unwrap();
            let target = format!("../../blobs/{}/{stored}", &stored[..2]);
            std::os::unix::fs::symlink(target, &blob).unwrap();
        } else {
            fs::write(&blob, bytes).unwrap();
        }
        let place = folder.join("snapshots").join(commit).join(path);
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let up = "../".repeat(2 + path.matches('/').count());
        std::os::unix::fs::symlink(format!("{up}blobs/{name}"), place).unwrap();
    }
}

/// The program as a user who may read everything in the server's home and write nothing there.
#[cfg(unix)]
fn as_reader(server: &Server, arguments: &[&str]) -> Command {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    const NOBODY: u32 = 65_534;
    let home = server.home.path();
    let is_root = uzers::get_effective_uid() == 0;
    let copy = home.join("program");
    if is_root && !copy.exists() {
        // Where this lies may be closed to others.
        fs::copy(env!("CARGO_BIN_EXE_taskbasis"), &copy).unwrap();
    }
    let mut folders = vec![home.to_path_buf()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
        let inner = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        folders.extend(inner.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
    }
    let mut command = if is_root { Command::new(copy) } else { Command::new(env!("CARGO_BIN_EXE_taskbasis")) };
    command.args(arguments);
    server.environment(&mut command);
    if is_root {
        command.uid(NOBODY).gid(NOBODY).current_dir("/");
    }
    command
}

/// Makes the temporary folder removable again for a user who is not root.
#[cfg(unix)]
fn writable_again(server: &Server) {
    use std::os::unix::fs::PermissionsExt;
    let mut folders = vec![server.home.path().to_path_buf()];
    while let Some(folder) = folders.pop() {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let inner = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap());
        folders.extend(inner.filter(|entry| entry.file_type().unwrap().is_dir()).map(|entry| entry.path()));
    }
}

#[cfg(unix)]
#[test]
fn a_cache_that_may_not_be_written_is_enough_where_it_has_everything() {
    let (server, content) = server();
    let commit = server.commit(REPO);
    let files: [(&str, &[u8]); 2] = [("folder/large.bin", &content), ("folder/inner/small.json", b"{}")];
    fill(&server.home.path().join("hub"), &commit, &files, false);
    let local = stdout(as_reader(&server, &["pull", REPO, "folder"]).output().unwrap());
    assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
    assert!(server.requests().iter().all(|request| matches!(request.on, On::Revision | On::Tree)));
    assert_eq!(stdout(as_reader(&server, &["pull", REPO, "folder/large.bin"]).output().unwrap()), local + "/large.bin");
    // What it lacks is named, with the reason why it cannot come.
    let error = complaint(as_reader(&server, &["pull", REPO, "folder2"]).output().unwrap());
    assert!(error.contains("the cache lacks folder2/other.bin (1 of 1 files) and may not be written"), "{error}");
    assert!(error.contains("ermission denied") && error.contains("HF_HUB_CACHE"), "{error}");
    writable_again(&server);
    fs::remove_file(server.cache(REPO).join("blobs").join(git_sha1(b"{}"))).unwrap();
    let error = complaint(as_reader(&server, &["pull", REPO, "folder"]).output().unwrap());
    assert!(error.contains("the cache lacks folder/inner/small.json (1 of 2 files)"), "{error}");
    writable_again(&server);
}

#[cfg(unix)]
#[test]
fn blobs_may_be_links_into_a_store_that_repositories_share() {
    let (server, content) = server();
    let commit = server.commit(REPO);
    let files: [(&str, &[u8]); 2] = [("folder/large.bin", &content), ("folder/inner/small.json", b"{}")];
    fill(&server.home.path().join("hub"), &commit, &files, true);
    let local = server.succeed(&["pull", REPO, "folder"]);
    assert!(of(&server.requests(), On::Resolve).is_empty(), "nothing comes again");
    assert_eq!(server.succeed(&["pull", REPO, "folder", "--offline"]), local);
    let link = server.cache(REPO).join("blobs").join(sha256(&content));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink(), "the store's file is left where it is");
    // A store that was emptied: what came from it comes again, and is this repository's own.
    fs::remove_dir_all(server.home.path().join("hub/blobs")).unwrap();
    assert_eq!(server.succeed(&["pull", REPO, "folder"]), local);
    assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
    assert!(fs::symlink_metadata(&link).unwrap().is_file() && !server.home.path().join("hub/blobs").exists());
}

#[test]
fn paths_of_the_environment_are_expanded() {
    let (server, _) = server();
    let here = tempfile::tempdir().unwrap();
    let home = server.home.path();
    let pull = |variables: &[(&str, &str)]| {
        let mut command = server.program(&["pull", REPO, "folder2/other.bin"]);
        command.current_dir(&here).env_remove("HF_HOME").env("HOME", home).env("PLACE", home.join("place"));
        stdout(command.envs(variables.iter().copied()).output().unwrap())
    };
    for (variables, cache) in [
        (&[("HF_HOME", "~")][..], "hub"),
        (&[("HF_HOME", "$HOME/a")], "a/hub"),
        (&[("HF_HOME", "${PLACE}/$NOT_SET")], "place/$NOT_SET/hub"),
        (&[("HF_HUB_CACHE", "$PLACE/b"), ("HF_HOME", "/nowhere")], "place/b"),
        (&[("HUGGINGFACE_HUB_CACHE", "~/c")], "c"),
        (&[("XDG_CACHE_HOME", "$PLACE/x")], "place/x/huggingface/hub"),
        (&[], ".cache/huggingface/hub"),
    ] {
        let local = pull(variables);
        assert!(Path::new(&local).starts_with(home.join(cache).join("models--owner--bases")), "{variables:?}: {local}");
    }
    server.make_private(REPO);
    fs::write(home.join("tok"), TOKEN).unwrap();
    pull(&[("HF_HOME", "~/d"), ("HF_TOKEN_PATH", "$HOME/tok")]);
    assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "nothing is made in the working directory");
}

#[test]
fn a_repository_in_the_place_of_a_file_is_recognised() {
    let here = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        complaint(Command::new(env!("CARGO_BIN_EXE_taskbasis")).args(arguments).current_dir(&here).output().unwrap())
    };
    let error = run(&["inspect", "openai/clip-vit-base-patch32"]);
    assert!(error.contains("Did you mean hf://openai/clip-vit-base-patch32"), "{error}");
    let embed = ["embed", "--weights", "base", "-i", "x.png", "-o", "x.safetensors"];
    let error = run(&[&embed[..], &["--base", "timm/vit_base_patch32_clip_224.openai"]].concat());
    assert!(error.contains("Did you mean hf://timm/vit_base_patch32_clip_224.openai"), "{error}");
    let error = run(&[&embed[..], &["--basis", "owner/repo/ViT-B-32_AE_M4_8task"]].concat());
    assert!(error.contains("Did you mean hf://owner/repo/ViT-B-32_AE_M4_8task"), "{error}");
    assert!(!run(&["inspect", "models/base.safetensors"]).contains("hf://"));
}
