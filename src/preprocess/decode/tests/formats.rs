//! Files of each kind, written here, with the pixels that Pillow 12.2 reads from them.

use super::colours;
use crate::preprocess::Preprocess;
use crate::{Error, ErrorKind};

/// A picture of 2×2 pixels in colours that no format changes.
const FOUR: [[u8; 3]; 4] = [[10, 20, 30], [200, 100, 50], [0, 255, 128], [77, 66, 55]];

fn error(bytes: &[u8]) -> Error {
    let preprocess = Preprocess::new(2).unwrap();
    preprocess.encoded(bytes, &mut vec![0.0; preprocess.len()]).unwrap_err()
}

/// Resized by nearest neighbour: no colour appears that the image does not have.
fn stays(bytes: &[u8], known: &[[u8; 3]]) {
    assert!(colours(7, bytes).iter().all(|colour| known.contains(colour)));
}

/// A BMP file, its rows from the bottom up.
fn bmp(bits: u16, compression: u32, size: (i32, i32), between: &[u8], data: &[u8]) -> Vec<u8> {
    let mut bytes = b"BM\0\0\0\0\0\0\0\0".to_vec();
    bytes.extend((54 + between.len() as u32).to_le_bytes());
    bytes.extend(40u32.to_le_bytes());
    bytes.extend([size.0.to_le_bytes(), size.1.to_le_bytes()].concat());
    bytes.extend([1u16.to_le_bytes(), bits.to_le_bytes()].concat());
    bytes.extend(compression.to_le_bytes());
    bytes.extend([0; 12]);
    let colours = if bits <= 8 { between.len() as u32 / 4 } else { 0 };
    bytes.extend([colours.to_le_bytes(), [0; 4]].concat());
    bytes.extend(between);
    bytes.extend(data);
    bytes
}

/// The colours of [`FOUR`], blue first, as a palette has them.
fn blue_first() -> Vec<u8> {
    FOUR.iter().flat_map(|&[r, g, b]| [b, g, r, 0]).collect()
}

#[test]
fn bmp_in_every_depth() {
    let (bgr, palette) = (blue_first(), blue_first());
    let pixel = |i: usize| &bgr[4 * i..4 * i + 3];
    let rows = [pixel(2), pixel(3), &[0, 0], pixel(0), pixel(1), &[0, 0]].concat();
    assert_eq!(colours(2, &bmp(24, 0, (2, 2), &[], &rows)), FOUR);
    let downwards = [pixel(0), pixel(1), &[0, 0], pixel(2), pixel(3), &[0, 0]].concat();
    assert_eq!(colours(2, &bmp(24, 0, (2, -2), &[], &downwards)), FOUR);
    // The fourth byte is no alpha unless a mask says so.
    let four = |order: [usize; 4]| order.into_iter().flat_map(|i| [pixel(i), &[9]].concat()).collect::<Vec<_>>();
    assert_eq!(colours(2, &bmp(32, 0, (2, 2), &[], &four([2, 3, 0, 1]))), FOUR);
    let masks: Vec<u8> = [0xff0000u32, 0xff00, 0xff].iter().flat_map(|mask| mask.to_le_bytes()).collect();
    assert_eq!(colours(2, &bmp(32, 3, (2, 2), &masks, &four([2, 3, 0, 1]))), FOUR);
    // Five bits per channel: 31 is white, 16 is 131.
    let data = [0x00, 0x7c, 0xe0, 0x03, 0x1f, 0x00, 0x10, 0x42];
    let five = [[0, 0, 255], [131, 131, 131], [255, 0, 0], [0, 255, 0]];
    assert_eq!(colours(2, &bmp(16, 0, (2, 2), &[], &data)), five);

    let eight = bmp(8, 0, (2, 2), &palette, &[2, 3, 0, 0, 0, 1, 0, 0]);
    let four = bmp(4, 0, (2, 2), &palette, &[0x23, 0, 0, 0, 0x01, 0, 0, 0]);
    let runs = bmp(8, 1, (2, 2), &palette, &[1, 2, 1, 3, 0, 0, 1, 0, 1, 1, 0, 1]);
    let mixed = bmp(4, 2, (2, 2), &palette, &[2, 0x23, 0, 0, 2, 0x01, 0, 1]);
    for bytes in [eight, four, runs, mixed] {
        assert_eq!(colours(2, &bytes), FOUR);
        stays(&bytes, &FOUR);
    }
    let black_and_white = bmp(1, 0, (2, 2), &[0, 0, 0, 0, 255, 255, 255, 0], &[0x80, 0, 0, 0, 0x40, 0, 0, 0]);
    assert_eq!(colours(2, &black_and_white), [[0; 3], [255; 3], [255; 3], [0; 3]]);
    stays(&black_and_white, &[[0; 3], [255; 3]]);
    // A palette of greys in order makes it grey, and grey is weighed.
    let grays: Vec<u8> = (0..=255).flat_map(|gray| [gray, gray, gray, 0]).collect();
    assert_eq!(colours(1, &bmp(8, 0, (2, 2), &grays, &[100, 200, 0, 0, 0, 100, 0, 0])), [[100; 3]]);
}

#[test]
fn bmp_that_lies_is_refused() {
    let good = bmp(8, 0, (2, 2), &blue_first(), &[2, 3, 0, 0, 0, 1, 0, 0]);
    for length in 2..good.len() - 2 {
        assert_eq!(error(&good[..length]).kind(), ErrorKind::Format, "{length} bytes");
    }
    assert_eq!(error(&bmp(8, 1, (2, 2), &blue_first(), &[1, 2, 0, 1])).kind(), ErrorKind::Format, "a row is missing");
    assert_eq!(error(&bmp(8, 4, (2, 2), &blue_first(), &[0; 8])).kind(), ErrorKind::Unsupported);
    assert_eq!(error(&bmp(24, 0, (0, 2), &[], &[0; 8])).kind(), ErrorKind::Format);
    assert_eq!(error(&bmp(24, 0, (i32::MAX, i32::MIN), &[], &[0; 8])).kind(), ErrorKind::Unsupported);
}

#[test]
fn pnm_as_text_and_bytes() {
    let text = "P3 # a comment\n2 2 255\n10 20 30 200 100 50\n# another\n0 255 128 77 66 55\n";
    assert_eq!(colours(2, text.as_bytes()), FOUR);
    let bytes = [b"P6\n2 2\n255\n".as_slice(), FOUR.as_flattened()].concat();
    assert_eq!(colours(2, &bytes), FOUR);
    // Values are scaled from the largest one; halves go to the even number, as Python rounds.
    assert_eq!(super::grays(2, b"P2 2 2 10 0 1 5 10"), [0, 26, 128, 255]);
    assert_eq!(super::grays(2, b"P5 2 2 4 \x00\x01\x02\x04"), [0, 64, 128, 255]);
    // Of 16-bit grey the upper eight bits count, colours are rounded.
    assert_eq!(super::grays(2, b"P5 2 2 65535 \x12\xff\xab\x00\x00\x80\xff\xff"), [0x12, 0xab, 0, 0xff]);
    assert_eq!(colours(1, b"P6 1 1 65535 \x12\xff\xab\x00\x00\x81"), [[19, 170, 1]]);
    for bits in [b"P1 2 2 0110".as_slice(), b"P1\n2 2\n0 1 #\n1\n0", b"P4 2 2\n\x40\x80"] {
        assert_eq!(super::grays(2, bits), [255, 0, 0, 255]);
        stays(bits, &[[0; 3], [255; 3]]);
    }
    for bad in [
        "P3 2 2 255 1 2 3",
        "P5 2 2 255 abc",
        "P2 2 2 9 10 1 1 1",
        "P1 2 2 012",
        "P6 2",
        "P5 0 2 255 ",
        "P5 2 2 0 abcd",
    ] {
        assert_eq!(error(bad.as_bytes()).kind(), ErrorKind::Format, "{bad}");
    }
    assert_eq!(error(b"P6 99999 99999 255 ").kind(), ErrorKind::Unsupported);
}

/// A GIF file of a screen and frames of indices.
fn gif(screen: (u16, u16), palette: &[u8], frames: &[gif::Frame<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = gif::Encoder::new(&mut bytes, screen.0, screen.1, palette).unwrap();
    frames.iter().for_each(|frame| encoder.write_frame(frame).unwrap());
    drop(encoder);
    bytes
}

#[test]
fn gif_of_the_first_frame() {
    let palette = FOUR.as_flattened();
    let frame = gif::Frame::from_indexed_pixels(2, 2, [0, 1, 2, 3].as_slice(), None);
    let second = gif::Frame::from_indexed_pixels(2, 2, [3, 3, 3, 3].as_slice(), None);
    for frames in [&[frame.clone()][..], &[frame.clone(), second]] {
        let bytes = gif((2, 2), palette, frames);
        assert_eq!(colours(2, &bytes), FOUR);
        stays(&bytes, &FOUR);
        for length in 0..bytes.len() - 8 {
            assert!(
                Preprocess::new(2).unwrap().encoded(&bytes[..length], &mut [0.0; 12]).is_err() || frames.len() == 2
            );
        }
    }
    // A frame within the screen: the rest has the transparent colour, or the palette's first.
    let small = gif::Frame { width: 1, height: 1, left: 1, top: 0, ..frame.clone() };
    let small = gif::Frame { buffer: [3].as_slice().into(), ..small };
    assert_eq!(colours(2, &gif((2, 2), palette, std::slice::from_ref(&small))), [FOUR[0], FOUR[3], FOUR[0], FOUR[0]]);
    let clear = gif::Frame { transparent: Some(2), ..small.clone() };
    assert_eq!(colours(2, &gif((2, 2), palette, &[clear])), [FOUR[2], FOUR[3], FOUR[2], FOUR[2]]);
    // One beyond it makes the image larger.
    assert_eq!(colours(2, &gif((1, 2), palette, &[small])), [FOUR[0], FOUR[3], FOUR[0], FOUR[0]]);
    // A palette of greys in order makes it grey, and grey is weighed.
    let grays: Vec<u8> = (0..=255).flat_map(|gray| [gray; 3]).collect();
    let gray = gif::Frame::from_indexed_pixels(2, 2, [0, 100, 100, 200].as_slice(), None);
    assert_eq!(super::grays(1, &gif((2, 2), &grays, &[gray])), [100]);
    assert_eq!(error(&gif((2, 2), palette, &[])).kind(), ErrorKind::Format);
    let large = gif::Frame { left: 65535, top: 65535, ..frame };
    assert_eq!(error(&gif((2, 2), palette, &[large])).kind(), ErrorKind::Unsupported);
}

#[test]
fn webp_without_loss_and_with() {
    let mut bytes = Vec::new();
    let encoder = image_webp::WebPEncoder::new(&mut bytes);
    encoder.encode(FOUR.as_flattened(), 2, 2, image_webp::ColorType::Rgb8).unwrap();
    assert_eq!(colours(2, &bytes), FOUR);
    for length in 12..bytes.len() {
        assert_eq!(error(&bytes[..length]).kind(), ErrorKind::Format, "{length} bytes");
    }
    let mut bytes = Vec::new();
    let rgba: Vec<u8> = FOUR.iter().zip([255, 255, 255, 0]).flat_map(|(&[r, g, b], a)| [r, g, b, a]).collect();
    image_webp::WebPEncoder::new(&mut bytes).encode(&rgba, 2, 2, image_webp::ColorType::Rgba8).unwrap();
    assert_eq!(colours(2, &bytes), FOUR);
    // The transparent colour does not count: (10 + 200 + 0) / 3 and so on.
    assert_eq!(colours(1, &bytes), [[70, 124, 69]]);

    // 6 × 6 pixels, red rising by 40 per column and green by 40 per row, blue 128, at quality 80.
    const LOSSY: &[u8] = b"RIFFT\0\0\0WEBPVP8 H\0\0\0\xf0\x01\0\x9d\x01*\x06\0\x06\0\x01@&%\xa8\x02tL\x80\x01\xd56\
        \xa6X\0\xfe\xf9e\xfe\x01\x01\xd4\xd6SYms\xe7\x89\xe7\xdf\xda\xa6\xff.\xcb\x7f\xaf6r\xcc\xbf\xffQ\xfbI\xbf^\
        \xff\xc4\xe3\xf1\xcd\x7f\xaf\xff\xd1\x81|\xa8\x80\0";
    let lossy = colours(6, LOSSY);
    assert_eq!(lossy[..6], [[1, 3, 116], [29, 6, 118], [76, 6, 118], [116, 4, 115], [152, 7, 117], [173, 12, 121]]);
    assert_eq!(crc32fast::hash(lossy.as_flattened()), 0xc16a_5d82);
}

/// A TIFF file: tags, each with its numbers; the data is one strip, or three where the channels are apart (tag 284).
fn tiff(little: bool, tags: &[(u16, &[u16])], data: &[u8]) -> Vec<u8> {
    let u16 = |value: u16| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let u32 = |value: u32| if little { value.to_le_bytes() } else { value.to_be_bytes() };
    let strips = if tags.contains(&(284, &[2])) { 3 } else { 1 };
    let length = data.len() as u32 / strips;
    // For each tag its type, its count and its content; where the strips lie is told at last.
    let mut all: Vec<(u16, u16, u32, Vec<u8>)> = tags
        .iter()
        .map(|&(tag, numbers)| (tag, 3, numbers.len() as u32, numbers.iter().flat_map(|&n| u16(n)).collect()))
        .collect();
    all.push((273, 4, strips, vec![0; 4 * strips as usize]));
    all.push((279, 4, strips, u32(length).repeat(strips as usize)));
    all.sort_by_key(|&(tag, ..)| tag);
    let mut after = (8 + 2 + all.len() * 12 + 4) as u32;
    let beyond = |content: &[u8]| if content.len() > 4 { content.len() as u32 } else { 0 };
    let place = after + all.iter().map(|(.., content)| beyond(content)).sum::<u32>();
    let mut bytes = [if little { b"II*\0" } else { b"MM\0*" }, &u32(8)[..], &u16(all.len() as u16)].concat();
    let mut contents = Vec::new();
    for (tag, kind, count, mut content) in all {
        if tag == 273 {
            content = (0..strips).flat_map(|strip| u32(place + strip * length)).collect();
        }
        bytes.extend([&u16(tag)[..], &u16(kind), &u32(count)].concat());
        if beyond(&content) > 0 {
            bytes.extend(u32(after));
            after += beyond(&content);
            contents.append(&mut content);
        } else {
            content.resize(4, 0);
            bytes.append(&mut content);
        }
    }
    [&bytes, &[0; 4][..], &contents, data].concat()
}

/// The tags of 2×2 pixels: bits, photometric interpretation, samples, and others.
fn two_by_two<'a>(bits: &'a [u16], photometric: &'a [u16], more: &[(u16, &'a [u16])]) -> Vec<(u16, &'a [u16])> {
    let count: &[u16] = [&[0][..], &[1], &[2], &[3], &[4]][bits.len()];
    let mut tags = vec![(256, &[2][..]), (257, &[2]), (258, bits), (259, &[1]), (262, photometric), (277, count)];
    tags.extend(more);
    tags
}

#[test]
fn tiff_in_its_own_mode() {
    let rgb = FOUR.as_flattened();
    let eight = [8u16; 4];
    for little in [true, false] {
        assert_eq!(colours(2, &tiff(little, &two_by_two(&eight[..3], &[2], &[]), rgb)), FOUR);
        let wide: Vec<u8> = rgb.iter().flat_map(|&v| if little { [99, v] } else { [v, 99] }).collect();
        assert_eq!(colours(2, &tiff(little, &two_by_two(&[16; 3], &[2], &[]), &wide)), FOUR);
        // A palette, in 16 bits.
        let map: Vec<u16> =
            (0..3).flat_map(|c| (0..16).map(move |i| FOUR.get(i).map_or(0, |v| u16::from(v[c]) * 257))).collect();
        let palette = tiff(little, &two_by_two(&[4], &[3], &[(320, &map)]), &[0x01, 0x23]);
        assert_eq!(colours(2, &palette), FOUR);
        stays(&palette, &FOUR);
        let bits = tiff(little, &two_by_two(&[1], &[0], &[]), &[0x40, 0x80]);
        assert_eq!(super::grays(2, &bits), [255, 0, 0, 255]);
        stays(&bits, &[[0; 3], [255; 3]]);
        assert_eq!(super::grays(2, &tiff(little, &two_by_two(&[2], &[1], &[]), &[0x10, 0xb0])), [0, 85, 170, 255]);
        // Channels one after another.
        let planes: Vec<u8> = (0..3).flat_map(|c| FOUR.map(|pixel| pixel[c])).collect();
        assert_eq!(colours(2, &tiff(little, &two_by_two(&eight[..3], &[2], &[(284, &[2])]), &planes)), FOUR);
    }
    // Inks are resized as inks, and then made colours.
    let inks = [0, 255, 255, 0, 255, 0, 0, 100, 0, 0, 0, 255, 0, 0, 0, 0];
    let cmyk = tiff(true, &two_by_two(&eight, &[5], &[]), &inks);
    assert_eq!(colours(2, &cmyk), [[255, 0, 0], [0, 155, 155], [0; 3], [255; 3]]);
    assert_eq!(colours(1, &cmyk), [[124; 3]]);
    // Grey with alpha, and colours that alpha has been multiplied with already.
    let gray = tiff(true, &two_by_two(&eight[..2], &[1], &[(338, &[2])]), &[0, 255, 255, 0, 0, 255, 255, 0]);
    assert_eq!(super::grays(1, &gray), [0]);
    let multiplied = tiff(true, &two_by_two(&eight, &[2], &[(338, &[1])]), &[50, 20, 0, 100].repeat(4));
    assert_eq!(colours(2, &multiplied), [[127, 51, 0]; 4]);
    // An extra sample that says nothing of itself is left out.
    let extra = tiff(true, &two_by_two(&eight, &[2], &[(338, &[0])]), &[50, 20, 0, 0].repeat(4));
    assert_eq!(colours(1, &extra), [[50, 20, 0]]);
}

#[test]
fn tiff_is_turned_as_it_says() {
    let [a, b, c, d] = FOUR;
    let turned = [
        [a, b, c, d],
        [b, a, d, c],
        [d, c, b, a],
        [c, d, a, b],
        [a, c, b, d],
        [c, a, d, b],
        [d, b, c, a],
        [b, d, a, c],
    ];
    for (orientation, expected) in (1u16..).zip(turned) {
        let bytes = tiff(true, &two_by_two(&[8; 3], &[2], &[(274, &[orientation])]), FOUR.as_flattened());
        assert_eq!(colours(2, &bytes), expected, "{orientation}");
    }
}

#[test]
fn tiff_that_lies_is_refused() {
    let tags = two_by_two(&[8; 3], &[2], &[]);
    let good = tiff(true, &tags, FOUR.as_flattened());
    for length in 4..good.len() {
        assert!(Preprocess::new(2).unwrap().encoded(&good[..length], &mut [0.0; 12]).is_err(), "{length} bytes");
    }
    let mut large = tags.clone();
    (large[0].1, large[1].1) = (&[65535], &[65535]);
    assert!(error(&tiff(true, &large, &[0; 12])).to_string().contains("65535 × 65535"));
    assert_eq!(error(&tiff(true, &two_by_two(&[8; 3], &[2], &[(266, &[2])]), &[0; 12])).kind(), ErrorKind::Unsupported);
    assert_eq!(error(&tiff(true, &two_by_two(&[8; 3], &[8], &[]), &[0; 12])).kind(), ErrorKind::Unsupported);
    assert!(error(&tiff(true, &two_by_two(&[8; 3], &[2], &[(50706, &[1])]), &[0; 12])).to_string().contains("DNG"));
    assert!(error(&tiff(true, &two_by_two(&[8; 3], &[2], &[(254, &[1])]), &[0; 12])).to_string().contains("raw file"));
}

/// The size is all that is read of an image that has too many pixels.
#[test]
fn every_format_heeds_the_limit() {
    let mut webp = Vec::new();
    let encoder = image_webp::WebPEncoder::new(&mut webp);
    encoder.encode(FOUR.as_flattened(), 2, 2, image_webp::ColorType::Rgb8).unwrap();
    let frame = gif::Frame::from_indexed_pixels(2, 2, [0, 1, 2, 3].as_slice(), None);
    let preprocess = Preprocess::new(2).unwrap().with_max_pixels(3);
    for bytes in [
        webp,
        gif((2, 2), FOUR.as_flattened(), &[frame]),
        bmp(24, 0, (2, 2), &[], &[0; 16]),
        tiff(true, &two_by_two(&[8; 3], &[2], &[]), FOUR.as_flattened()),
        b"P6 2 2 255 ".to_vec(),
        b"P4 2 2 ".to_vec(),
    ] {
        let error = preprocess.encoded(&bytes, &mut [0.0; 12]).unwrap_err().to_string();
        assert!(error.contains("at most 3 pixels, got 2 × 2"), "{error}");
    }
}

/// A header of few bytes promises an image that no data of the file can fill: it is refused before memory is taken.
#[test]
fn a_header_alone_takes_no_memory() {
    const SIDE: u16 = 9000;
    let side = SIDE.to_be_bytes();
    let (low, high) = (SIDE as u8, (SIDE >> 8) as u8);
    let frame = |marker| {
        let sizes = [8, side[0], side[1], side[0], side[1], 1, 1, 0x11, 0];
        [&[0xff, 0xd8, 0xff, marker, 0, 11][..], &sizes, &[0xff, 0xd9]].concat()
    };
    let mut gif = b"GIF89a".to_vec();
    gif.extend([low, high, low, high, 0x80, 0, 0, 0, 0, 0, 255, 255, 255]);
    gif.extend([0x2c, 0, 0, 0, 0, low, high, low, high, 0, 2, 2, 0x4c, 1, 0, 0x3b]);
    let mut png = super::png(1, 1, png::ColorType::Rgb, png::BitDepth::Eight, &[0; 3], &[]);
    png[16..24].copy_from_slice(&[0, 0, side[0], side[1], 0, 0, side[0], side[1]]);
    let checksum = super::crc32(&png[12..29]).to_be_bytes();
    png[29..33].copy_from_slice(&checksum);
    let mut sides = two_by_two(&[8; 3], &[2], &[]);
    (sides[0].1, sides[1].1) = (&[SIDE], &[SIDE]);
    let packed = |compression: &'static [u16]| {
        let mut tags = sides.clone();
        for tag in &mut tags {
            if tag.0 == 259 {
                tag.1 = compression;
            }
        }
        tags
    };
    let size = (i32::from(SIDE), i32::from(SIDE));
    for (what, bytes) in [
        ("PNG", png),
        ("JPEG", frame(0xc0)),
        ("progressive JPEG", frame(0xc2)),
        ("GIF", gif),
        ("BMP", bmp(24, 0, size, &[], &[0; 16])),
        ("BMP with a palette", bmp(8, 0, size, &[0; 1024], &[0; 16])),
        ("BMP in runs", bmp(8, 1, size, &[0; 1024], &[0; 16])),
        ("PPM", b"P6 9000 9000 255 abc".to_vec()),
        ("PPM as text", b"P3 9000 9000 255 1 2 3".to_vec()),
        ("PGM in 16 bits", b"P5 9000 9000 65535 abc".to_vec()),
        ("PBM", b"P4 9000 9000 abc".to_vec()),
        ("PBM as text", b"P1 9000 9000 101".to_vec()),
        ("TIFF", tiff(true, &packed(&[1]), &[0; 12])),
        ("TIFF, deflated", tiff(true, &packed(&[8]), &[0; 12])),
        ("TIFF by LZW", tiff(true, &packed(&[5]), &[0; 12])),
        ("TIFF by PackBits", tiff(true, &packed(&[32773]), &[0; 12])),
    ] {
        let error = error(&bytes);
        assert!(error.kind() == ErrorKind::Format && error.to_string().contains("truncated"), "{what}: {error}");
    }
}

/// Each is told by what it holds; its name does not count.
#[test]
fn what_is_not_read_is_named() {
    for (bytes, says) in [
        (b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf".as_slice(), "an AVIF image"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif", "an AVIF image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC image"),
        (b"\0\0\0\x18ftypisom\0\0\0\0isommp42", "an MP4 or QuickTime video"),
        (b"\xff\x0a\xfa\x1f", "a JPEG XL image"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image"),
        (b"<?xml version=\"1.0\"?>\n<svg xmlns=\"http://www.w3.org/2000/svg\"/>", "an SVG drawing"),
        (b"\xef\xbb\xbf  <SVG width=\"1\">", "an SVG drawing"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"II*\0\x10\0\0\0CR\x02\0", "a camera's raw image"),
        (b"RIFF\0\0\0\0AVI LIST", "an AVI video"),
        (b"\x1aE\xdf\xa3\x01", "a Matroska or WebM video"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "a Git LFS pointer"),
        (b"\0\x05\x16\x07\0\x02\0\0Mac OS X", "`._"),
        (b"8BPS\0\x01", "a Photoshop image"),
        (b"P7\nWIDTH 1\n", "a PAM image"),
        (b"PK\x03\x04", "a ZIP archive"),
        (&[0; 40], "nothing but zero bytes"),
        (b"just words\n", "a text"),
        (b"\xff\xd8", "cut off"),
        (b"\x01\x02\x03\x04\x05", "5 bytes that start with [01, 02, 03, 04]"),
    ] {
        let error = error(bytes);
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        let message = error.to_string();
        assert!(message.contains(says) && message.contains("PNG, JPEG, WebP"), "{message}");
    }
    let empty = error(b"");
    assert_eq!((empty.kind(), empty.to_string().contains("empty")), (ErrorKind::Format, true), "{empty}");
}
