//! Which files hold images, by their names.

use std::path::Path;

/// The endings of files that hold images, in small letters; what they really hold is told by their content.
const ENDINGS: [&str; 16] = [
    "png", "apng", "jpg", "jpeg", "jpe", "jfif", "webp", "gif", "bmp", "dib", "tif", "tiff", "ppm", "pgm", "pbm", "pnm",
];

/// Whether a file's name ends as those of image files do that are read, in letters of either case.
pub fn is_image_name(path: &Path) -> bool {
    let ending = path.extension().and_then(|ending| ending.to_str());
    ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}
