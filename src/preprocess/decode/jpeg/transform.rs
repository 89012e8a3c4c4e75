//! The inverse cosine transform, in the integers that libjpeg calls slow: Loeffler, Ligtenberg and Moschytz's, with
//! 13 fractional bits of the constants and 2 between the two passes.

/// Fractional bits of the constants.
const CONSTANT: u32 = 13;
/// Fractional bits between the passes.
const BETWEEN: u32 = 2;

/// The place of each frequency's coefficient in its block, row after row.
pub(super) const NATURAL: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21,
    28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54,
    47, 55, 62, 63,
];

/// Transforms a block whose coefficients lie row after row, their divisors in the order of frequency, to eight rows of
/// eight samples, `stride` apart.
pub(super) fn inverse(block: &[i16; 64], divisors: &[u16; 64], samples: &mut [u8], stride: usize) {
    let mut between = [0i64; 64];
    for (&place, &divisor) in NATURAL.iter().zip(divisors) {
        let place = usize::from(place);
        between[place] = word(i64::from(block[place]) * i64::from(divisor));
    }
    for x in 0..8 {
        let column = std::array::from_fn(|y| between[y * 8 + x]);
        for (y, value) in transformed(column).into_iter().enumerate() {
            between[y * 8 + x] = rounded(value, CONSTANT - BETWEEN).clamp(i16::MIN.into(), i16::MAX.into());
        }
    }
    for (row, out) in between.as_chunks::<8>().0.iter().zip(samples.chunks_mut(stride)) {
        for (out, value) in out.iter_mut().zip(transformed(*row)) {
            *out = (rounded(value, CONSTANT + BETWEEN + 3) + 128).clamp(0, 255) as u8;
        }
    }
}

/// The lower 16 bits: in damaged files, values leave the 16 bits that libjpeg-turbo's vector registers have for them.
fn word(value: i64) -> i64 {
    (value as i16).into()
}

fn rounded(value: i64, bits: u32) -> i64 {
    (value + (1 << (bits - 1))) >> bits
}

/// Eight values transformed, with [`CONSTANT`] more fractional bits.
fn transformed(v: [i64; 8]) -> [i64; 8] {
    // A row or a column is often constant.
    if v[1..].iter().fold(0, |any, value| any | value) == 0 {
        return [v[0] << CONSTANT; 8];
    }
    let turned = (v[2] + v[6]) * 4433;
    let (low, high) = (turned - v[6] * 15137, turned + v[2] * 6270);
    let (sum, difference) = (word(v[0] + v[4]) << CONSTANT, word(v[0] - v[4]) << CONSTANT);
    let even = [sum + high, difference + low, difference - low, sum - high];

    let (z1, z2, z3, z4) = (v[7] + v[1], v[5] + v[3], word(v[7] + v[3]), word(v[5] + v[1]));
    let z5 = (z3 + z4) * 9633;
    let (z1, z2, z3, z4) = (z1 * -7373, z2 * -20995, z3 * -16069 + z5, z4 * -3196 + z5);
    let odd = [v[1] * 12299 + z1 + z4, v[3] * 25172 + z2 + z3, v[5] * 16819 + z2 + z4, v[7] * 2446 + z1 + z3];
    std::array::from_fn(|i| if i < 4 { even[i] + odd[i] } else { even[7 - i] - odd[7 - i] })
}
