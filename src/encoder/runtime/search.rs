//! The search for ONNX Runtime: the places, their order, and what is said when it is not there.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::library::{MINIMUM_MINOR, Unusable, Usable};
use crate::error::{Error, ErrorKind, Result};

/// The environment variable that names the library.
pub const PATH_VARIABLE: &str = "ORT_DYLIB_PATH";

const WHAT_TO_DO: &str = "Run `make onnxruntime`, or run `pip install onnxruntime` and set ORT_DYLIB_PATH to the \
                          `libonnxruntime` file in its `capi` folder";

/// The reason why a place is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// The caller gave the path.
    Caller,
    /// `ORT_DYLIB_PATH` names it.
    Environment,
    /// Beside the running program, or in `../lib` from there.
    Executable,
    /// Beside the shared library that holds this code, in `../lib` from there, or in `taskbasis` beside it, where
    /// packages of a system put their own.
    Library,
    /// Wherever the system's loader looks for shared libraries.
    System,
    /// Linked into the program, which the feature `linked-onnxruntime` asks for.
    Linked,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Caller => "the path given",
            Self::Environment => PATH_VARIABLE,
            Self::Executable => "beside the program",
            Self::Library => "beside the library",
            Self::System => "the system's loader",
            Self::Linked => "linked in",
        })
    }
}

/// One place of the search.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SearchPlace {
    pub(super) origin: Origin,
    /// A file, or for [`Origin::System`] a library's name.
    pub(super) target: PathBuf,
}

/// The surroundings that the search depends on.
#[derive(Clone, Debug, Default)]
pub(super) struct Surroundings {
    /// The value of `ORT_DYLIB_PATH`.
    pub(super) variable: Option<OsString>,
    /// The running program.
    pub(super) executable: Option<PathBuf>,
    /// The shared library (or program) that holds this code.
    pub(super) library: Option<PathBuf>,
}

/// Every place, in the order of the search, each once.
pub(super) fn places(given: Option<&Path>, around: &Surroundings) -> Vec<SearchPlace> {
    let mut places: Vec<SearchPlace> = Vec::new();
    let mut add = |origin, target: PathBuf| {
        if !places.iter().any(|place| place.target == target) {
            places.push(SearchPlace { origin, target });
        }
    };
    if let Some(path) = given {
        libraries_at(path).into_iter().for_each(|library| add(Origin::Caller, library));
    }
    // A variable that is set to nothing is how shells unset one for a single command.
    if let Some(value) = around.variable.as_ref().filter(|value| !value.is_empty()) {
        libraries_at(Path::new(value)).into_iter().for_each(|library| add(Origin::Environment, library));
    }
    for (origin, file) in [(Origin::Executable, &around.executable), (Origin::Library, &around.library)] {
        let Some(folder) = file.as_deref().and_then(Path::parent) else { continue };
        let shared = folder.parent().map(|parent| parent.join("lib"));
        let own = (origin == Origin::Library).then(|| folder.join("taskbasis"));
        for folder in std::iter::once(folder.to_path_buf()).chain(shared).chain(own) {
            for name in file_names() {
                add(origin, folder.join(name));
            }
        }
    }
    for name in file_names() {
        add(Origin::System, name.into());
    }
    places
}

/// The libraries of ONNX Runtime in a folder, the newest first by the versions in their names; of any other path, and
/// of a folder without one, the path itself.
fn libraries_at(path: &Path) -> Vec<PathBuf> {
    let begin = format!("{}onnxruntime", std::env::consts::DLL_PREFIX);
    let version = |name: &str| -> Option<Vec<u32>> {
        let rest = name.strip_prefix(&begin)?;
        // `libonnxruntime.so.1.32.0`, `libonnxruntime.1.32.0.dylib`; not its providers'.
        let is_library = rest.starts_with('.') && rest.contains(std::env::consts::DLL_SUFFIX);
        let numbers = rest.replace(std::env::consts::DLL_SUFFIX, "");
        let mut parts = numbers.split('.').filter(|part| !part.is_empty()).map(str::parse);
        is_library.then(|| parts.by_ref().map_while(std::result::Result::ok).collect())
    };
    let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(std::result::Result::ok);
    let mut found: Vec<(Vec<u32>, PathBuf)> =
        entries.filter_map(|entry| Some((version(entry.file_name().to_str()?)?, entry.path()))).collect();
    found.sort_by(|a, b| b.cmp(a));
    match found.is_empty() {
        true => vec![path.to_path_buf()],
        false => found.into_iter().map(|(_, path)| path).collect(),
    }
}

/// The names that a library file of ONNX Runtime goes by.
fn file_names() -> Vec<String> {
    let plain = format!("{}onnxruntime{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    // The name that a release without its development files has.
    let versioned = cfg!(target_os = "linux").then(|| format!("{plain}.1"));
    std::iter::once(plain).chain(versioned).collect()
}

/// The first usable library. The path given and `ORT_DYLIB_PATH` are orders: where one fails, nothing takes its place
/// but another library of the same folder, where it is one.
///
/// # Errors
/// [`ErrorKind::RuntimeMissing`], with what was found at each place and what to do about it; [`ErrorKind::Io`] where a
/// file on the way could not be read.
pub(super) fn search(
    places: &[SearchPlace],
    examine: impl Fn(&SearchPlace) -> Result<Usable, Unusable>,
) -> Result<(Origin, Usable)> {
    let mut found: Vec<(&SearchPlace, Result<Usable, Unusable>)> = Vec::new();
    for place in places {
        let answer = examine(place);
        let ordered = matches!(place.origin, Origin::Caller | Origin::Environment);
        match answer {
            Ok(usable) => return Ok((place.origin, usable)),
            Err(why) if ordered => {
                found.push((place, Err(why)));
                let (first, next) = (found[0].0, places.get(found.len()));
                if next.is_some_and(|next| next.origin == place.origin) {
                    continue;
                }
                let place = if first.origin == place.origin { first } else { place };
                // The rest is looked at only to be told of: it may hold what was meant.
                let rest = places.iter().skip(found.len()).map(|other| (other, examine(other)));
                return Err(failure(Some(place), found.iter().cloned().chain(rest)));
            }
            Err(why) => {
                let (origin, path) = (place.origin, place.target.display());
                tracing::debug!(%origin, %path, why = why.why, "not this ONNX Runtime");
                found.push((place, Err(why)));
            }
        }
    }
    Err(failure(None, found.into_iter()))
}

fn failure<'a>(
    ordered: Option<&SearchPlace>,
    found: impl Iterator<Item = (&'a SearchPlace, Result<Usable, Unusable>)>,
) -> Error {
    let mut looked_at = Vec::new();
    let mut why_ordered = String::new();
    let mut unloadable: Option<(&SearchPlace, String)> = None;
    let mut unread: Option<(&SearchPlace, String)> = None;
    let mut rejected: Vec<PathBuf> = Vec::new();
    let mut variable_seen = false;
    for (place, answer) in found {
        variable_seen |= place.origin == Origin::Environment;
        let what = match answer {
            Ok(usable) => format!("version {}, usable, but not what was asked for", usable.version),
            // A library that is open is what the loader gives for its name, wherever another one may be.
            Err(Unusable { path: Some(path), .. }) if rejected.contains(&path) => {
                format!("the same file again, {}", path.display())
            }
            Err(Unusable { why, is_unloadable, is_unread, path }) => {
                rejected.extend(path);
                if is_unread && unread.is_none() {
                    unread = Some((place, why.clone()));
                }
                if is_unloadable && unloadable.is_none() {
                    unloadable = Some((place, why.clone()));
                }
                why
            }
        };
        looked_at.push(format!("{} ({}): {what}", place.origin, place.target.display()));
        if ordered == Some(place) {
            why_ordered = what;
        }
    }
    if !variable_seen {
        looked_at.push(format!("{PATH_VARIABLE}: not set"));
    }
    let expected = format!("version 1.{MINIMUM_MINOR} or newer");
    let hint = format!("Looked at {}. {WHAT_TO_DO}", looked_at.join("; "));
    let missing = |message: String| Error::new(ErrorKind::RuntimeMissing, message);
    // Whether there is one is not known: nothing that would do without one may take this for an answer.
    if let Some((SearchPlace { target, .. }, why)) = unread {
        return Error::new(ErrorKind::Io, format!("what may be ONNX Runtime {why}")).at(target).hint(hint);
    }
    match (ordered, unloadable) {
        (Some(SearchPlace { origin, target }), _) => {
            missing(format!("{origin} is no usable ONNX Runtime: {why_ordered}")).at(target).expected(expected)
        }
        (None, Some((SearchPlace { target, .. }, why))) => missing(format!("ONNX Runtime was {why}")).at(target),
        (None, None) => missing("ONNX Runtime was not found".into()).expected(expected),
    }
    .hint(hint)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::super::library::Version;
    use super::*;

    fn around(variable: &str) -> Surroundings {
        Surroundings {
            variable: Some(variable.into()),
            executable: Some("/opt/app/bin/app".into()),
            library: Some("/opt/tb/lib/libtaskbasis.so".into()),
        }
    }

    /// Searches as if only `good` held a library.
    fn look(given: Option<&Path>, around: &Surroundings, good: &[&str]) -> Result<(Origin, Usable)> {
        search(&places(given, around), |place| {
            let path = place.target.clone();
            if good.iter().any(|g| path == Path::new(g)) {
                return Ok(Usable {
                    path,
                    version: Version::for_test("1.31.1"),
                    api: std::ptr::null(),
                    providers: Vec::new(),
                });
            }
            Err("no such file".into())
        })
    }

    #[test]
    fn the_order_is_the_documented_one() {
        let all = places(Some(Path::new("/given.so")), &around("/variable.so"));
        let seen: Vec<_> = all.iter().map(|place| (place.origin, place.target.to_str().unwrap())).collect();
        assert_eq!(
            seen,
            [
                (Origin::Caller, "/given.so"),
                (Origin::Environment, "/variable.so"),
                (Origin::Executable, "/opt/app/bin/libonnxruntime.so"),
                (Origin::Executable, "/opt/app/bin/libonnxruntime.so.1"),
                (Origin::Executable, "/opt/app/lib/libonnxruntime.so"),
                (Origin::Executable, "/opt/app/lib/libonnxruntime.so.1"),
                (Origin::Library, "/opt/tb/lib/libonnxruntime.so"),
                (Origin::Library, "/opt/tb/lib/libonnxruntime.so.1"),
                (Origin::Library, "/opt/tb/lib/taskbasis/libonnxruntime.so"),
                (Origin::Library, "/opt/tb/lib/taskbasis/libonnxruntime.so.1"),
                (Origin::System, "libonnxruntime.so"),
                (Origin::System, "libonnxruntime.so.1"),
            ]
        );
        assert!(places(None, &around("")).iter().all(|place| place.origin != Origin::Environment));
    }

    /// Two packages of ONNX Runtime in one environment leave two libraries in one folder.
    #[test]
    fn of_a_folder_the_newest_usable_library_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let names = ["so.1.9.0", "so.1.32.0", "so.1.23.2", "so"].map(|end| format!("libonnxruntime.{end}"));
        for name in names.iter().map(String::as_str).chain(["libonnxruntime_providers_shared.so", "ort.pyd"]) {
            std::fs::write(folder.path().join(name), b"").unwrap();
        }
        let path = |name: &str| folder.path().join(name);
        let expected = ["so.1.32.0", "so.1.23.2", "so.1.9.0", "so"].map(|end| path(&format!("libonnxruntime.{end}")));
        assert_eq!(libraries_at(folder.path()), expected);
        assert_eq!(libraries_at(&expected[1]), [expected[1].clone()]);
        let variable = around(folder.path().to_str().unwrap());
        for good in &expected[..2] {
            for (given, around) in [(Some(folder.path()), around("")), (None, variable.clone())] {
                let (_, usable) = look(given, &around, &[good.to_str().unwrap()]).unwrap();
                assert_eq!(&usable.path, good);
            }
        }
        // Nothing outside the folder takes their place, and the error is about the newest.
        let error = look(None, &variable, &["/opt/app/bin/libonnxruntime.so"]).unwrap_err();
        assert_eq!(error.path(), Some(&*expected[0]));
        let text = error.to_string();
        assert!(text.contains("ORT_DYLIB_PATH is no usable ONNX Runtime") && text.contains("so.1.9.0"), "{text}");
        let empty = tempfile::tempdir().unwrap();
        assert_eq!(libraries_at(empty.path()), [empty.path()]);
    }

    #[test]
    fn the_first_usable_place_wins() {
        let (origin, usable) =
            look(None, &around(""), &["libonnxruntime.so.1", "/opt/tb/lib/libonnxruntime.so"]).unwrap();
        assert_eq!((origin, usable.path.to_str()), (Origin::Library, Some("/opt/tb/lib/libonnxruntime.so")));
    }

    #[test]
    fn an_order_has_no_substitute() {
        let good = ["/opt/app/bin/libonnxruntime.so"];
        for (given, variable, named) in [(None, "/variable.so", "/variable.so"), (Some("/given.so"), "", "/given.so")] {
            let error = look(given.map(Path::new), &around(variable), &good).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::RuntimeMissing);
            assert_eq!(error.path(), Some(Path::new(named)));
            let text = error.to_string();
            assert!(text.contains("ONNX Runtime: no such file: expected version 1.24 or newer"), "{text}");
            assert!(text.contains("1.31.1, usable, but not what was asked for"), "{text}");
            for place in places(given.map(Path::new), &around(variable)) {
                assert!(text.contains(place.target.to_str().unwrap()), "{text}");
            }
        }
        let error = look(Some(Path::new("/given.so")), &around("/variable.so"), &["/variable.so"]);
        assert!(error.is_err(), "the variable does not stand in for the caller's path");
    }

    #[test]
    fn a_library_that_cannot_be_loaded_was_found() {
        let examine = |place: &SearchPlace| match place.target.to_str() {
            Some("libonnxruntime.so.1") => Err(Unusable {
                is_unread: false,
                why: "found, but could not be loaded: failed to map segment from shared object".into(),
                is_unloadable: true,
                path: None,
            }),
            _ => Err("not found".into()),
        };
        let error = search(&places(None, &around("")), examine).unwrap_err();
        let text = error.to_string();
        let begin = "libonnxruntime.so.1: ONNX Runtime was found, but could not be loaded: failed to map segment";
        assert!(text.starts_with(begin), "{text}");
        assert!(!text.contains("was not found") && text.contains("beside the program"), "{text}");
    }

    #[test]
    fn a_file_is_rejected_once() {
        let examine = |place: &SearchPlace| match place.origin {
            Origin::Environment | Origin::System => {
                Err(Unusable { path: Some("/variable.so".into()), .."version 1.19.2, which is not supported".into() })
            }
            _ => Err("no such file".into()),
        };
        let text = search(&places(None, &around("/variable.so")), examine).unwrap_err().to_string();
        assert_eq!(
            text.matches("loader (libonnxruntime.so.1): the same file again, /variable.so").count(),
            1,
            "{text}"
        );
        assert!(!text.contains("loader (libonnxruntime.so.1): version"), "{text}");
    }

    #[test]
    fn nothing_found_says_what_to_do() {
        let text = look(None, &Surroundings::default(), &[]).unwrap_err().to_string();
        for part in ["not found", "1.24", "libonnxruntime.so.1", "ORT_DYLIB_PATH: not set", "make onnxruntime"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
