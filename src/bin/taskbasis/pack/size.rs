//! A number of bytes as people write it.

use taskbasis::{Error, Result};

/// Units with their bytes.
const UNITS: [(&str, u64); 8] = [
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("B", 1),
    ("", 1),
];

/// `300MB`, `1.5 GiB`, `4096`.
pub fn size(text: &str) -> Result<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (text[..end].parse::<f64>(), text[end..].trim_start());
    let unit = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
    match (number, unit) {
        (Ok(number), Some((_, bytes))) if number.is_finite() => Ok((number * *bytes as f64) as u64),
        _ => Err(Error::invalid("not a size")
            .expected("a number of B, kB, MB, GB, KiB, MiB or GiB, as in 300MB")
            .got(format_args!("`{text}`"))),
    }
}

#[cfg(test)]
mod tests {
    use super::size;

    #[test]
    fn sizes_are_read_with_their_units() {
        for (text, bytes) in [("300MB", 300_000_000), ("1.5 GiB", 3 << 29), ("64mib", 64 << 20), ("4096", 4096)] {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        for wrong in ["", "MB", "3 parsec", "-1MB", "1e3", "1.2.3"] {
            assert!(size(wrong).is_err(), "{wrong}");
        }
    }
}
