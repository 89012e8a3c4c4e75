//! A zip archive: every entry that the directory gives lies inside the file, and none inside another.
#![no_main]

use libfuzzer_sys::fuzz_target;
use taskbasis::Mapping;
use taskbasis::checkpoint::zip::Directory;

fuzz_target!(|bytes: &[u8]| {
    let mapping = Mapping::from_vec(bytes.to_vec(), "fuzz");
    let Ok(directory) = Directory::parse(&mapping) else { return };
    let mut end = 0;
    for name in directory.names() {
        if let Ok(range) = directory.range(&mapping, name) {
            assert!(end <= range.start && range.start <= range.end && range.end <= bytes.len());
            end = range.end;
        }
    }
});
