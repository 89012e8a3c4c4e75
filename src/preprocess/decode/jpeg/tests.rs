//! Every kind of file that is read, with the pixels of Pillow 12.2 (libjpeg-turbo 3.1.4).

mod writer;

use super::*;
use crate::error::Error;
use crate::preprocess::PixelFormat;
use writer::{Kind, Scans};

const FULL: [(usize, usize); 3] = [(1, 1); 3];
const HALVED: [(usize, usize); 3] = [(2, 2), (1, 1), (1, 1)];

/// The files, each with the CRC-32 of its pixels: `zlib.crc32(Image.open(path).tobytes())` in Python.
fn kinds() -> Vec<(Kind, u32)> {
    let base = |factors: &[_]| Kind::new(45, 37, factors);
    let scans = |kind: Kind, scans: &[&[usize]]| Kind {
        scans: Scans::Sequential(scans.iter().map(|scan| scan.to_vec()).collect()),
        ..kind
    };
    let progressive = |kind: Kind, low| Kind { scans: Scans::Progressive(low), ..kind };
    let mut kinds = Vec::new();
    // One channel, whatever its factors.
    kinds.extend([base(&[(1, 1)]), base(&[(2, 2)]), base(&[(4, 3)]), progressive(base(&[(2, 1)]), 1)]);
    // Usual and unusual sampling: luma more, less and otherwise than chroma.
    for (luma, blue, red) in [
        ((1, 1), (1, 1), (1, 1)),
        ((2, 1), (1, 1), (1, 1)),
        ((1, 2), (1, 1), (1, 1)),
        ((2, 2), (1, 1), (1, 1)),
        ((4, 1), (1, 1), (1, 1)),
        ((4, 1), (2, 1), (1, 1)),
        ((3, 1), (1, 1), (1, 1)),
        ((1, 3), (1, 1), (1, 1)),
        ((1, 1), (2, 2), (1, 1)),
        ((1, 1), (2, 1), (1, 2)),
        ((2, 1), (1, 2), (1, 1)),
    ] {
        let factors = [luma, blue, red];
        kinds.extend([base(&factors), scans(base(&factors), &[&[0], &[1], &[2]]), progressive(base(&factors), 1)]);
    }
    // Orders of scans, restart markers, further bits.
    kinds.extend([
        scans(base(&HALVED), &[&[2], &[0], &[1]]),
        scans(base(&HALVED), &[&[0], &[1, 2]]),
        scans(base(&HALVED), &[&[0, 1], &[2]]),
        Kind { restart: 1, ..base(&FULL) },
        Kind { restart: 2, ..scans(base(&HALVED), &[&[0], &[1], &[2]]) },
        Kind { restart: 3, ..progressive(base(&HALVED), 2) },
        progressive(base(&FULL), 0),
        progressive(base(&FULL), 2),
    ]);
    // What the channels are.
    let four = [(1, 1); 4];
    kinds.extend([
        Kind { jfif: false, adobe: Some(0), ..base(&FULL) },
        Kind { jfif: false, adobe: Some(1), ..base(&FULL) },
        Kind { jfif: true, adobe: Some(0), ..base(&FULL) },
        Kind { jfif: false, ids: b"RGB".to_vec(), ..base(&FULL) },
        Kind { jfif: false, ids: vec![7, 3, 200], ..base(&HALVED) },
        base(&four),
        Kind { adobe: Some(0), ..base(&four) },
        Kind { adobe: Some(2), ..base(&four) },
        Kind { adobe: Some(2), ..progressive(base(&[(2, 2), (1, 1), (1, 1), (2, 2)]), 1) },
    ]);
    // The smallest sizes, where nothing is left to weigh.
    for (width, height) in [(1, 1), (1, 9), (9, 1), (2, 3), (3, 2), (4, 4), (5, 3), (16, 16), (17, 33)] {
        for factors in [[(2, 1), (1, 1), (1, 1)], [(1, 2), (1, 1), (1, 1)], HALVED] {
            kinds.push(Kind::new(width, height, &factors));
        }
    }
    kinds.extend([
        Kind { junk: vec![0, 1, 0x55, 0xff, 0, 0xfe], ..base(&FULL) },
        Kind { junk: vec![0xff; 3], ..base(&FULL) },
        Kind { huffman_tables: false, ..base(&HALVED) },
    ]);
    assert_eq!(kinds.len(), PIXELS.len());
    kinds.into_iter().zip(PIXELS).collect()
}

const PIXELS: [u32; 84] = [
    0xe5d1e223, 0xe5d1e223, 0x8f6cf33a, 0xe5d1e223, 0x831909e3, 0x831909e3, 0x831909e3, 0x22fab8af, 0x22fab8af,
    0x22fab8af, 0x8f25c98f, 0x8f25c98f, 0x8f25c98f, 0x277f0f8e, 0x277f0f8e, 0x277f0f8e, 0xfbd12b49, 0xfbd12b49,
    0xfbd12b49, 0xf6f76e86, 0xf6f76e86, 0xf6f76e86, 0x50fdacec, 0x50fdacec, 0x50fdacec, 0xa8ea29b4, 0xa8ea29b4,
    0xa8ea29b4, 0x609635c3, 0x609635c3, 0x609635c3, 0x8f2f7bd2, 0x8f2f7bd2, 0x8f2f7bd2, 0x8026c666, 0x8026c666,
    0x8026c666, 0x277f0f8e, 0x277f0f8e, 0x277f0f8e, 0x831909e3, 0x277f0f8e, 0x277f0f8e, 0x831909e3, 0x831909e3,
    0x08f5a2bc, 0x831909e3, 0x831909e3, 0x08f5a2bc, 0x277f0f8e, 0x9955a658, 0x9955a658, 0xfc43b95f, 0x9d477291,
    0xa3bc9f97, 0xa3bc9f97, 0x71faf8dd, 0xa3691f5d, 0xd9903291, 0x34fb2a32, 0xf8c172a4, 0x3cdb74c0, 0x73862df2,
    0x0ab7a127, 0xac1786ea, 0x8b9d64e4, 0x321bfa40, 0x322267d7, 0x49c186de, 0x603cfe29, 0x0aa96b99, 0x843eeb43,
    0x66647945, 0x1df46494, 0x30072480, 0x29b1f93e, 0x8c0e265d, 0x7108e63e, 0x1f5901f2, 0x9c3282d3, 0xecb41676,
    0x831909e3, 0x831909e3, 0x96b48dba,
];

fn pixels(bytes: &[u8]) -> (Vec<u8>, usize, usize, PixelFormat) {
    match decode(bytes, 1 << 20).unwrap() {
        Decoded::Pixels { bytes, width, height, format } => (bytes, width, height, format),
        Decoded::Indexed { .. } => panic!("a JPEG image has no palette"),
    }
}

#[test]
fn every_kind_has_pillows_pixels() {
    for (kind, expected) in kinds() {
        let (bytes, width, height, _) = pixels(&kind.write());
        assert_eq!((width, height), (kind.width, kind.height));
        assert_eq!(crc32fast::hash(&bytes), expected, "{kind:?}");
    }
}

/// Writes the files into the folder `target/jpeg`, for Pillow to read.
#[test]
#[ignore = "writes files"]
fn write_every_kind() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/jpeg");
    std::fs::create_dir_all(&folder).unwrap();
    for (index, (kind, _)) in kinds().into_iter().enumerate() {
        std::fs::write(folder.join(format!("{index:02}.jpg")), kind.write()).unwrap();
    }
}

fn error(bytes: &[u8]) -> Error {
    match decode(bytes, 1 << 20) {
        Ok(_) => panic!("was decoded"),
        Err(error) => error,
    }
}

/// A file without its last bytes is refused, however few they are: none is filled up with grey.
#[test]
fn a_truncated_file_is_refused() {
    let progressive = Kind { scans: Scans::Progressive(1), ..Kind::new(20, 20, &HALVED) };
    for bytes in [Kind { restart: 2, ..Kind::new(20, 20, &FULL) }.write(), progressive.write()] {
        for length in 3..bytes.len() {
            assert_eq!(error(&bytes[..length]).kind(), crate::ErrorKind::Format, "{length} bytes");
        }
        let mut ended = bytes[..bytes.len() / 2].to_vec();
        ended.extend([0xff, 0xd9]);
        assert_eq!(error(&ended).kind(), crate::ErrorKind::Format, "an end before all is told");
        let mut longer = bytes.clone();
        longer.extend(b"what follows the end is not read \xff\xd8\xff");
        assert!(pixels(&longer) == pixels(&bytes));
    }
}

/// A progressive image whose later bits are missing: libjpeg would smooth it, and no decoder is told how.
#[test]
fn an_unfinished_progressive_file_is_refused() {
    let bytes = Kind { scans: Scans::Progressive(1), ..Kind::new(20, 20, &FULL) }.write();
    let scans: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(&[0xff, 0xda])).collect();
    for &scan in &scans {
        let ended = [&bytes[..scan], &[0xff, 0xd9]].concat();
        assert!(error(&ended).to_string().contains("incomplete"), "{}", error(&ended));
    }
}

#[test]
fn what_pillow_does_not_read_either_is_named() {
    let frame = |bytes: &[u8]| bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let good = Kind::new(20, 20, &FULL).write();
    let at = frame(&good);
    for (place, value, says) in [
        (1, 0xc3, "lossless coding"),
        (1, 0xc5, "hierarchical coding"),
        (1, 0xc9, "arithmetic coding"),
        (4, 12, "12 bits per sample"),
        (9, 2, "2 channels"),
        (11, 0x31, "do not divide each other"),
        (6, 0, "20 × 0 pixels"),
        (11, 0x51, "beyond 1 to 4"),
    ] {
        let mut bytes = good.clone();
        bytes[at + place] = value;
        if says.contains("divide") {
            bytes[at + 14] = 0x21;
        }
        let error = error(&bytes).to_string();
        assert!(error.contains(says), "{error} instead of {says}");
    }
}

/// Each scan visits every block again: a small file must not take hours.
#[test]
fn scans_are_counted() {
    let bytes = Kind { scans: Scans::Progressive(0), ..Kind::new(8, 8, &[(1, 1)]) }.write();
    let scan = bytes.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let next = scan + 2 + bytes[scan + 2..].windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    let mut many = bytes[..scan].to_vec();
    (0..=MAX_SCANS).for_each(|_| many.extend(&bytes[scan..next]));
    many.extend(&bytes[next..]);
    assert_eq!(error(&many).kind(), crate::ErrorKind::Unsupported);
}

/// The size is checked before anything is allocated for it.
#[test]
fn a_large_size_is_refused_first() {
    let mut bytes = Kind::new(20, 20, &FULL).write();
    let frame = bytes.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    bytes[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xff, 0xff, 0xff]);
    assert!(error(&bytes).to_string().contains("65535 × 65535"), "{}", error(&bytes));
}

/// Whatever is changed, a file is decoded or refused.
#[test]
fn a_damaged_file_is_no_trouble() {
    let progressive = Kind { scans: Scans::Progressive(2), restart: 2, ..Kind::new(20, 20, &HALVED) };
    for bytes in [Kind::new(20, 20, &HALVED).write(), progressive.write()] {
        for at in 2..bytes.len() {
            for value in [0, 0x7f, 0xff, bytes[at] ^ 1] {
                let mut damaged = bytes.clone();
                damaged[at] = value;
                _ = decode(&damaged, 1 << 16);
            }
        }
    }
}
