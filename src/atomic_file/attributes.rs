//! What a file keeps when another takes its place: mode, owner and group, access list and extended attributes.

use std::fs::{self, Metadata};
use std::io;
use std::path::Path;

/// The attributes of the file or folder that is to be replaced.
pub(super) struct Attributes {
    #[cfg(unix)]
    found: Metadata,
    #[cfg(any(target_os = "linux", target_vendor = "apple"))]
    extended: Vec<(std::ffi::CString, Vec<u8>)>,
}

impl Attributes {
    /// Those of `path`; `None` where nothing is there.
    pub(super) fn of(path: &Path) -> io::Result<Option<Self>> {
        let found = match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found?,
        };
        #[cfg(not(unix))]
        let _: Metadata = found;
        Ok(Some(Self {
            #[cfg(unix)]
            found,
            #[cfg(any(target_os = "linux", target_vendor = "apple"))]
            extended: extended::of(path),
        }))
    }

    /// Gives them to `path`, as far as this user may: what cannot be kept is left out, and never is more allowed to
    /// anyone than was.
    #[cfg(unix)]
    pub(super) fn give(&self, path: &Path) -> io::Result<()> {
        use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

        let now = fs::metadata(path)?;
        if now.uid() != self.found.uid() {
            let _ = chown(path, Some(self.found.uid()), None);
        }
        let is_of_group = now.gid() == self.found.gid() || chown(path, None, Some(self.found.gid())).is_ok();
        let meant = if now.is_dir() { 0o7777 } else { 0o777 };
        let mode = self.found.mode() & meant;
        // Narrow until all is in place. Some file systems have modes that cannot be set.
        let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode & 0o700));
        #[cfg(any(target_os = "linux", target_vendor = "apple"))]
        let is_of_group = extended::give(&self.extended, is_of_group, path);
        let mode = if is_of_group { mode } else { without_group(mode) };
        match fs::set_permissions(path, fs::Permissions::from_mode(mode)) {
            Err(e) if fs::metadata(path)?.mode() & meant & !mode != 0 => Err(e),
            _ => Ok(()),
        }
    }

    #[cfg(not(unix))]
    pub(super) fn give(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
}

/// The mode for another group, or without the list of those who might do what: the group may what all may.
#[cfg(unix)]
fn without_group(mode: u32) -> u32 {
    mode & (0o7707 | (mode & 0o007) << 3)
}

#[cfg(any(target_os = "linux", target_vendor = "apple"))]
mod extended {
    use std::ffi::{CStr, CString};
    use std::path::Path;

    #[cfg(target_os = "linux")]
    use rustix::fs::removexattr;
    use rustix::fs::{XattrFlags, getxattr, listxattr, setxattr};
    use rustix::io::Errno;

    /// The list of those who may do what, beyond the mode.
    #[cfg(target_os = "linux")]
    const ACCESS_LIST: &CStr = c"system.posix_acl_access";
    /// Hashes and rights of the old content, which the new has not.
    const OF_CONTENT: [&CStr; 3] = [c"security.ima", c"security.evm", c"security.capability"];

    pub(super) fn of(path: &Path) -> Vec<(CString, Vec<u8>)> {
        let names = read(|buffer| listxattr(path, buffer)).unwrap_or_default();
        let names = names.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        let names = names.filter_map(|name| CString::new(name).ok());
        let names = names.filter(|name| !OF_CONTENT.contains(&name.as_c_str()));
        let with_value = |name: CString| read(|buffer| getxattr(path, &name, buffer)).map(|value| (name, value));
        names.filter_map(with_value).collect()
    }

    /// What `get` writes, into memory that grows until it is enough.
    fn read(mut get: impl FnMut(&mut [u8]) -> Result<usize, Errno>) -> Option<Vec<u8>> {
        // No system gives more than 64 KiB.
        for size in [1 << 10, 64 << 10] {
            let mut buffer = vec![0; size];
            match get(&mut buffer) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Some(buffer);
                }
                Err(Errno::RANGE) => {}
                Err(_) => return None,
            }
        }
        None
    }

    /// Sets what can be set. Whether the group's part of the mode means what it meant: with a list of who may do what
    /// it is the bound of that, and the list is of the group that the file had.
    pub(super) fn give(extended: &[(CString, Vec<u8>)], is_of_group: bool, path: &Path) -> bool {
        #[cfg_attr(not(target_os = "linux"), allow(unused_mut))] // Only Linux keeps such lists in an attribute.
        let mut means_the_same = is_of_group;
        #[cfg(target_os = "linux")]
        {
            // The folder may have given it one.
            let _ = removexattr(path, ACCESS_LIST);
        }
        for (name, value) in extended {
            #[cfg(target_os = "linux")]
            if name.as_c_str() == ACCESS_LIST {
                means_the_same &= is_of_group && setxattr(path, name, value, XattrFlags::empty()).is_ok();
                continue;
            }
            let _ = setxattr(path, name, value, XattrFlags::empty());
        }
        means_the_same
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::without_group;

    #[test]
    fn another_group_may_no_more_than_all() {
        for (mode, narrowed) in [(0o640, 0o600), (0o664, 0o644), (0o660, 0o600), (0o604, 0o604), (0o777, 0o777)] {
            assert_eq!(without_group(mode), narrowed);
        }
    }
}
