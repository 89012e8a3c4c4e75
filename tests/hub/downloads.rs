//! `taskbasis pull` against a server that answers as the Hub does: what comes, where it lies, who is told what.
#![cfg(feature = "cli")]

use crate::support::{Need, skip};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::hub::{Fault, On, REPO, Server, TOKEN, complaint, git_sha1, large, of, server, sha256, stdout};
use serde_json::Value;

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
    assert!(complaint(trusting("missing.pem")).contains("missing.pem: cannot open"));
    // Whichever server is trusted, none is asked over a connection that others can read.
    let plain = Server::start();
    server.fault(On::Revision, Fault::Redirect(plain.endpoint()));
    assert!(complaint(trusting("localhost_cert.pem")).contains("a redirect from https to http"));
    assert!(plain.requests().is_empty());
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
        return skip(Need::Python, format_args!("{python} has no huggingface_hub (set PYTHON to one that has)"));
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
