//! Data sets as they are distributed, tiny, by writers of our own.

use std::fs;
use std::path::Path;

/// Writes a file and the folders that lead to it.
pub fn write(path: impl AsRef<Path>, bytes: impl AsRef<[u8]>) {
    let path = path.as_ref();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// A grey PNG of `width` × `height` pixels.
pub fn png(path: impl AsRef<Path>, width: u32, height: u32, pixels: &[u8]) {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Grayscale);
    encoder.write_header().unwrap().write_image_data(pixels).unwrap();
    write(path, bytes);
}

/// An image of one grey, for tests that look at labels.
pub fn grey(path: impl AsRef<Path>, value: u8) {
    png(path, 2, 2, &[value; 4]);
}

/// An IDX file of bytes.
pub fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
    let mut file = vec![0, 0, 8, sizes.len() as u8];
    sizes.iter().for_each(|size| file.extend(size.to_be_bytes()));
    file.extend(bytes);
    file
}

/// Compressed by gzip.
pub fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zlib(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// MATLAB's version 5.
pub struct Mat {
    pub big_endian: bool,
    pub compressed: bool,
}

impl Mat {
    pub fn file(&self, matrices: &[Vec<u8>]) -> Vec<u8> {
        let mut file = format!("{:<124}", "MATLAB 5.0 MAT-file").into_bytes();
        file.extend(if self.big_endian { [1, 0, b'M', b'I'] } else { [0, 1, b'I', b'M'] });
        for matrix in matrices {
            let element = self.element(14, matrix);
            match self.compressed {
                true => {
                    let packed = zlib(&element);
                    file.extend([self.u32(15), self.u32(packed.len() as u32)].concat());
                    file.extend(packed);
                }
                false => file.extend(element),
            }
        }
        file
    }

    /// A matrix of MATLAB's class `class` whose values are stored as type `kind`.
    pub fn matrix(&self, name: &str, class: u32, shape: &[u32], kind: u32, values: &[u8]) -> Vec<u8> {
        let shape: Vec<u8> = shape.iter().flat_map(|&size| self.u32(size)).collect();
        let flags = [self.u32(class), self.u32(0)].concat();
        let parts = [
            self.element(6, &flags),
            self.element(5, &shape),
            self.short(1, name.as_bytes()),
            self.element(kind, values),
        ];
        parts.concat()
    }

    fn u32(&self, value: u32) -> [u8; 4] {
        if self.big_endian { value.to_be_bytes() } else { value.to_le_bytes() }
    }

    fn element(&self, kind: u32, bytes: &[u8]) -> Vec<u8> {
        let mut element = [self.u32(kind), self.u32(bytes.len() as u32)].concat();
        element.extend(bytes);
        element.resize(element.len().next_multiple_of(8), 0);
        element
    }

    /// An element of at most four bytes, in eight.
    fn short(&self, kind: u32, bytes: &[u8]) -> Vec<u8> {
        let mut element = self.u32((bytes.len() as u32) << 16 | kind).to_vec();
        element.extend(bytes);
        element.resize(8, 0);
        element
    }
}

/// The way a pickle holds the bytes of an array.
#[derive(Clone, Copy, Debug)]
pub enum Pickled {
    /// Python 2's strings.
    Python2,
    /// Python 3 with protocol 2: Latin-1 text that would be encoded.
    Encoded,
    /// Python 3 with protocol 4.
    Bytes,
}

/// A pickled dict of an array `data`, u8 [n, 3072], and lists.
pub fn cifar_pickle(how: Pickled, labels_key: &str, labels: &[u8], data: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80, if matches!(how, Pickled::Bytes) { 4 } else { 2 }, b'}', b'('];
    text(&mut out, how, labels_key);
    out.extend(b"](");
    labels.iter().for_each(|label| out.extend([b'K', *label]));
    out.push(b'e');
    text(&mut out, how, "data");
    // _reconstruct(ndarray, (0,), b"b"), then its state.
    out.extend(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85");
    bytes(&mut out, how, b"b");
    out.extend(b"tR(K\x01M");
    out.extend((labels.len() as u16).to_le_bytes());
    out.extend(b"M\0\x0c\x86cnumpy\ndtype\n(");
    text(&mut out, how, "u1");
    out.extend(b"K\0K\x01tR(K\x03");
    text(&mut out, how, "|");
    out.extend(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89");
    bytes(&mut out, how, data);
    out.extend(b"tbu.");
    out
}

/// A pickled dict of one list of names.
pub fn names_pickle(how: Pickled, key: &str, names: &[&str]) -> Vec<u8> {
    let mut out = vec![0x80, 2, b'}', b'('];
    text(&mut out, how, key);
    out.extend(b"](");
    names.iter().for_each(|name| text(&mut out, how, name));
    out.extend(b"eu.");
    out
}

fn text(out: &mut Vec<u8>, how: Pickled, text: &str) {
    match how {
        Pickled::Python2 => out.extend([b'U', text.len() as u8]),
        _ => out.extend([&b"X"[..], &(text.len() as u32).to_le_bytes()].concat()),
    }
    out.extend(text.as_bytes());
}

fn bytes(out: &mut Vec<u8>, how: Pickled, bytes: &[u8]) {
    match how {
        Pickled::Python2 => out.extend([&b"T"[..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()),
        Pickled::Bytes => out.extend([&b"B"[..], &(bytes.len() as u32).to_le_bytes(), bytes].concat()),
        Pickled::Encoded => {
            let latin: String = bytes.iter().map(|&b| char::from(b)).collect();
            out.extend(b"c_codecs\nencode\n(");
            text(out, how, &latin);
            text(out, how, "latin1");
            out.extend(b"tR");
        }
    }
}
