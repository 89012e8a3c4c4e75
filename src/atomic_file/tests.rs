use std::fs::{self, File};

use super::*;
use crate::error::ErrorKind;

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn all_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "old").unwrap();
    let failed = replace_file(&path, &[], |sibling| {
        fs::write(sibling, "half").unwrap();
        Err(Error::invalid("stopped half-way"))
    });
    assert!(failed.unwrap_err().to_string().contains("stopped half-way"));
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path()).len()), ("old", 1));

    replace_file(&path, &[], |sibling| fs::write(sibling, "new").map_err(|e| Error::io("cannot write", sibling, e)))
        .unwrap();
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path()).len()), ("new", 1));
}

#[cfg(unix)]
#[test]
fn links_stay_and_devices_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (file, link) = (folder.path().join("file"), folder.path().join("link"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink(&file, &link).unwrap();
    let write = |sibling: &Path| fs::write(sibling, "new").map_err(|e| Error::io("cannot write", sibling, e));
    replace_file(&link, &[], write).unwrap();
    assert!(link.is_symlink() && fs::read_to_string(&file).unwrap() == "new");
    let mode = |path: &Path| std::os::unix::fs::PermissionsExt::mode(&fs::metadata(path).unwrap().permissions());
    fs::write(folder.path().join("usual"), "").unwrap();
    assert_eq!(mode(&file), mode(&folder.path().join("usual")), "as any file that is made");
    assert!(replace_file(&link, &[&file], |_| unreachable!("the link names an input")).is_err());

    let dangling = folder.path().join("dangling");
    std::os::unix::fs::symlink("nowhere", &dangling).unwrap();
    assert!(replace_file(&dangling, &[], |_| unreachable!("it names nothing")).is_err());

    let socket = folder.path().join("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let error = replace_file(&socket, &[], |_| unreachable!("it is no file")).unwrap_err();
    assert!(error.to_string().contains("no regular file"), "{error}");
}

#[cfg(unix)]
#[test]
fn what_killed_processes_left_is_removed_and_what_others_write_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let file = |name: &str| File::create(at(name)).unwrap();
    let (_, locked) = (file(".taskbasis-left.partial"), file(".taskbasis-locked.partial"));
    let (_, waited_for) = (file(".taskbasis-left.lock"), file(".taskbasis-held.lock"));
    locked.lock().unwrap();
    waited_for.lock().unwrap();
    file("theirs.partial");
    file("theirs.lock");
    file(".taskbasis-other");
    for name in ["a", "b", "c"] {
        fs::create_dir(at(&format!(".taskbasis-{name}.partial"))).unwrap();
    }
    for name in ["a", "b"] {
        File::create(at(&format!(".taskbasis-{name}.partial")).join("half")).unwrap();
    }
    let busy = File::open(at(".taskbasis-b.partial")).unwrap();
    busy.lock().unwrap();
    sweep(folder.path());
    let stay = [".taskbasis-b.partial", ".taskbasis-held.lock", ".taskbasis-locked.partial", ".taskbasis-other"];
    assert_eq!(names(folder.path()), [&stay[..], &["theirs.lock", "theirs.partial"]].concat());
}

/// Files are made and swept at once, by all: each is there for its maker, or made again, and none is left.
#[cfg(unix)]
#[test]
fn none_sweeps_what_another_has_just_made() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (path, folder) = (path.with_extension(thread.to_string()), &folder);
            scope.spawn(move || {
                for round in 0..200 {
                    let text = format!("{thread} {round}");
                    replace_file(&path, &[], |sibling| {
                        assert_eq!(fs::metadata(sibling).unwrap().len(), 0);
                        fs::write(sibling, &text).map_err(|e| Error::io("cannot write", sibling, e))
                    })
                    .unwrap();
                    assert_eq!(fs::read_to_string(&path).unwrap(), text);
                    let made = PartialFolder::in_folder(folder.path()).unwrap();
                    fs::write(made.path().join("inside"), &text).unwrap();
                }
            });
        }
    });
    assert_eq!(names(folder.path()), ["out.0", "out.1", "out.2", "out.3"]);
}

#[test]
fn a_file_that_replaces_one_in_the_making_is_locked_as_that_was() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    replace_file(&path, &[], |outer| {
        replace_file(outer, &[], |inner| fs::write(inner, "inner").map_err(|e| Error::io("cannot write", inner, e)))?;
        sweep(folder.path());
        assert!(outer.exists(), "it was swept");
        Ok(())
    })
    .unwrap();
    assert_eq!((fs::read_to_string(&path).unwrap().as_str(), names(folder.path())), ("inner", vec!["out".into()]));
}

/// What is read and then replaced under a lock loses nothing, however many do it at once.
#[test]
fn of_two_writers_one_waits() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("count");
    fs::write(&path, "0").unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let _lock = lock_output(&path, &|| {}).unwrap();
                    let count: u32 = fs::read_to_string(&path).unwrap().parse().unwrap();
                    let write = |sibling: &Path| {
                        fs::write(sibling, (count + 1).to_string()).map_err(|e| Error::io("cannot write", sibling, e))
                    };
                    replace_file(&path, &[], write).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_to_string(&path).unwrap(), "200");
    assert_eq!(names(folder.path()), ["count"]);
}

#[test]
fn a_wait_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let lock = lock_output(&path, &|| unreachable!("none else writes it")).unwrap();
    let (told, heard) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let told = told;
            drop(lock_output(&path, &|| told.send(()).unwrap()).unwrap());
        });
        heard.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
        drop(lock);
    });
    assert_eq!(heard.try_iter().count(), 0, "once is enough");
}

#[cfg(unix)]
#[test]
fn a_file_that_is_replaced_keeps_its_permissions() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    for mode in [0o600, 0o640, 0o444, 0o664, 0o400] {
        fs::write(&path, "old").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let seen = std::cell::Cell::new(0);
        replace_file(&path, &[], |sibling| {
            seen.set(fs::metadata(sibling).unwrap().mode() & 0o777);
            fs::write(sibling, "new").map_err(|e| Error::io("cannot write", sibling, e))
        })
        .unwrap();
        assert_eq!((fs::metadata(&path).unwrap().mode() & 0o7777, seen.get()), (mode, 0o600));
        fs::remove_file(&path).unwrap();
    }
    // Only the superuser gives files away.
    if rustix::process::geteuid().is_root() {
        fs::write(&path, "old").unwrap();
        std::os::unix::fs::chown(&path, Some(12_345), Some(54_321)).unwrap();
        replace_file(&path, &[], |_| Ok(())).unwrap();
        let found = fs::metadata(&path).unwrap();
        assert_eq!((found.uid(), found.gid()), (12_345, 54_321));

        let made = PartialFolder::in_folder(folder.path()).unwrap();
        let place = folder.path().join("place");
        fs::create_dir(&place).unwrap();
        fs::set_permissions(&place, fs::Permissions::from_mode(0o2750)).unwrap();
        std::os::unix::fs::chown(&place, Some(12_345), Some(54_321)).unwrap();
        made.take_place(&place).unwrap();
        let found = fs::metadata(&place).unwrap();
        assert_eq!((found.uid(), found.gid(), found.mode() & 0o7777), (12_345, 54_321, 0o2750));
    }
}

/// The attributes that a file system has for users; nothing is told of one that has none.
#[cfg(target_os = "linux")]
#[test]
fn a_file_that_is_replaced_keeps_its_extended_attributes() {
    use rustix::fs::{XattrFlags, getxattr, setxattr};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    fs::write(&path, "old").unwrap();
    let long = vec![7; 3_000];
    if setxattr(&path, "user.note", &long, XattrFlags::empty()).is_err() {
        return;
    }
    // Version 2, then: the owner may read and write, user 4711 read, the group nothing, within read, others nothing.
    let entry =
        |tag: u16, rights: u16, id: u32| [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat();
    let all = u32::MAX;
    let list = [entry(1, 6, all), entry(2, 4, 4711), entry(4, 0, all), entry(16, 4, all), entry(32, 0, all)].concat();
    let list = [&2u32.to_le_bytes()[..], &list].concat();
    let has_lists = setxattr(&path, "system.posix_acl_access", &list, XattrFlags::empty()).is_ok();
    replace_file(&path, &[], |_| Ok(())).unwrap();
    let read = |name: &str| {
        let mut buffer = vec![0; 4_096];
        getxattr(&path, name, &mut buffer[..]).map(|length| buffer[..length].to_vec())
    };
    assert_eq!(read("user.note").unwrap(), long);
    if has_lists {
        assert_eq!(read("system.posix_acl_access").unwrap(), list);
        // What the folder gives to new files is not the old file's.
        let default = [entry(1, 6, all), entry(2, 6, 4712), entry(4, 6, all), entry(16, 6, all), entry(32, 4, all)];
        let default = [&2u32.to_le_bytes()[..], &default.concat()].concat();
        setxattr(folder.path(), "system.posix_acl_default", &default, XattrFlags::empty()).unwrap();
        replace_file(&path, &[], |_| Ok(())).unwrap();
        assert_eq!(read("system.posix_acl_access").unwrap(), list);
        let plain = folder.path().join("plain");
        fs::write(&plain, "old").unwrap();
        rustix::fs::removexattr(&plain, "system.posix_acl_access").unwrap();
        replace_file(&plain, &[], |_| Ok(())).unwrap();
        assert!(getxattr(&plain, "system.posix_acl_access", &mut [0; 100][..]).is_err());
    }
}

#[cfg(unix)]
#[test]
fn the_hubs_cache_is_not_written_into() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    for inner in ["blobs", "snapshots/c0ffee/folder", "refs"] {
        fs::create_dir_all(at("any/models--o--r").join(inner)).unwrap();
    }
    fs::create_dir(at("models--mine")).unwrap();
    fs::write(at("any/models--o--r/blobs/abc"), "shared").unwrap();
    std::os::unix::fs::symlink("../../../blobs/abc", at("any/models--o--r/snapshots/c0ffee/folder/file")).unwrap();
    std::os::unix::fs::symlink("any/models--o--r/snapshots/c0ffee/folder/file", at("link")).unwrap();
    std::os::unix::fs::symlink("any/models--o--r/snapshots/c0ffee", at("linked")).unwrap();
    for path in ["link", "any/models--o--r/blobs/abc", "any/models--o--r/snapshots/c0ffee/new", "linked/folder/file"] {
        let error = replace_file(&at(path), &[], |_| unreachable!("it must not come to writing")).unwrap_err();
        assert!(error.to_string().contains("into the Hub's cache"), "{path}: {error}");
        assert!(check_output(&at(path), &[]).is_err());
        assert!(lock_output(&at(path), &|| {}).is_err());
    }
    assert_eq!(fs::read_to_string(at("link")).unwrap(), "shared");
    replace_file(&at("models--mine/out"), &[], |_| Ok(())).unwrap();
    replace_file(&at("any/out"), &[], |_| Ok(())).unwrap();
}

/// Windows takes `new/..` for the folder's file `new`.
#[cfg(unix)]
#[test]
fn names_that_cannot_be_written_are_refused_before_the_work() {
    let folder = tempfile::tempdir().unwrap();
    let at = |path: &str| folder.path().join(path);
    fs::write(at("file"), "").unwrap();
    let long = "x".repeat(300);
    for path in ["new/", "new/.", "new/..", "file/x", "file/", &long, ""] {
        let path = if path.is_empty() { path.into() } else { at(path) };
        let error = check_output(&path, &[]).unwrap_err();
        assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(&*path)), "{error}");
        assert!(replace_file(&path, &[], |_| unreachable!()).is_err());
    }
    assert_eq!(names(folder.path()), ["file"]);
}

/// Folders that take no new files, as this one of the kernel's, which lets not even the superuser make one.
#[cfg(target_os = "linux")]
#[test]
fn a_folder_that_takes_no_files_is_found_before_the_work() {
    let path = Path::new("/proc/taskbasis.safetensors");
    let error = check_output(path, &[]).unwrap_err();
    assert_eq!((error.kind(), error.path()), (ErrorKind::Io, Some(path)));
    assert!(error.to_string().contains("cannot create a file in its folder"), "{error}");
}

/// A failure names the output, not what stands for it meanwhile.
#[test]
fn a_failed_write_is_one_of_the_output() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out");
    let error = replace_file(&path, &[], |sibling| {
        Err(unwritten("cannot write", sibling, Some(123), IoKind::StorageFull.into()))
    })
    .unwrap_err();
    assert_eq!(error.path(), Some(&*path));
    let text = error.to_string();
    assert!(text.contains("room for 123 bytes") && !text.contains("partial"), "{text}");
}

#[test]
fn inputs_are_never_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("basis");
    fs::create_dir(&input).unwrap();
    let inside = input.join("basis_vectors.pt");
    fs::write(&inside, "precious").unwrap();
    let spelled_differently = input.join("..").join("basis").join("basis_vectors.pt");
    for (output, input) in [(&inside, &inside), (&inside, &input), (&spelled_differently, &inside)] {
        let error = replace_file(output, &[input], |_| unreachable!("it must not come to writing")).unwrap_err();
        let folder = if input.is_dir() { "a file of the input folder" } else { "the input" };
        assert!(error.to_string().contains(&format!("would overwrite {folder} ")), "{error}");
    }
    assert!(replace_file(&input, &[], |_| unreachable!()).is_err(), "a folder");
    assert!(replace_file(&input.join("new"), &[&input], |_| Ok(())).is_ok(), "a new name overwrites nothing");
    assert!(replace_file(Path::new("no/such/folder/x"), &[], |_| unreachable!()).is_err());
    assert_eq!(fs::read_to_string(inside).unwrap(), "precious");
}
