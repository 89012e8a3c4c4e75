//! The kind of a file, by its content.

use crate::error::{Error, Result};

/// The kinds of images that are decoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Png,
    Jpeg,
    WebP,
    Gif,
    Bmp,
    Tiff,
    Pnm,
}

impl Kind {
    pub(super) fn of(bytes: &[u8]) -> Result<Self> {
        Ok(match bytes {
            [] => return Err(Error::format("the image file is empty").expected("an image").got("0 bytes")),
            [0x89, b'P', b'N', b'G', b'\r', b'\n', 0x1a, b'\n', ..] => Self::Png,
            [0xff, 0xd8, 0xff, ..] => Self::Jpeg,
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Self::WebP,
            [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Self::Gif,
            [b'B', b'M', ..] => Self::Bmp,
            [b'I', b'I', 42 | 43, 0, ..] | [b'M', b'M', 0, 42 | 43, ..] if raw(bytes).is_none() => Self::Tiff,
            [b'P', b'1'..=b'6', b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c | b'#', ..] => Self::Pnm,
            _ => return Err(unread(bytes)),
        })
    }
}

fn unread(bytes: &[u8]) -> Error {
    let error = Error::unsupported("not an image file that is read here")
        .expected("PNG, JPEG, WebP, GIF, BMP, TIFF, PPM, PGM or PBM");
    match named(bytes) {
        Some(("a Git LFS pointer", _)) => error.got("a Git LFS pointer").hint("`git lfs pull` fetches the file itself"),
        Some((name, true)) => error.got(name).hint("Convert it, or decode it and hand over its pixels"),
        Some((name, false)) => error.got(name),
        None => error.got(format_args!("{} bytes that start with {:02x?}", bytes.len(), &bytes[..bytes.len().min(4)])),
    }
}

/// The beginnings of files, what such a file is called, and whether it holds an image.
const STARTS: [(&[u8], &str, bool); 36] = [
    (b"\xff\x0a", "a JPEG XL image", true),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", true),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image", true),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image", true),
    (b"II\xbc", "a JPEG XR image", true),
    (b"%PDF", "a PDF document", true),
    (b"%!PS", "a PostScript document", true),
    (b"8BPS", "a Photoshop image", true),
    (b"gimp xcf", "a GIMP image", true),
    (b"\0\0\x01\0", "an icon", true),
    (b"\0\0\x02\0", "a cursor", true),
    (b"icns", "an icon", true),
    (b"v/1\x01", "an OpenEXR image", true),
    (b"#?R", "a Radiance HDR image", true),
    (b"DDS ", "a DirectDraw surface", true),
    (b"qoif", "a QOI image", true),
    (b"SIMPLE  =", "a FITS image", true),
    (b"\x8aMNG", "an MNG animation", true),
    (b"P7", "a PAM image", true),
    (b"PF", "a floating-point PFM image", true),
    (b"Pf", "a floating-point PFM image", true),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video", true),
    (b"FLV", "a Flash video", true),
    (b"\0\0\x01\xba", "an MPEG video", true),
    (b"\0\0\x01\xb3", "an MPEG video", true),
    (b"\x93NUMPY", "a NumPy array", true),
    (b"PK\x03\x04", "a ZIP archive", false),
    (b"\x1f\x8b", "a gzip archive", false),
    (b"7z\xbc\xaf", "a 7-Zip archive", false),
    (b"\x28\xb5\x2f\xfd", "a Zstandard archive", false),
    (b"\0\x05\x16\x07", "what a Mac keeps beside a file (`._…`), not the file", false),
    (b"\0\0\0\x01Bud1", "what a Mac keeps of a folder (`.DS_Store`)", false),
    (b"version https://git-lfs", "a Git LFS pointer", false),
    (b"\xff\xd8", "a JPEG image that is cut off", false),
    (b"\x89PNG", "a PNG image whose first bytes are damaged, as by a transfer as text", false),
    (b"GIF8", "a GIF image that is cut off", false),
];

/// The name of a file that is not decoded, and whether it holds an image.
fn named(bytes: &[u8]) -> Option<(&'static str, bool)> {
    if let Some(name) = raw(bytes).or_else(|| boxed(bytes)).or_else(|| riff(bytes)) {
        return Some((name, true));
    }
    if let Some(&(_, name, image)) = STARTS.iter().find(|(start, ..)| bytes.starts_with(start)) {
        return Some((name, image));
    }
    if bytes.get(128..132) == Some(b"DICM") {
        return Some(("a DICOM image", true));
    }
    if bytes.iter().all(|&byte| byte == 0) {
        return Some(("nothing but zero bytes", false));
    }
    markup(bytes)
}

/// The raw formats of cameras. Most are TIFF files whose pages hold previews.
fn raw(bytes: &[u8]) -> Option<&'static str> {
    let known = bytes.get(8..10) == Some(b"CR") && bytes.starts_with(b"II*\0")
        || [b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FOVb"].iter().any(|start| bytes.starts_with(*start))
        || bytes.starts_with(b"FUJIFILMCCD-RAW");
    known.then_some("a camera's raw image")
}

/// Files of ISO base media: images and videos in boxes.
fn boxed(bytes: &[u8]) -> Option<&'static str> {
    let (size, rest) = bytes.split_first_chunk::<4>()?;
    let brands = rest.strip_prefix(b"ftyp")?;
    let end = (u32::from_be_bytes(*size) as usize).saturating_sub(8).min(brands.len());
    let (brands, _) = brands[..end].as_chunks::<4>();
    let has = |known: &[&[u8; 4]]| brands.iter().any(|brand| known.contains(&brand));
    Some(if has(&[b"avif", b"avis"]) {
        "an AVIF image"
    } else if has(&[b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"]) {
        "a HEIC image"
    } else if has(&[b"crx "]) {
        "a camera's raw image"
    } else {
        "an MP4 or QuickTime video"
    })
}

fn riff(bytes: &[u8]) -> Option<&'static str> {
    match bytes.strip_prefix(b"RIFF")?.get(4..8) {
        Some(b"AVI ") => Some("an AVI video"),
        Some(b"WAVE") => Some("a sound"),
        _ => None,
    }
}

/// Text: SVG, a web page, or something else.
fn markup(bytes: &[u8]) -> Option<(&'static str, bool)> {
    let start = String::from_utf8_lossy(&bytes[..bytes.len().min(4096)]).to_ascii_lowercase();
    let text = start.trim_start_matches('\u{feff}').trim_start();
    if text.contains("<svg") {
        Some(("an SVG drawing", true))
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        Some(("a web page, as a failed download leaves it", false))
    } else if text.starts_with("<?xml") {
        Some(("an XML document", false))
    } else {
        let printable = |c: char| !c.is_control() && c != '\u{fffd}' || c.is_ascii_whitespace();
        start.chars().all(printable).then_some(("a text", false))
    }
}
