//! Bundles of the digits family and of a tiny synthetic one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::digits;
use crate::support::synthetic::Synthetic;
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{
    Activation, Arch, ArchHints, BaseFormat, Basis, Bundle, Checkpoint, DType, Error, Head, Mapping, Method,
    PackReport, Packer, ReconstructOptions, StoredFormat, Weights,
};

pub const METHODS: [&str; 4] = ["AE", "PCA", "Random", "RandomSample"];

pub fn format(name: &str) -> StoredFormat {
    name.parse().unwrap()
}

/// A basis of the digits family and its base; `None`, said aloud, where the family is not there.
pub fn digits_files(method: &str) -> Option<(PathBuf, PathBuf)> {
    let folder = digits(&format!("bases/ViT-D-8_{method}_M4_8task"))?;
    Some((folder, digits("base/pickled_module.pt")?))
}

/// Packs a basis of the digits family with its heads.
pub fn pack_digits(method: &str, vectors: StoredFormat, base: BaseFormat, path: &Path) -> Option<PackReport> {
    let (folder, base_path) = digits_files(method)?;
    let (basis, checkpoint) = (Basis::open(folder).unwrap(), Checkpoint::open(base_path).unwrap());
    let mut packer = Packer::new(&checkpoint, &basis, ArchHints::default()).unwrap();
    packer.base_format(base);
    let (heads, classes) = (digits("heads.safetensors")?, digits("classes.json")?);
    for task in basis.tasks() {
        let head = Head::open(&heads, Some(task)).unwrap().with_class_names(&classes, task).unwrap();
        packer.head(task, head).unwrap();
    }
    Some(packer.write(path, &packer.uniform(vectors), &[], &|_| {}).unwrap())
}

/// A family so small that every byte of its bundle can be tried.
pub fn tiny(method: Method) -> Synthetic {
    let arch = Arch {
        width: 8,
        layers: 1,
        heads: 2,
        mlp_width: 8,
        patch: 2,
        grid: 1,
        embed_dim: 4,
        activation: Activation::Gelu,
        variant: taskbasis::Variant::default(),
    };
    Synthetic {
        arch,
        text: vec![("logit_scale".to_owned(), vec![])],
        method,
        tasks: 3,
        vectors: 2,
        dtype: DType::F32,
        seed: 3,
    }
}

pub struct Family {
    pub folder: tempfile::TempDir,
    pub base: PathBuf,
    pub basis: PathBuf,
    pub arch: Arch,
}

/// The built graph with the base's weights in it, written to `path` and bound.
pub fn exported(arch: &Arch, base: &Checkpoint, basis: &Basis, path: &Path) -> BoundGraph {
    let weights = Weights::of_base(base, &ReconstructOptions::default()).unwrap();
    taskbasis::write_onnx(arch, &weights, path, &[]).unwrap();
    BoundGraph::open(path, base, Some(basis), &BindOptions::default()).unwrap()
}

/// [`exported`] in a form whose linear layers are not recognised: its weights are inputs as they are, and promotion
/// pays.
pub fn promotable(arch: &Arch, base: &Checkpoint, basis: &Basis, path: &Path) -> BoundGraph {
    let weights = Weights::of_base(base, &ReconstructOptions::default()).unwrap();
    let whole = path.with_extension("whole");
    taskbasis::write_onnx(arch, &weights, &whole, &[]).unwrap();
    let mut model = crate::support::onnx::decode(&whole);
    crate::support::onnx::hide_matrices(&mut model);
    std::fs::write(path, prost::Message::encode_to_vec(&model)).unwrap();
    BoundGraph::open(path, base, Some(basis), &BindOptions::default()).unwrap()
}

/// The files of [`tiny`].
pub fn tiny_files(method: Method) -> Family {
    files(&tiny(method))
}

/// A family whose matrices are just large enough for factors to be smaller.
pub fn narrow_files(method: Method) -> Family {
    let tiny = tiny(method);
    let arch = Arch { width: 32, mlp_width: 64, grid: 2, embed_dim: 16, ..tiny.arch.clone() };
    files(&Synthetic { arch, ..tiny })
}

fn files(family: &Synthetic) -> Family {
    let folder = tempfile::tempdir().unwrap();
    let (base, basis) = (folder.path().join("base.pt"), folder.path().join("basis"));
    family.write_base(&base).unwrap();
    family.write_basis(&basis).unwrap();
    Family { folder, base, basis, arch: family.arch.clone() }
}

impl Family {
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Packs it into `name`, with a head for one task.
    pub fn pack(&self, name: &str, vectors: &str, base: BaseFormat) -> PathBuf {
        self.pack_with(name, vectors, base, |_| {})
    }

    pub fn pack_with(
        &self,
        name: &str,
        vectors: &str,
        base: BaseFormat,
        more: impl FnOnce(&mut Packer<'_>),
    ) -> PathBuf {
        let (basis, checkpoint) = (Basis::open(&self.basis).unwrap(), Checkpoint::open(&self.base).unwrap());
        let mut packer = Packer::new(&checkpoint, &basis, self.hints()).unwrap();
        let head = Head::new(vec![0.5; 2 * self.arch.embed_dim], vec![0.25; 2]).unwrap();
        packer.base_format(base).head("Task1", head.with_classes(vec!["no".into(), "yes".into()]).unwrap()).unwrap();
        more(&mut packer);
        let path = self.path(name);
        packer.write(&path, &packer.uniform(format(vectors)), &[], &|_| {}).unwrap();
        path
    }

    /// The built graph with the base's weights in it, as if a user had exported it, bound to the family.
    pub fn graph(&self) -> BoundGraph {
        let (base, basis) = (Checkpoint::open(&self.base).unwrap(), Basis::open(&self.basis).unwrap());
        exported(&self.arch, &base, &basis, &self.path("graph.onnx"))
    }

    pub fn hints(&self) -> ArchHints {
        self.arch.hints()
    }
}

/// A copy of the basis in `folder`, an Autoencoder's, that leaves these parameters alone.
pub fn write_without(folder: &Path, unchanged: &[&str], copy: &Path) {
    use taskbasis::checkpoint::writer::{StorageId, TorchWriter, Value};

    std::fs::create_dir(copy).unwrap();
    for file in ["method_info.json", "AWB.pt"] {
        std::fs::copy(folder.join(file), copy.join(file)).unwrap();
    }
    let basis = Basis::open(folder).unwrap();
    let mut writer = TorchWriter::new("basis_vectors");
    let (mut storages, mut vectors) = (Vec::new(), Vec::new());
    for m in 0..basis.vectors() {
        let mut vector = Vec::new();
        for (name, parameter) in basis.parameters() {
            let mut values = parameter.sources()[m].to_f32().unwrap().into_owned();
            if unchanged.contains(&name) {
                values.fill(0.0);
            }
            storages.push(values);
            vector.push((format!("model.{name}"), writer.tensor(DType::F32, parameter.shape()).unwrap()));
        }
        vectors.push(Value::dict(vector));
    }
    let value = Value::dict([("basis_vectors", Value::List(vectors))]);
    let fill = |StorageId(i): StorageId, out: &mut dyn std::io::Write| {
        storages[i].iter().try_for_each(|value| out.write_all(&value.to_le_bytes()))
    };
    writer.write_file(copy.join("basis_vectors.pt"), &value, fill).unwrap();
}

/// The faults that opening and verifying these bytes finds.
pub fn faults(bytes: Vec<u8>) -> Vec<Error> {
    match Bundle::parse(Arc::new(Mapping::from_vec(bytes, "x.taskbasis"))) {
        Ok(bundle) => bundle.verify(1, &|_| {}),
        Err(error) => vec![error],
    }
}

/// A bundle taken apart: its header can be changed, and put together again so that the only fault is the one that was
/// made.
pub struct Parts {
    pub header: serde_json::Value,
    pub data: Vec<u8>,
}

impl Parts {
    pub fn of(bytes: &[u8]) -> Self {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        Self { header: serde_json::from_slice(&bytes[8..8 + length]).unwrap(), data: bytes[8 + length..].to_vec() }
    }

    /// One value of the metadata, as the JSON that it is.
    pub fn metadata(&self, key: &str) -> serde_json::Value {
        serde_json::from_str(self.header["__metadata__"][key].as_str().unwrap()).unwrap()
    }

    pub fn set_metadata(&mut self, key: &str, value: &serde_json::Value) {
        self.header["__metadata__"][key] = value.to_string().into();
    }

    /// The place of a tensor in the data.
    pub fn range(&self, tensor: &str) -> std::ops::Range<usize> {
        let offsets = &self.header[tensor]["data_offsets"];
        offsets[0].as_u64().unwrap() as usize..offsets[1].as_u64().unwrap() as usize
    }

    /// The bundle's bytes with a whole page of header and the checksums that belong to the content; `page` false leaves
    /// the header as long as it is.
    pub fn join(&self, page: bool) -> Vec<u8> {
        use twox_hash::XxHash3_64;

        let mut header = serde_json::to_vec(&self.header).unwrap();
        if page {
            header.resize((8 + header.len()).next_multiple_of(4096) - 8, b' ');
        }
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        let start = bytes.len();
        let mut tensors: Vec<(usize, String)> = (self.header.as_object().unwrap().iter())
            .filter(|(name, _)| !name.starts_with("__") && !name.starts_with("padding/") && *name != "checksums")
            .filter_map(|(name, entry)| Some((entry["data_offsets"][0].as_u64()? as usize, name.clone())))
            .collect();
        tensors.sort();
        let mut sums = vec![XxHash3_64::oneshot(&bytes)];
        for (_, name) in &tensors {
            sums.push(self.data.get(self.range(name)).map_or(0, XxHash3_64::oneshot));
        }
        bytes.extend(&self.data);
        if self.header.get("checksums").is_some_and(|entry| entry["data_offsets"].is_array()) {
            let place = self.range("checksums");
            let sums: Vec<u8> = sums.iter().flat_map(|sum| sum.to_le_bytes()).collect();
            let place = (start + place.start).min(bytes.len())..(start + place.end).min(bytes.len());
            let length = place.len().min(sums.len());
            bytes[place][..length].copy_from_slice(&sums[..length]);
        }
        bytes
    }
}
