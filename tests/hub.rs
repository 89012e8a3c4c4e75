//! `taskbasis pull` and `hf://` paths, against a server that answers as the Hub does, well or badly.
#![cfg(feature = "cli")]

mod common;
mod hub_support;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hub_support::{Fault, On, Server, TOKEN, complaint, git_sha1, sha256, stdout};
use serde_json::Value;

const REPO: &str = "owner/bases";
const BASIS: &str = "ViT-D-8_AE_M4_8task";

/// Content that differs wherever it is cut.
fn large(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i.wrapping_mul(2_654_435_761) >> 16) as u8).collect()
}

/// A repository with a large and a small file in a folder, and other folders.
fn server() -> (Server, Vec<u8>) {
    let server = Server::start();
    let content = large(1_000_000);
    server.put(REPO, "README.md", b"bases");
    server.put(REPO, "folder/large.bin", &content);
    server.put(REPO, "folder/inner/small.json", b"{}");
    server.put(REPO, "folder2/other.bin", &large(5_000));
    server.put(REPO, "ViT-B-32_AE_M4_8task/basis_vectors.pt", &large(2_000));
    (server, content)
}

fn of(requests: &[hub_support::Request], on: On) -> Vec<&hub_support::Request> {
    requests.iter().filter(|request| request.on == on).collect()
}

#[test]
fn a_folder_comes_alone_and_only_once() {
    let (server, content) = server();
    let local = server.succeed(&["pull", REPO, "folder"]);
    let local = Path::new(&local);
    let snapshot = server.cache(REPO).join("snapshots").join(server.commit(REPO));
    assert_eq!(local, snapshot.join("folder"));
    assert!(fs::read(local.join("large.bin")).unwrap() == content);
    assert_eq!(fs::read(local.join("inner/small.json")).unwrap(), b"{}");
    let mut blobs = vec![sha256(&content), git_sha1(b"{}")];
    blobs.sort();
    assert_eq!(server.blobs(REPO), blobs, "nothing else came");
    let requests = server.requests();
    assert_eq!((of(&requests, On::Resolve).len(), of(&requests, On::Cdn).len()), (2, 1));
    assert!(of(&requests, On::Tree).len() == 2, "the listing has pages");

    assert_eq!(Path::new(&server.succeed(&["pull", REPO, "folder"])), local);
    assert!(
        server.requests().iter().all(|request| matches!(request.on, On::Revision | On::Tree)),
        "nothing comes again"
    );

    let json: Value = serde_json::from_str(&server.succeed(&["pull", REPO, "folder", "folder2", "--json"])).unwrap();
    assert_eq!(json["pulled"][0]["downloaded_bytes"], 0);
    assert_eq!(json["pulled"][1]["downloaded_bytes"], 5_000);
    assert_eq!(json["pulled"][1]["files"][0]["path"], "folder2/other.bin");
    let lines = server.succeed(&["pull", REPO, "folder", "folder2/other.bin"]);
    assert_eq!(lines.lines().last(), snapshot.join("folder2/other.bin").to_str());
}

#[cfg(unix)]
#[test]
fn the_cache_is_laid_out_as_all_clients_do() {
    let (server, content) = server();
    server.tag(REPO, "v1.0");
    server.succeed(&["pull", REPO, "folder"]);
    server.succeed(&["pull", REPO, "folder", "--revision", "v1.0"]);
    let (cache, commit) = (server.cache(REPO), server.commit(REPO));
    for name in ["main", "v1.0"] {
        assert_eq!(fs::read_to_string(cache.join("refs").join(name)).unwrap(), commit);
    }
    let link = |path: &str| fs::read_link(cache.join("snapshots").join(&commit).join(path)).unwrap();
    assert_eq!(link("folder/large.bin"), Path::new("../../../blobs").join(sha256(&content)));
    assert_eq!(link("folder/inner/small.json"), Path::new("../../../../blobs").join(git_sha1(b"{}")));
    assert!(!cache.join("refs").join(&commit).exists());
    server.succeed(&["pull", REPO, "folder", "--revision", &commit]);
    assert!(!cache.join("refs").join(&commit).exists(), "a commit is no branch");
    assert!(
        server.home.path().join("hub/.locks/models--owner--bases").join(format!("{}.lock", sha256(&content))).exists()
    );
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, _) = server();
    server.make_private(REPO);
    let error = server.fail(&["pull", REPO, "folder"]);
    assert!(error.contains("hf://owner/bases: the Hub answers 401") && error.contains("set HF_TOKEN"), "{error}");
    server.requests();

    let error = complaint(server.program(&["pull", REPO, "folder"]).env("HF_TOKEN", "hf_expired").output().unwrap());
    assert!(error.contains("404") && !error.contains("hf_expired"), "{error}");
    server.requests();

    stdout(server.program(&["pull", REPO, "folder"]).env("HF_TOKEN", TOKEN).output().unwrap());
    let requests = server.requests();
    let expected = format!("Bearer {TOKEN}");
    for request in &requests {
        let told = request.header("authorization");
        assert_eq!(told, (request.on != On::Cdn).then_some(expected.as_str()), "{request:?}");
    }
    assert_eq!(of(&requests, On::Cdn).len(), 1);

    fs::write(server.home.path().join("token"), format!("{TOKEN}\n")).unwrap();
    server.succeed(&["pull", REPO, "folder2"]);
    fs::write(server.home.path().join("token"), "two words").unwrap();
    assert!(server.fail(&["pull", REPO, "folder2"]).contains("is no token"));
}

#[test]
fn a_redirect_elsewhere_does_not_tell_who_asks() {
    let (server, _) = server();
    let elsewhere = Server::start();
    elsewhere.put(REPO, "folder/a", b"a");
    server.fault(On::Revision, Fault::Redirect(format!("{}/api/models/{REPO}/revision/main", elsewhere.endpoint())));
    server.program(&["pull", REPO, "folder"]).env("HF_TOKEN", TOKEN).output().unwrap();
    let requests = elsewhere.requests();
    assert!(requests.len() == 1 && requests[0].header("authorization").is_none());
    let error = {
        server.fault(On::Cdn, Fault::Status(403, vec![]));
        server.fail(&["pull", REPO, "folder"])
    };
    assert!(error.contains("127.0.0.1 answers 403") && error.contains("The Hub redirects there"), "{error}");
    // A repository that was renamed: relative, the same host.
    server.requests();
    server.fault(On::Revision, Fault::Redirect(format!("/api/models/{REPO}/revision/main")));
    stdout(server.program(&["pull", REPO, "folder"]).env("HF_TOKEN", TOKEN).output().unwrap());
    assert!(of(&server.requests(), On::Revision).iter().all(|request| request.header("authorization").is_some()));
}

#[test]
fn https_is_spoken_and_certificates_are_checked() {
    let server = Server::start_tls();
    let content = large(1_000_000);
    server.put(REPO, "folder/large.bin", &content);
    let error = server.fail(&["pull", REPO, "folder"]);
    assert!(error.contains("cannot be reached") && error.contains("certificate"), "{error}");
    let notes = String::from_utf8(server.run(&["pull", REPO, "folder"]).stderr).unwrap();
    assert!(server.requests().is_empty() && !notes.contains("again in"), "{notes}");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let trusting =
        |file: &str| server.program(&["pull", REPO, "folder"]).env("SSL_CERT_FILE", data.join(file)).output().unwrap();
    let local = stdout(trusting("localhost_cert.pem"));
    assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
    assert!(complaint(trusting("localhost_key.pem")).contains("there is no certificate in it"));
    assert!(complaint(trusting("missing.pem")).contains("cannot read the certificates"));
    // Whoever is trusted, nobody is asked over a connection that others can read.
    let plain = Server::start();
    server.fault(On::Revision, Fault::Redirect(plain.endpoint()));
    assert!(complaint(trusting("localhost_cert.pem")).contains("a redirect from https to http"));
    assert!(plain.requests().is_empty());
}

#[test]
fn what_is_cut_goes_on_where_it_stopped() {
    let (server, content) = server();
    server.fault(On::Cdn, Fault::Cut(300_000));
    server.fault(On::Cdn, Fault::Cut(300_000));
    let local = server.succeed(&["pull", REPO, "folder"]);
    assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
    let requests = server.requests();
    let ranges: Vec<_> = of(&requests, On::Cdn).iter().map(|request| request.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=300000-"), Some("bytes=600000-")]);
}

#[test]
fn a_killed_pull_goes_on_in_the_next() {
    for ranges in [true, false] {
        let (server, content) = server();
        server.fault(On::Cdn, Fault::Stall(400_000, Duration::from_secs(60)));
        let mut child = server.program(&["pull", REPO, "folder"]).stdout(Stdio::null()).spawn().unwrap();
        let partial = server.cache(REPO).join("blobs").join(format!("{}.incomplete", sha256(&content)));
        let began = Instant::now();
        while fs::metadata(&partial).map_or(0, |part| part.len()) < 400_000 {
            assert!(began.elapsed() < Duration::from_secs(30), "it did not come");
            thread::sleep(Duration::from_millis(5));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!server.cache(REPO).join("snapshots").exists(), "the snapshot shows nothing half-written");
        server.requests();
        if !ranges {
            server.without_ranges();
        }
        let local = server.succeed(&["pull", REPO, "folder"]);
        assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
        let requests = server.requests();
        let asked: Vec<_> = of(&requests, On::Cdn).iter().map(|request| request.header("range")).collect();
        assert_eq!(asked, [Some("bytes=400000-")]);
        assert!(!partial.exists());
    }
}

#[test]
fn a_part_of_other_content_is_not_continued() {
    let (server, content) = server();
    let partial = server.cache(REPO).join("blobs").join(format!("{}.incomplete", sha256(&content)));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    // Damaged, too long, and whole but for its name.
    for part in [vec![7; 1_000], vec![7; 2_000_000], vec![7; content.len()], content.clone()] {
        fs::write(&partial, &part).unwrap();
        let local = server.succeed(&["pull", REPO, "folder"]);
        assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
        fs::remove_file(server.cache(REPO).join("blobs").join(sha256(&content))).unwrap();
    }
    // The branch moves on: another hash, another part.
    fs::write(&partial, &content[..500]).unwrap();
    let newer = large(900_000);
    server.put(REPO, "folder/large.bin", &newer);
    server.requests();
    let local = server.succeed(&["pull", REPO, "folder"]);
    assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == newer);
    assert_eq!(of(&server.requests(), On::Cdn)[0].header("range"), None);
}

#[test]
fn nothing_wrong_gets_its_place() {
    let (server, content) = server();
    for (fault, meant) in [
        (Fault::WrongByte, "SHA-256 differs from the one that the repository lists: expected"),
        (Fault::Length(999_999), "another length than the repository lists: expected 1000000 bytes, got 999999"),
        (Fault::Length(1_000_001), "another length than the repository lists: expected 1000000 bytes, got 1000001"),
        (Fault::Surplus(1), "another length than the repository lists: expected 1000000 bytes, got 1000001"),
        (Fault::Status(204, vec![]), "something else: expected the file, got 204"),
    ] {
        server.fault(On::Cdn, fault);
        let error = server.fail(&["pull", REPO, "folder/large.bin"]);
        assert!(error.contains(meant) && error.contains("hf://owner/bases/folder/large.bin: "), "{error}");
        assert!(!server.blobs(REPO).contains(&sha256(&content)));
        assert!(!server.cache(REPO).join("snapshots").exists() && !server.cache(REPO).join("refs").exists());
    }
    server.fault(On::Resolve, Fault::WrongByte);
    let error = server.fail(&["pull", REPO, "folder/inner/small.json"]);
    assert!(error.contains("git's SHA-1 differs"), "{error}");
    server.succeed(&["pull", REPO, "folder"]);
}

#[test]
fn a_wrong_range_is_not_taken_for_the_right_one() {
    let (server, content) = server();
    server.fault(On::Cdn, Fault::Cut(100_000));
    server.fault(On::Cdn, Fault::WrongRange);
    let local = server.succeed(&["pull", REPO, "folder"]);
    assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
}

#[test]
fn what_may_pass_is_tried_again() {
    let (server, _) = server();
    server.fault(On::Revision, Fault::Status(503, vec![]));
    server.fault(On::Tree, Fault::Status(500, vec![]));
    server.fault(On::Tree, Fault::Cut(10));
    server.fault(On::Resolve, Fault::Status(502, vec![]));
    server.fault(On::Cdn, Fault::Status(429, vec![("Retry-After", "1")]));
    let output = server.run(&["pull", REPO, "folder"]);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    stdout(output);
    assert!(notes.contains("note: hf://owner/bases/folder/large.bin: 127.0.0.1 answers 429"), "{notes}");
    assert!(notes.contains("; again in 1.00 s\n"), "{notes}");
    let requests = server.requests();
    let cdn = of(&requests, On::Cdn);
    assert!(cdn.len() == 2 && cdn[1].when - cdn[0].when >= Duration::from_secs(1), "as long as it was told");

    for _ in 0..6 {
        server.fault(On::Revision, Fault::Status(503, vec![]));
    }
    let error = server.fail(&["pull", REPO, "folder"]);
    assert!(error.contains("the Hub answers 503") && of(&server.requests(), On::Revision).len() == 6, "{error}");
    server.fault(On::Revision, Fault::Status(429, vec![("Retry-After", "86400")]));
    let error = server.fail(&["pull", REPO, "folder"]);
    assert!(error.contains("come back in 86400 seconds") && server.requests().len() == 1, "{error}");
    server.fault(On::Revision, Fault::Status(400, vec![]));
    server.fail(&["pull", REPO, "folder"]);
    assert_eq!(server.requests().len(), 1, "a refusal is final");

    // Parts that come keep it going, however often it is cut.
    for _ in 0..9 {
        server.fault(On::Cdn, Fault::Cut(500));
    }
    server.succeed(&["pull", REPO, "folder2"]);
    for _ in 0..6 {
        server.fault(On::Cdn, Fault::Cut(0));
    }
    server.put(REPO, "folder2/other.bin", &large(6_000));
    server.fault(On::Cdn, Fault::Cut(0));
    server.fail(&["pull", REPO, "folder2"]);
}

#[test]
fn a_server_that_falls_silent_is_left() {
    let (server, content) = server();
    server.fault(On::Cdn, Fault::Stall(1_000, Duration::from_secs(60)));
    let output = server.program(&["pull", REPO, "folder"]).env("HF_HUB_DOWNLOAD_TIMEOUT", "1").output().unwrap();
    assert!(fs::read(Path::new(&stdout(output)).join("large.bin")).unwrap() == content);
}

#[test]
fn errors_say_what_there_is() {
    let (server, _) = server();
    let error = server.fail(&["pull", REPO, "ViT-B-32_AE_M4_8tasks"]);
    assert!(
        error.contains("hf://owner/bases/ViT-B-32_AE_M4_8tasks: no folder `ViT-B-32_AE_M4_8tasks`; known: "),
        "{error}"
    );
    assert!(error.contains("folder, folder/inner, folder2. Did you mean `ViT-B-32_AE_M4_8task`?"), "{error}");
    let error = server.fail(&["pull", REPO, "folder/large.bim"]);
    assert!(error.contains("Did you mean `folder/large.bin`?"), "{error}");
    let error = server.fail(&["pull", REPO]);
    assert!(error.contains("has to be named") && error.contains("folder2"), "{error}");
    let error = server.fail(&["pull", REPO, "folder", "--revision", "v9"]);
    assert!(error.contains("404") && error.contains("`v9` is no branch"), "{error}");
    let error = server.fail(&["pull", "owner/nowhere", "folder"]);
    assert!(error.contains("hf://owner/nowhere") && error.contains("Check the repository's name"), "{error}");
    let error = server.fail(&["pull", REPO, "../../etc"]);
    assert!(error.contains("is no path within a repository"), "{error}");
    let refused = server.program(&["pull", REPO, "folder"]).env("HF_ENDPOINT", "http://127.0.0.1:1").output().unwrap();
    let error = complaint(refused);
    assert!(error.contains("cannot be reached") && error.contains("HF_HUB_OFFLINE=1"), "{error}");
    assert!(!server.cache(REPO).exists(), "nothing is left behind");
}

#[test]
fn offline_asks_nobody() {
    let (server, _) = server();
    let error = server.fail(&["pull", REPO, "folder", "--offline"]);
    assert!(error.contains("hf://owner/bases/folder: nothing of it is in the cache"), "{error}");
    let local = server.succeed(&["pull", REPO, "folder"]);
    server.requests();
    assert_eq!(server.succeed(&["pull", REPO, "folder", "--offline"]), local);
    let offline = |arguments: &[&str]| server.program(arguments).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(stdout(offline(&["pull", REPO, "folder"])), local);
    let error = complaint(offline(&["pull", REPO, "folder2"]));
    assert!(error.contains("no cached folder `folder2`; known: folder"), "{error}");
    let listed: Value = serde_json::from_str(&stdout(offline(&["pull", REPO, "--list", "--json"]))).unwrap();
    assert_eq!(listed["folders"][0]["path"], "folder");
    fs::remove_file(Path::new(&local).join("large.bin")).unwrap();
    let error = complaint(offline(&["pull", REPO, "folder"]));
    assert!(error.contains("the cache has lost folder/large.bin"), "{error}");
    assert!(server.requests().is_empty());
}

#[test]
fn list_shows_every_folder() {
    let (server, _) = server();
    server.succeed(&["pull", REPO, "folder2"]);
    let listed: Value = serde_json::from_str(&server.succeed(&["pull", REPO, "--list", "--json"])).unwrap();
    let folders: Vec<_> = listed["folders"].as_array().unwrap().iter().map(|f| f["path"].as_str().unwrap()).collect();
    assert_eq!(folders, ["", "ViT-B-32_AE_M4_8task", "folder", "folder/inner", "folder2"]);
    assert_eq!(listed["folders"][2]["bytes"], 1_000_000);
    assert_eq!(listed["folders"][4]["cached"], true);
    assert_eq!(listed["commit"], server.commit(REPO).as_str());
    let table = server.succeed(&["pull", REPO, "--list"]);
    assert!(table.contains("folder2                   1   5.0 kB  cached"), "{table}");
}

#[test]
fn a_base_is_the_checkpoint_of_its_repository() {
    let server = Server::start();
    server.put("timm/vit", "model.safetensors", &large(2_000));
    server.put("timm/vit", "open_clip_model.safetensors", &large(3_000));
    server.put("timm/vit", "open_clip_pytorch_model.bin", &large(4_000));
    let local = server.succeed(&["pull", "--base", "timm/vit"]);
    assert!(local.ends_with("/open_clip_model.safetensors"), "{local}");
    assert_eq!(server.blobs("timm/vit").len(), 1);
    assert_eq!(server.succeed(&["pull", "--base", "timm/vit", "--offline"]), local);
    assert!(server.succeed(&["pull", "--base", "timm/vit/model.safetensors"]).ends_with("/model.safetensors"));
    server.put("o/parts", "a.safetensors", &large(2_000));
    server.put("o/parts", "b.safetensors", &large(2_000));
    let error = server.fail(&["pull", "--base", "o/parts"]);
    assert!(error.contains("several checkpoints: a.safetensors, b.safetensors"), "{error}");
    assert!(error.contains("hf://o/parts/a.safetensors"), "{error}");
}

#[test]
fn two_at_once_download_once() {
    let (server, content) = server();
    server.fault(On::Cdn, Fault::Stall(500_000, Duration::from_millis(1_000)));
    let start = || {
        let mut command = server.program(&["pull", REPO, "folder"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    };
    let outputs: Vec<_> =
        (0..3).map(|_| start()).collect::<Vec<_>>().into_iter().map(|c| c.wait_with_output().unwrap()).collect();
    let waited =
        outputs.iter().filter(|o| String::from_utf8_lossy(&o.stderr).contains("another process is downloading"));
    assert_eq!(waited.count(), 2);
    for output in outputs {
        assert!(fs::read(Path::new(&stdout(output)).join("large.bin")).unwrap() == content);
    }
    assert_eq!(of(&server.requests(), On::Cdn).len(), 1);
}

#[test]
fn too_little_room_is_known_before() {
    let (server, _) = server();
    server.list_with_size(REPO, "folder/large.bin", 1 << 60);
    let error = server.fail(&["pull", REPO, "folder"]);
    assert!(error.contains("no room for hf://owner/bases/folder on the disk: expected 11529215046"), "{error}");
    assert!(server.blobs(REPO).is_empty());
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_clear_error_and_leaves_nothing() {
    let (server, content) = server();
    // The kernel's own full device stands where the file would be written.
    let partial = server.cache(REPO).join("blobs").join(format!("{}.incomplete", sha256(&content)));
    fs::create_dir_all(partial.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &partial).unwrap();
    let error = server.fail(&["pull", REPO, "folder"]);
    assert!(error.contains("no room for hf://owner/bases/folder/large.bin"), "{error}");
    assert!(error.contains("No space left on device") && error.contains("Nothing of it was kept"), "{error}");
    assert!(partial.symlink_metadata().is_err() && !server.cache(REPO).join("snapshots").exists());

    // A limit on the size of files, which the program may not exceed.
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; ulimit -f 100; exec \"$@\"", "sh"]);
    shell.arg(env!("CARGO_BIN_EXE_taskbasis")).args(["pull", REPO, "folder"]);
    server.environment(&mut shell);
    let error = complaint(shell.output().unwrap());
    assert!(error.contains("no room for") && error.contains("File too large"), "{error}");
    assert!(!partial.exists() && !server.cache(REPO).join("snapshots").exists());
    server.succeed(&["pull", REPO, "folder"]);
}

#[test]
fn paths_of_the_hub_are_paths() {
    let Some(basis) = common::digits(&format!("bases/{BASIS}")) else { return };
    let Some(base) = common::digits("base/pickled_module.pt") else { return };
    let server = Server::start();
    server.put_folder(REPO, BASIS, &basis);
    server.put("owner/base", "zeroshot.pt", &fs::read(&base).unwrap());
    let out = |name: &str| server.home.path().join(name).to_str().unwrap().to_owned();
    let reconstruct = |basis: &str, base: &str, name: &str| {
        let to = out(name);
        server.succeed(&["reconstruct", "--basis", basis, "--base", base, "--weights", "MNIST", "-o", &to]);
        // The tensors; the header's metadata is in no order.
        let file = fs::read(to).unwrap();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        file[8 + header..].to_vec()
    };
    let local = reconstruct(basis.to_str().unwrap(), base.to_str().unwrap(), "local.safetensors");
    let (basis, base) = (format!("hf://{REPO}/{BASIS}"), "hf://owner/base/zeroshot.pt");
    assert!(local == reconstruct(&basis, base, "downloaded.safetensors"));
    server.requests();
    assert!(local == reconstruct(&basis, base, "cached.safetensors"));
    assert!(server.requests().is_empty(), "the cached copy costs no request");
    // A repository stands for its checkpoint.
    assert!(local == reconstruct(&basis, "hf://owner/base", "chosen.safetensors"));

    let shown = server.succeed(&["inspect", "--json", &basis]);
    assert!(shown.contains("MNIST"));
    let error = server.fail(&["inspect", &format!("hf://{REPO}/ViT-D-8_AE_M4_9task")]);
    assert!(error.contains(&format!("Did you mean `{BASIS}`?")), "{error}");
    let error =
        server.fail(&["reconstruct", "--basis", &basis, "--base", base, "--weights", "MNIST", "-o", "hf://o/r/x"]);
    assert!(error.contains("nothing can be written to the Hub"), "{error}");
    let offline = server.program(&["inspect", "hf://owner/other/x"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(complaint(offline).contains("hf://owner/other/x: nothing of it is in the cache"));
}

#[test]
fn part_of_a_folder_is_not_the_folder() {
    let (server, content) = server();
    // Another client has taken one file of it.
    server.succeed(&["pull", REPO, "folder/inner/small.json"]);
    let error = server.fail(&["inspect", &format!("hf://{REPO}/folder")]);
    assert!(!error.contains("hf://"), "it is no basis: {error}");
    let snapshot = server.cache(REPO).join("snapshots").join(server.commit(REPO));
    assert!(fs::read(snapshot.join("folder/large.bin")).unwrap() == content, "what was missing has come");
}

/// What Python's client says of a repository that this program pulled, and what this program takes of its downloads.
const PYTHON: &str = r#"
import json, sys
from huggingface_hub import hf_hub_download, scan_cache_dir, try_to_load_from_cache
repo = sys.argv[1]
scanned = scan_cache_dir()
assert not scanned.warnings, scanned.warnings
(found,) = scanned.repos
print(json.dumps({
    "repo": found.repo_id, "files": found.nb_files, "bytes": found.size_on_disk, "refs": sorted(found.refs),
    "cached": try_to_load_from_cache(repo, "folder/large.bin"),
    "offline": hf_hub_download(repo, "folder/inner/small.json", local_files_only=True),
    "asked": hf_hub_download(repo, "folder/large.bin"),
    "new": hf_hub_download(repo, "folder2/other.bin"),
}))
"#;

#[test]
fn python_sees_what_was_pulled_and_the_other_way_round() {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    let ready = Command::new(&python).args(["-c", "import huggingface_hub"]).output();
    if !ready.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: {python} has no huggingface_hub (set PYTHON to one that has)");
        return;
    }
    let (server, _) = server();
    let local = server.succeed(&["pull", REPO, "folder"]);
    server.requests();
    let mut command = Command::new(python);
    server.environment(&mut command);
    let output = command.args(["-c", PYTHON, REPO]).output().unwrap();
    let seen: Value = serde_json::from_str(&stdout(output)).unwrap();
    assert_eq!((seen["repo"].as_str(), seen["files"].as_u64()), (Some(REPO), Some(2)));
    assert_eq!((seen["bytes"].as_u64(), &seen["refs"]), (Some(1_000_002), &serde_json::json!(["main"])));
    for (field, file) in [("cached", "large.bin"), ("offline", "inner/small.json"), ("asked", "large.bin")] {
        assert_eq!(seen[field].as_str(), Path::new(&local).join(file).to_str(), "{field}");
    }
    let large = of(&server.requests(), On::Cdn).len();
    assert_eq!(large, 1, "Python downloads the new file alone");
    assert_eq!(server.succeed(&["pull", REPO, "folder2/other.bin"]), seen["new"].as_str().unwrap());
    assert!(of(&server.requests(), On::Cdn).is_empty(), "what Python has downloaded does not come again");
}

#[test]
fn the_c_abi_opens_paths_of_the_hub() {
    let Some(basis) = common::digits(&format!("bases/{BASIS}")) else { return };
    let Some(base) = common::digits("base/pickled_module.pt") else { return };
    let Some(heads) = common::digits("heads.safetensors") else { return };
    let server = Server::start();
    server.put_folder(REPO, BASIS, &basis);
    server.put(REPO, "heads.safetensors", &fs::read(&heads).unwrap());
    server.put("owner/base", "zeroshot.pt", &fs::read(&base).unwrap());
    // The environment is the process's: another one has the server's.
    let mut command = Command::new(std::env::current_exe().unwrap());
    server.environment(&mut command);
    let output = command.args(["--exact", "opened_through_the_c_abi", "--ignored", "--nocapture"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(server.blobs("owner/base").len(), 1);
}

#[test]
#[ignore = "the process of `the_c_abi_opens_paths_of_the_hub`"]
#[allow(clippy::undocumented_unsafe_blocks)] // As a C program would.
fn opened_through_the_c_abi() {
    use std::ptr::{null, null_mut};
    use taskbasis::capi::*;

    let text = |text: &str| std::ffi::CString::new(text).unwrap();
    let (path, base) = (text(&format!("hf://{REPO}/{BASIS}")), text("hf://owner/base"));
    let heads = text(&format!("hf://{REPO}/heads.safetensors"));
    let missing = text(&format!("hf://{REPO}/nothing"));
    unsafe {
        let mut options: tb_basis_options = std::mem::zeroed();
        (options.struct_size, options.base) = (size_of::<tb_basis_options>(), base.as_ptr());
        let (mut basis, mut head, mut error) = (null_mut(), null_mut(), null_mut());
        assert_eq!(tb_basis_open(path.as_ptr(), &options, &mut basis, &mut error), tb_status::TB_OK);
        tb_basis_free(basis);
        let task = text("MNIST");
        assert_eq!(tb_head_open(heads.as_ptr(), task.as_ptr(), null(), &mut head, &mut error), tb_status::TB_OK);
        tb_head_free(head);
        let status = tb_basis_open(missing.as_ptr(), &options, &mut basis, &mut error);
        assert_eq!(status, tb_status::TB_ERR_NOT_FOUND);
        let message = std::ffi::CStr::from_ptr(tb_error_message(error)).to_str().unwrap();
        assert!(message.contains("no folder `nothing`"), "{message}");
        tb_error_free(error);
    }
}
