//! JPEG files of random coefficients, of every kind that is read: for tests of what becomes of them.

/// What a file is to be.
#[derive(Clone, Debug)]
pub(super) struct Kind {
    pub(super) width: usize,
    pub(super) height: usize,
    pub(super) factors: Vec<(usize, usize)>,
    pub(super) ids: Vec<u8>,
    pub(super) scans: Scans,
    pub(super) restart: usize,
    pub(super) jfif: bool,
    pub(super) adobe: Option<u8>,
    /// Bytes between the tables and the frame.
    pub(super) junk: Vec<u8>,
    /// Left out, as Motion JPEG does; the standard's are used.
    pub(super) huffman_tables: bool,
}

/// How the coefficients are spread over scans.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scans {
    /// Sequential: the channels of each scan.
    Sequential(Vec<Vec<usize>>),
    /// Progressive: DC of all channels, then each one's AC in two bands, each with this many bits left for later.
    Progressive(u32),
}

impl Kind {
    /// A sequential file of one scan.
    pub(super) fn new(width: usize, height: usize, factors: &[(usize, usize)]) -> Self {
        Self {
            width,
            height,
            factors: factors.to_vec(),
            ids: (1..).take(factors.len()).collect(),
            scans: Scans::Sequential(vec![(0..factors.len()).collect()]),
            restart: 0,
            jfif: factors.len() == 3,
            adobe: None,
            junk: Vec::new(),
            huffman_tables: true,
        }
    }

    pub(super) fn write(&self) -> Vec<u8> {
        Writer::new(self).write()
    }
}

/// Numbers without a pattern, the same ones every time.
struct Noise(u32);

impl Noise {
    /// From −`most` to `most`.
    fn next(&mut self, most: i32) -> i32 {
        self.0 = self.0.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (self.0 >> 8) as i32 % (2 * most + 1) - most
    }
}

/// Codes of eight and nine bits: every symbol but 255 has one, in the order of the symbols.
fn code(symbol: u8) -> (u32, u32) {
    if symbol < 128 { (symbol.into(), 8) } else { (2 * 128 + u32::from(symbol) - 128, 9) }
}

/// For files without tables: the standard's codes for the few symbols that are needed.
fn standard_code(symbol: u8, dc: bool) -> (u32, u32) {
    match (dc, symbol) {
        (true, 0) => (0b00, 2),
        (true, 1..=5) => (0b010 + u32::from(symbol) - 1, 3),
        (true, _) => ((1 << (symbol - 2)) - 2, (symbol - 2).into()),
        (false, 0) => (0b1010, 4),
        (false, 1) => (0b00, 2),
        (false, 2) => (0b01, 2),
        (false, 3) => (0b100, 3),
        _ => panic!("not among the few"),
    }
}

struct Writer<'a> {
    kind: &'a Kind,
    most: (usize, usize),
    /// For each channel, its blocks of coefficients in the order of frequency, and how many blocks a row has.
    blocks: Vec<(Vec<[i32; 64]>, usize)>,
    out: Vec<u8>,
    bits: u64,
    count: u32,
    last: Vec<i32>,
    /// Blocks without further coefficients, and the bits that follow their number.
    empty: u32,
    later: Vec<u32>,
}

impl<'a> Writer<'a> {
    fn new(kind: &'a Kind) -> Self {
        let most = kind.factors.iter().fold((1, 1), |most, f| (most.0.max(f.0), most.1.max(f.1)));
        let mut noise = Noise(7);
        let blocks = kind.factors.iter().map(|&(h, v)| {
            let across = kind.width.div_ceil(8 * most.0) * h;
            let count = across * kind.height.div_ceil(8 * most.1) * v;
            let mut block = || {
                std::array::from_fn(|k| match k {
                    0 => noise.next(50),
                    1 => noise.next(3),
                    _ if !kind.huffman_tables => 0,
                    2..6 => noise.next(3),
                    _ if noise.next(9) > 7 => noise.next(2),
                    _ => 0,
                })
            };
            ((0..count).map(|_| block()).collect(), across)
        });
        let blocks = blocks.collect();
        Self { kind, most, blocks, out: vec![], bits: 0, count: 0, last: vec![], empty: 0, later: vec![] }
    }

    fn segment(&mut self, marker: u8, payload: &[u8]) {
        self.out.extend([0xff, marker]);
        self.out.extend((payload.len() as u16 + 2).to_be_bytes());
        self.out.extend(payload);
    }

    fn write(mut self) -> Vec<u8> {
        let kind = self.kind;
        self.out.extend([0xff, 0xd8]);
        if kind.jfif {
            self.segment(0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
        }
        if let Some(transform) = kind.adobe {
            self.segment(0xee, &[b"Adobe\0\x64\0\0\0\0".as_slice(), &[transform]].concat());
        }
        let table: Vec<u8> = (0..64).map(|k| 5 + k / 4).collect();
        self.segment(0xdb, &[&[0], &*table].concat());
        self.out.extend(&kind.junk);
        let mut frame = vec![8];
        frame.extend((kind.height as u16).to_be_bytes());
        frame.extend((kind.width as u16).to_be_bytes());
        frame.push(kind.factors.len() as u8);
        for (&id, &(h, v)) in kind.ids.iter().zip(&kind.factors) {
            frame.extend([id, (h << 4 | v) as u8, 0]);
        }
        let sequential = matches!(kind.scans, Scans::Sequential(_));
        self.segment(if sequential { 0xc0 } else { 0xc2 }, &frame);
        if kind.huffman_tables {
            let mut counts = [0; 16];
            (counts[7], counts[8]) = (128, 127);
            let symbols: Vec<u8> = (0..255).collect();
            self.segment(0xc4, &[&[0x10], &counts[..], &symbols].concat());
            counts = [0; 16];
            counts[7] = 16;
            self.segment(0xc4, &[&[0], &counts[..], &symbols[..16]].concat());
        }
        if kind.restart > 0 {
            self.segment(0xdd, &(kind.restart as u16).to_be_bytes());
        }
        let all: Vec<usize> = (0..kind.factors.len()).collect();
        match &kind.scans {
            Scans::Sequential(scans) => scans.iter().for_each(|scan| self.scan(scan, (0, 63), (0, 0))),
            &Scans::Progressive(low) => {
                self.scan(&all, (0, 0), (0, low));
                for channel in all.iter().copied() {
                    for band in [(1, 5), (6, 63)] {
                        self.scan(&[channel], band, (0, low));
                        (0..low).rev().for_each(|bit| self.scan(&[channel], band, (bit + 1, bit)));
                    }
                }
                (0..low).rev().for_each(|bit| self.scan(&all, (0, 0), (bit + 1, bit)));
            }
        }
        self.out.extend([0xff, 0xd9]);
        self.out
    }

    fn put(&mut self, (value, count): (u32, u32)) {
        self.bits = self.bits << count | u64::from(value);
        self.count += count;
        while self.count >= 8 {
            self.count -= 8;
            let byte = (self.bits >> self.count) as u8;
            self.out.push(byte);
            if byte == 0xff {
                self.out.push(0);
            }
        }
    }

    /// A symbol of `run` zeros and the length of `value`, and its bits.
    fn put_value(&mut self, run: u8, value: i32, dc: bool) {
        let length = 32 - value.unsigned_abs().leading_zeros();
        let symbol = run << 4 | length as u8;
        self.put(if self.kind.huffman_tables { code(symbol) } else { standard_code(symbol, dc) });
        let bits = if value < 0 { value - 1 } else { value };
        self.put((bits as u32 & ((1 << length) - 1), length));
    }

    fn put_empty(&mut self) {
        if self.empty > 0 {
            let length = 31 - self.empty.leading_zeros();
            self.put(if self.kind.huffman_tables { code((length as u8) << 4) } else { standard_code(0, false) });
            self.put((self.empty - (1 << length), length));
            self.empty = 0;
            for bit in std::mem::take(&mut self.later) {
                self.put((bit, 1));
            }
        }
    }

    /// Fills up the last byte with ones.
    fn end_data(&mut self) {
        self.put_empty();
        let missing = (8 - self.count % 8) % 8;
        self.put(((1 << missing) - 1, missing));
        (self.bits, self.count) = (0, 0);
    }

    fn scan(&mut self, channels: &[usize], band: (usize, usize), bits: (u32, u32)) {
        let kind = self.kind;
        let mut header = vec![channels.len() as u8];
        channels.iter().for_each(|&channel| header.extend([kind.ids[channel], 0]));
        header.extend([band.0 as u8, band.1 as u8, (bits.0 << 4 | bits.1) as u8]);
        self.segment(0xda, &header);
        let (across, down) = match *channels {
            [channel] => {
                let (h, v) = kind.factors[channel];
                ((kind.width * h).div_ceil(8 * self.most.0), (kind.height * v).div_ceil(8 * self.most.1))
            }
            _ => (kind.width.div_ceil(8 * self.most.0), kind.height.div_ceil(8 * self.most.1)),
        };
        self.last = vec![0; kind.factors.len()];
        for unit in 0..across * down {
            if kind.restart > 0 && unit > 0 && unit % kind.restart == 0 {
                self.end_data();
                self.out.extend([0xff, 0xd0 + (unit / kind.restart - 1) as u8 % 8]);
                self.last.fill(0);
            }
            for &channel in channels {
                let (h, v) = if channels.len() == 1 { (1, 1) } else { kind.factors[channel] };
                for at in 0..h * v {
                    let (x, y) = (unit % across * h + at % h, unit / across * v + at / h);
                    let block = self.blocks[channel].0[y * self.blocks[channel].1 + x];
                    self.block(channel, &block, band, bits);
                }
            }
        }
        self.end_data();
    }

    fn block(&mut self, channel: usize, block: &[i32; 64], (first, last): (usize, usize), (high, low): (u32, u32)) {
        if first == 0 {
            if high > 0 {
                return self.put(((block[0] >> low) as u32 & 1, 1));
            }
            let value = block[0] >> low;
            self.put_value(0, value - self.last[channel], true);
            self.last[channel] = value;
            if last == 0 {
                return;
            }
        }
        let known = |k: usize| block[k] / (1 << low);
        // A value of one is new in this scan; a greater one is known, and only gets a bit.
        let new = |k: usize| known(k) != 0 && (high == 0 || known(k).abs() == 1);
        let end = (first.max(1)..=last).rev().find(|&k| new(k)).map_or(0, |k| k + 1);
        let mut run = 0;
        let mut bits = Vec::new();
        for k in first.max(1)..=last {
            if known(k) != 0 && !new(k) {
                bits.push(known(k).unsigned_abs() & 1);
            } else if known(k) == 0 {
                run += 1;
                if run == 16 && k < end {
                    self.put_empty();
                    self.put(code(0xf0));
                    std::mem::take(&mut bits).into_iter().for_each(|bit| self.put((bit, 1)));
                    run = 0;
                }
            } else {
                self.put_empty();
                self.put_value(run, known(k), false);
                std::mem::take(&mut bits).into_iter().for_each(|bit| self.put((bit, 1)));
                run = 0;
            }
        }
        if run > 0 || !bits.is_empty() {
            self.empty += 1;
            self.later.append(&mut bits);
            // A sequential block says so for itself.
            if (first, last) == (0, 63) {
                self.put_empty();
            }
        }
    }
}
