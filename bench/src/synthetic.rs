//! Families of any size with random weights, in the published layout: for benchmarks and tests at full size.

use std::io::{self, Write};
use std::path::Path;

use taskbasis::checkpoint::is_image_tower;
use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value};
use taskbasis::{Activation, Arch, DType, Error, Method, Result, Variant};

/// The description of a family to be made. [`Synthetic::write_base`] and [`Synthetic::write_basis`] make its files.
#[derive(Clone, Debug)]
pub struct Synthetic {
    /// The image tower.
    pub arch: Arch,
    /// The text tower's parameters that published vectors carry too, always zero: names and shapes.
    pub text: Vec<(String, Vec<usize>)>,
    /// The method of the basis.
    pub method: Method,
    /// T.
    pub tasks: usize,
    /// M.
    pub vectors: usize,
    /// The type of the vectors: f32, f16 or bf16.
    pub dtype: DType,
    /// The seed of the random values.
    pub seed: u64,
}

impl Synthetic {
    /// A family by the name of its model, as OpenAI published it: `ViT-B-32`, `ViT-B-16` or `ViT-L-14`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](taskbasis::ErrorKind::NotFound) for any other name.
    pub fn named(model: &str, tasks: usize, vectors: usize) -> Result<Self> {
        let (width, layers, patch, grid, embed_dim) = match model {
            "ViT-B-32" => (768, 12, 32, 7, 512),
            "ViT-B-16" => (768, 12, 16, 14, 512),
            "ViT-L-14" => (1024, 24, 14, 16, 768),
            _ => return Err(Error::not_found(format!("no model `{model}`; known: ViT-B-32, ViT-B-16, ViT-L-14"))),
        };
        let arch = Arch {
            width,
            layers,
            heads: width / 64,
            mlp_width: 4 * width,
            patch,
            grid,
            embed_dim,
            activation: Activation::QuickGelu,
            variant: Variant::default(),
        };
        let text = [
            ("positional_embedding", vec![77, embed_dim]),
            ("text_projection", vec![embed_dim, embed_dim]),
            ("logit_scale", vec![]),
            ("token_embedding.weight", vec![49_408, embed_dim]),
            ("ln_final.weight", vec![embed_dim]),
            ("ln_final.bias", vec![embed_dim]),
        ];
        let text = text.map(|(name, shape)| (name.to_owned(), shape)).to_vec();
        Ok(Self { arch, text, method: Method::Autoencoder, tasks, vectors, dtype: DType::F32, seed: 0 })
    }

    /// Every parameter with its shape, the text tower's first, as the reference orders them.
    pub fn parameters(&self) -> Vec<(String, Vec<usize>)> {
        self.text.iter().cloned().chain(self.arch.parameters()).collect()
    }

    /// Elements in all parameters.
    pub fn parameter_count(&self) -> usize {
        self.parameters().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    /// Writes the base as a state dict, f32.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](taskbasis::ErrorKind::Io).
    pub fn write_base(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut writer = TorchWriter::new("base");
        let entries = self
            .parameters()
            .into_iter()
            .map(|(name, shape)| Ok((format!("model.{name}"), writer.tensor(DType::F32, &shape)?)))
            .collect::<Result<Vec<_>>>()?;
        let sizes: Vec<usize> = self.parameters().iter().map(|(_, shape)| shape.iter().product()).collect();
        writer.write_file(path, &Value::dict(entries), |StorageId(i), out| {
            random(self.seed ^ 0xba5e ^ (i as u64) << 16, 0.05, DType::F32, sizes[i], out)
        })
    }

    /// Writes a basis folder in the published layout; the folder is made where it is not there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`](taskbasis::ErrorKind::Io); [`ErrorKind::InvalidArgument`](taskbasis::ErrorKind::InvalidArgument) for
    /// more vectors than tasks.
    pub fn write_basis(&self, folder: impl AsRef<Path>) -> Result<()> {
        let folder = folder.as_ref();
        if self.vectors == 0 || self.vectors > self.tasks {
            return Err(Error::invalid("a basis has at least one vector and at most one per task").got(self.vectors));
        }
        std::fs::create_dir_all(folder).map_err(|e| Error::io("cannot make the folder", folder, e))?;
        self.write_vectors(&folder.join("basis_vectors.pt"))?;
        self.write_artifact(folder)?;
        let info = serde_json::json!({
            "method": self.method.name(), "M": self.vectors, "seed": self.seed, "datasets": self.task_names(),
            "notes": "synthetic: random values",
        });
        write_json(&folder.join("method_info.json"), &info)
    }

    fn task_names(&self) -> Vec<String> {
        (0..self.tasks).map(|t| format!("Task{t}")).collect()
    }

    fn write_vectors(&self, path: &Path) -> Result<()> {
        let mut writer = TorchWriter::new("basis_vectors");
        let mut storages = Vec::new();
        let mut vectors = Vec::new();
        for _ in 0..self.vectors {
            let mut vector = Vec::new();
            for (name, shape) in self.parameters() {
                let zero = !is_image_tower(&name);
                storages.push((zero, shape.iter().product::<usize>()));
                vector.push((format!("model.{name}"), writer.tensor(self.dtype, &shape)?));
            }
            vectors.push(Value::dict(vector));
        }
        let value = Value::dict([
            ("basis_vectors", Value::List(vectors)),
            ("num_basis", Value::Int(self.vectors as i64)),
            ("method", Value::Str(self.method.name().to_owned())),
        ]);
        writer.write_file(path, &value, |StorageId(i), out| {
            let (zero, numel) = storages[i];
            if zero {
                zeros(numel * self.dtype.size(), out)
            } else {
                random(self.seed ^ i as u64, 1e-3, self.dtype, numel, out)
            }
        })
    }

    fn write_artifact(&self, folder: &Path) -> Result<()> {
        let (m, t) = (self.vectors, self.tasks);
        let matrix = |name: &str, file: &str, rows: usize, columns: usize| {
            let mut writer = TorchWriter::new("artifact");
            let value = Value::dict([(name, writer.tensor(DType::F32, &[rows, columns])?)]);
            writer.write_file(folder.join(file), &value, |_, out| {
                random(self.seed ^ 7, 1.0, DType::F32, rows * columns, out)
            })
        };
        match self.method {
            Method::Autoencoder => matrix("W", "AWB.pt", m, t),
            Method::Random => matrix("projection_coefficients", "random_basis.pt", m, t),
            Method::RandomSample => {
                let selected: Vec<usize> = (0..m).map(|i| i * t / m).collect();
                let names: Vec<String> = selected.iter().map(|i| format!("Task{i}")).collect();
                let json = serde_json::json!({
                    "selected_indices": selected, "selected_datasets": names, "total_tasks": t,
                });
                write_json(&folder.join("random_selection.json"), &json)
            }
            Method::Pca => self.write_pca(folder),
        }
    }

    fn write_pca(&self, folder: &Path) -> Result<()> {
        let mut writer = TorchWriter::new("pca_components");
        let parameters = self.parameters();
        let value = Value::dict([
            ("coefficients", writer.tensor(DType::F32, &[self.vectors, self.tasks])?),
            ("mean_vector", writer.tensor(self.dtype, &[self.parameter_count()])?),
            (
                "keys_order",
                Value::List(parameters.iter().map(|(name, _)| Value::Str(format!("model.{name}"))).collect()),
            ),
            (
                "param_shapes",
                Value::dict(
                    parameters.iter().map(|(name, shape)| (format!("model.{name}"), Value::Size(shape.clone()))),
                ),
            ),
        ]);
        writer.write_file(folder.join("pca_components.pt"), &value, |StorageId(i), out| {
            if i == 0 {
                return random(self.seed ^ 7, 1.0, DType::F32, self.vectors * self.tasks, out);
            }
            parameters.iter().zip(0u64..).try_for_each(|((name, shape), p)| {
                let numel: usize = shape.iter().product();
                if is_image_tower(name) {
                    random(self.seed ^ 0x3ea9 ^ p << 8, 1e-3, self.dtype, numel, out)
                } else {
                    zeros(numel * self.dtype.size(), out)
                }
            })
        })
    }
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<()> {
    std::fs::write(path, format!("{value:#}\n")).map_err(|e| Error::io("cannot write", path, e))
}

fn zeros(bytes: usize, out: &mut dyn Write) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), bytes as u64), out).map(drop)
}

/// `numel` values in ±`scale`, never all zero. A block of them repeats, so that gigabytes are written quickly.
fn random(seed: u64, scale: f32, dtype: DType, numel: usize, out: &mut dyn Write) -> io::Result<()> {
    const BLOCK: usize = 1 << 14;
    // splitmix64 (Steele, Lea, Flood 2014): every seed, also 0, gives a good sequence.
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let mut block = Vec::with_capacity(BLOCK.min(numel) * dtype.size());
    for _ in 0..BLOCK.min(numel) {
        let value = next() * scale;
        match dtype {
            DType::F16 => block.extend(half::f16::from_f32(value).to_le_bytes()),
            DType::BF16 => block.extend(half::bf16::from_f32(value).to_le_bytes()),
            _ => block.extend(value.to_le_bytes()),
        }
    }
    let mut left = numel * dtype.size();
    while left > 0 {
        let part = left.min(block.len());
        out.write_all(&block[..part])?;
        left -= part;
    }
    Ok(())
}
