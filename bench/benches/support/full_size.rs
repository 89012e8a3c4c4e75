//! A family at full size for the benches that are programs: `[-- MODEL T M FOLDER FORMATS]`.

use std::path::{Path, PathBuf};

use super::synthetic::Synthetic;
use taskbasis::{ArchHints, BaseFormat, Basis, Checkpoint, Packer, Result, VectorFormat};

/// A family of full size, as the arguments ask for it.
pub struct FullSize {
    pub model: String,
    pub tasks: usize,
    pub vectors: usize,
    pub formats: Vec<String>,
    folder: PathBuf,
    _temporary: Option<tempfile::TempDir>,
}

impl FullSize {
    /// Reads the arguments: ViT-B-32 unless they say otherwise, with this many tasks and vectors, these formats, and a
    /// temporary folder. `None`, said aloud, where nothing is to be measured; `command` measures.
    pub fn of_arguments(command: &str, [tasks, vectors]: [usize; 2], formats: &str) -> Option<Self> {
        // Cargo's test runner starts benches too, to see that they work: that would write gigabytes.
        let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
        if arguments.iter().any(|a| a == "--test") || cfg!(debug_assertions) {
            println!("skipped: run it with `{command}`");
            return None;
        }
        let number = |i: usize, default| arguments.get(i).and_then(|text| text.parse().ok()).unwrap_or(default);
        let (folder, temporary) = match arguments.get(3) {
            Some(folder) => (PathBuf::from(folder), None),
            None => match tempfile::tempdir() {
                Ok(temporary) => (temporary.path().to_owned(), Some(temporary)),
                Err(error) => {
                    println!("error: no temporary folder: {error}");
                    return None;
                }
            },
        };
        Some(Self {
            model: arguments.first().map_or("ViT-B-32", String::as_str).to_owned(),
            tasks: number(1, tasks),
            vectors: number(2, vectors),
            formats: arguments.get(4).map_or(formats, String::as_str).split(',').map(ToOwned::to_owned).collect(),
            folder,
            _temporary: temporary,
        })
    }

    /// The family, and the files of its base and its basis, written unless they are there from the last time.
    pub fn family(&self) -> Result<(Synthetic, PathBuf, PathBuf)> {
        let family = Synthetic::named(&self.model, self.tasks, self.vectors)?;
        let base = self.folder.join(format!("{}.pt", self.model));
        let basis = self.folder.join(format!("{}_AE_M{}_{}task", self.model, self.vectors, self.tasks));
        if !base.is_file() {
            family.write_base(&base)?;
        }
        if !basis.join("method_info.json").is_file() {
            family.write_basis(&basis)?;
        }
        Ok((family, base, basis))
    }

    /// The path of the bundle with vectors in this format.
    pub fn bundle(&self, format: &str) -> PathBuf {
        self.folder.join(format!("{}_M{}_T{}_{format}.taskbasis", self.model, self.vectors, self.tasks))
    }
}

/// Packs a bundle with its base in f16.
pub fn pack(base: &Checkpoint, basis: &Basis, format: VectorFormat, path: &Path) -> Result<()> {
    let mut packer = Packer::new(base, basis, ArchHints::default())?;
    packer.base_format(BaseFormat::F16);
    packer.write(path, &packer.uniform(format.into()), &[], &|_| {}).map(drop)
}
