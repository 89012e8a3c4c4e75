//! The identity of a base, whatever file it came in: a hash of its image tower's names, shapes and values.

use std::fmt;
use std::str::FromStr;

use twox_hash::XxHash3_128;

use crate::checkpoint::{Checkpoint, is_image_tower};
use crate::error::{Error, Result};
use crate::kernel::share;
use crate::tensor::{Tensor, f32_bytes, try_zeroed};

/// XXH3 with 128 bits over one line of text per tensor of the image tower (of all floats, where no tower is known), in
/// the order of the canonical names:
///
/// ```text
/// visual.proj [64, 64] 0f1e2d3c4b5a69788796a5b4c3d2e1f0
/// ```
///
/// and a newline after each; the last word is XXH3 with 128 bits over the tensor's values as little-endian f32 in
/// row-major order. It tells bases apart, and is no protection against bases that were made to look alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(u128);

impl Fingerprint {
    /// The fingerprint of `base`; every value is read. Threads: 0 means one per processor.
    ///
    /// # Errors
    /// [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) where there is no tensor of floats.
    pub fn of(base: &Checkpoint, threads: usize) -> Result<Self> {
        let has_tower = base.image_tower().next().is_some();
        base.check_read(|name| !has_tower || is_image_tower(name))?;
        let mut tower: Vec<(&str, &Tensor, u128)> = base
            .encoder()
            .filter(|(_, tensor)| tensor.dtype().is_float())
            .map(|(name, tensor)| (name, tensor, 0))
            .collect();
        if tower.is_empty() {
            return Err(Error::mismatch("holds no weights").at(base.path()));
        }
        tower.sort_by_key(|(name, _, _)| *name);
        share(threads, tower.iter_mut().collect(), |(name, tensor, hash), (): &mut ()| {
            *hash = hash_of(tensor).map_err(|e| e.at(base.path()).tensor(*name))?;
            Ok(())
        })?;
        let mut all = XxHash3_128::new();
        for (name, tensor, hash) in &tower {
            all.write(format!("{name} {:?} {hash:032x}\n", tensor.shape()).as_bytes());
        }
        Ok(Self(all.finish_128()))
    }
}

fn hash_of(tensor: &Tensor) -> Result<u128> {
    if let Some(values) = tensor.as_f32() {
        return Ok(XxHash3_128::oneshot(f32_bytes(values)));
    }
    let mut hasher = XxHash3_128::new();
    let mut buffer = try_zeroed::<f32>(16 << 10)?;
    for at in (0..tensor.numel()).step_by(buffer.len()) {
        let length = buffer.len().min(tensor.numel() - at);
        let part = &mut buffer[..length];
        tensor.read_f32(at, part)?;
        hasher.write(f32_bytes(part));
    }
    Ok(hasher.finish_128())
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_hex = text.len() == 32 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match u128::from_str_radix(text, 16) {
            Ok(value) if is_hex => Ok(Self(value)),
            _ => Err(Error::format("not a fingerprint")
                .expected("32 hexadecimal digits in lower case")
                .got(format_args!("`{text}`"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkpoint::Format;

    fn base(tensors: &[(&str, &[f32], &[usize])]) -> Checkpoint {
        let tensors = tensors
            .iter()
            .map(|(name, values, shape)| ((*name).to_owned(), Tensor::from_f32(values, shape, "test").unwrap()))
            .collect();
        Checkpoint::from_tensors("test", Format::Safetensors, tensors).unwrap()
    }

    fn of(tensors: &[(&str, &[f32], &[usize])]) -> String {
        Fingerprint::of(&base(tensors), 1).unwrap().to_string()
    }

    #[test]
    fn the_content_counts_and_nothing_else() {
        let (proj, class): ((&str, &[f32], &[usize]), _) =
            (("visual.proj", &[1., 2.], &[1, 2]), ("visual.class_embedding", &[3.][..], &[1][..]));
        let expected = of(&[proj, class]);
        assert_eq!(expected, of(&[class, proj]), "the order of the file does not count");
        assert_eq!(expected, of(&[class, ("logit_scale", &[9.], &[]), proj]), "nor does the text tower");
        assert_eq!(
            expected,
            of(&[("model.visual.proj", proj.1, proj.2), ("model.visual.class_embedding", class.1, class.2)])
        );
        assert_ne!(expected, of(&[("visual.proj", proj.1, &[2, 1]), class]));
        assert_ne!(expected, of(&[("visual.proj", &[1., 2.000_000_2], proj.2), class]));
        assert_eq!(expected.parse::<Fingerprint>().unwrap().to_string(), expected);
        for wrong in ["", "+123", &expected[1..], &expected.replace(|_| true, "G")] {
            assert!(wrong.parse::<Fingerprint>().is_err());
        }
        assert!(Fingerprint::of(&base(&[]), 1).is_err());
        // Without a tower that is known, all that there is.
        let other = [("stem.weight", &[1.][..], &[1][..]), ("fc.weight", &[2.], &[1])];
        assert_ne!(of(&other), of(&other[..1]));
    }
}
