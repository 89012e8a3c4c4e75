//! Fine-tuned checkpoints of the small family, and what is made of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

pub use super::family::small;
use taskbasis::build::Family;
use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value as Pickled};
use taskbasis::{Checkpoint, DType, Method, Scope};

/// A base and five fine-tuned checkpoints in one folder, `base.pt`, `T0.pt`, …: random walks from the base that have a
/// part in common, with the text tower's tensors left as they are.
pub fn write_family(folder: &Path) -> Vec<PathBuf> {
    let parameters = small(Method::Autoencoder, 5).parameters();
    let noise = |task: usize, p: usize, i: usize| {
        let mut z = ((task as u64) << 40 | (p as u64) << 20 | i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z >> 40) as f32 / (1 << 23) as f32) - 1.0
    };
    (0..=5)
        .map(|file| {
            let name = if file == 0 { "base".to_owned() } else { format!("T{}", file - 1) };
            let mut writer = TorchWriter::new(name.clone());
            let entries = parameters
                .iter()
                .map(|(name, shape)| (format!("model.{name}"), writer.tensor(DType::F32, shape).unwrap()));
            let value = Pickled::dict(entries.collect::<Vec<_>>());
            let path = folder.join(format!("{name}.pt"));
            let fill = |StorageId(p): StorageId, out: &mut dyn std::io::Write| {
                let (name, shape) = &parameters[p];
                (0..shape.iter().product()).try_for_each(|i| {
                    let base = 0.05 * noise(99, p, i);
                    let step = 1e-3 * (noise(file, p, i) + 0.5 * noise(77, p, i));
                    let value = if file > 0 && name.starts_with("visual.") { base + step } else { base };
                    out.write_all(&value.to_le_bytes())
                })
            };
            writer.write_file(&path, &value, fill).unwrap();
            path
        })
        .collect()
}

/// The family of those files.
pub fn open(files: &[PathBuf]) -> Family {
    let tuned = files[1..].iter().enumerate();
    let tasks = tuned.map(|(t, path)| (format!("T{t}"), Checkpoint::open(path).unwrap())).collect();
    Family::new(Checkpoint::open(&files[0]).unwrap(), tasks, Scope::All).unwrap()
}

/// Everything in a folder, by name.
pub fn content(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    entries.map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap())).collect()
}
