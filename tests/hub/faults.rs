//! `taskbasis pull` where connections are cut, servers err, disks are full and processes are killed: whole files or
//! none.
#![cfg(feature = "cli")]

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::hub::{Fault, On, REPO, complaint, git_sha1, large, of, server, sha256, stdout};

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

/// The lists of folders in the cache.
fn lists(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(lists(&path)),
            false if path.file_name().unwrap() == ".files" => found.push(path),
            false => {}
        }
    }
    found
}

/// As a loss of power leaves it: lists that are empty or half, links that are not there.
#[test]
fn half_a_list_does_not_make_a_folder_whole() {
    let (server, content) = server();
    let local = server.succeed(&["pull", REPO, "folder"]);
    let [list] = &lists(&server.cache(REPO).join(".taskbasis"))[..] else { panic!("one list") };
    let whole = fs::read(list).unwrap();
    let link = Path::new(&local).join("large.bin");
    let resolve = || server.run(&["inspect", &format!("hf://{REPO}/folder")]);
    resolve();
    server.requests();
    resolve();
    assert!(server.requests().is_empty(), "whole, it costs no request");
    for half in [&b""[..], &whole[..whole.len() - 1], &whole[..10], &vec![0; whole.len()]] {
        fs::write(list, half).unwrap();
        fs::remove_file(&link).unwrap();
        resolve();
        assert!(!server.requests().is_empty(), "{half:?} was taken for a list");
        assert!(fs::read(&link).unwrap() == content && fs::read(list).unwrap() == whole);
    }
    // A pull that ended before all links were made.
    fs::remove_file(&link).unwrap();
    let message = server.fail(&["pull", "--offline", REPO, "folder"]);
    assert!(message.contains("lost folder/large.bin"), "{message}");
}

#[cfg(unix)]
#[test]
fn what_the_cache_holds_is_verified_and_mended() {
    use std::os::unix::fs::PermissionsExt;

    let (server, content) = server();
    let local = server.succeed(&["pull", REPO, "folder"]);
    let blobs = server.cache(REPO).join("blobs");
    let (large, small) = (blobs.join(sha256(&content)), blobs.join(git_sha1(b"{}")));
    for blob in [&large, &small] {
        assert_eq!(fs::metadata(blob).unwrap().permissions().mode() & 0o222, 0, "may be written into");
    }
    server.succeed(&["pull", REPO, "folder", "--verify"]);
    server.succeed(&["pull", REPO, "folder", "--verify", "--offline"]);
    let mut damaged = content.clone();
    damaged[700_000] ^= 1;
    for (bytes, other, names) in [
        (&damaged[..], &b"[]"[..], &["folder/large.bin", "folder/inner/small.json"][..]),
        (&content[..500], b"{}", &["folder/large.bin"]),
        (b"", b"", &["folder/large.bin", "folder/inner/small.json"]),
    ] {
        for (blob, bytes) in [(&large, bytes), (&small, other)] {
            fs::remove_file(blob).unwrap();
            fs::write(blob, bytes).unwrap();
        }
        if bytes.len() == content.len() {
            server.succeed(&["pull", REPO, "folder"]);
            let output = server.run(&["pull", REPO, "folder", "--verify", "--offline"]);
            let told = String::from_utf8(output.stderr).unwrap();
            let error = told.lines().last().unwrap();
            assert!(!output.status.success() && error.contains("damaged of folder/"), "{told}");
            assert!(names.iter().all(|name| error.contains(name)), "{told}");
        }
        let output = server.run(&["pull", REPO, "folder", "--verify", "--json"]);
        let told = String::from_utf8(output.stderr.clone()).unwrap();
        for name in names {
            assert!(told.contains(&format!("note: {name}: the cache's copy is damaged: expected ")), "{told}");
        }
        let pulled: serde_json::Value = serde_json::from_str(&stdout(output)).unwrap();
        let files = pulled["pulled"][0]["files"].as_array().unwrap();
        assert_eq!(files.iter().filter(|file| file["damaged"] == true).count(), names.len(), "{pulled}");
        assert!(fs::read(Path::new(&local).join("large.bin")).unwrap() == content);
        assert_eq!(fs::read(Path::new(&local).join("inner/small.json")).unwrap(), b"{}");
    }
}
