//! A bundle that carries the user's graph: encoders run it, with the bits that it has beside a folder, and nothing of
//! it is stored twice.

use crate::support;
use crate::support::runtime;
use std::path::Path;
use std::sync::Arc;

use crate::support::bundle::{Parts, digits_files, faults, format, tiny_files};
use crate::support::onnx::GRAPHS;
use crate::support::onnx::proto::dimension::Value::DimValue;
use crate::support::onnx_file::OnnxFileEncoder;
use crate::support::{bits, digits, relative_l2};
use serde_json::json;
use taskbasis::checkpoint::safetensors;
use taskbasis::onnx::{BindOptions, BoundGraph, GraphMap, OnnxFile};
use taskbasis::{
    ArchHints, BaseFormat, Basis, BlockFormat, Bundle, BundleUpdate, Checkpoint, Encoder, EncoderOptions, ErrorKind,
    Mapping, Method, Model, ModelOptions, NewTask, Packer, Promotion,
};

fn options() -> EncoderOptions {
    EncoderOptions { threads: 2, promotion: Promotion::Manual, ..EncoderOptions::default() }
}

/// A basis folder of the digits family, its base and a graph bound to them.
struct Digits {
    base: Checkpoint,
    basis: Basis,
    graph: BoundGraph,
}

impl Digits {
    fn open(basis: &Path, graph: &Path) -> Self {
        let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
        let basis = Basis::open(basis).unwrap();
        let graph = BoundGraph::open(graph, &base, Some(&basis), &BindOptions::default()).unwrap();
        Self { base, basis, graph }
    }

    fn pack(&self, vectors: &str, base: BaseFormat, path: &Path) -> Bundle {
        let mut packer = Packer::new(&self.base, &self.basis, ArchHints::default()).unwrap();
        packer.base_format(base).graph(&self.graph).unwrap();
        packer.write(path, &packer.uniform(format(vectors)), &[], &|_| {}).unwrap();
        let bundle = Bundle::open(path).unwrap();
        let errors = bundle.verify(0, &|_| {});
        assert!(errors.is_empty(), "{errors:?}");
        bundle
    }

    fn model(&self) -> Arc<Model> {
        let base = Checkpoint::open(self.base.path()).unwrap();
        Model::new(base, Some(Basis::open(self.basis.path()).unwrap()), &ModelOptions::default()).unwrap()
    }
}

/// Embeddings of some images as inputs, and promoted.
fn embeds(encoder: &Encoder, model: &Arc<Model>, expression: &str) -> [Vec<f32>; 2] {
    let pixels: Vec<f32> = (0..3 * encoder.arch().pixels()).map(|i| (i * 37 % 1009) as f32 / 504.5 - 1.0).collect();
    let task = model.weights(&expression.parse().unwrap()).unwrap();
    let as_inputs = encoder.encode_task(&task, &pixels, 3).unwrap();
    encoder.promote(&task).unwrap();
    [as_inputs, encoder.encode_task(&task, &pixels, 3).unwrap()]
}

#[test]
fn the_bits_are_those_of_the_graph_beside_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    for graph in GRAPHS.iter().filter_map(|graph| digits(graph)) {
        let digits = Digits::open(&digits_files("AE").unwrap().0, &graph);
        let bundle = digits.pack("f32", BaseFormat::F32, &folder.path().join("f32.taskbasis"));
        // What the base has is not there again.
        let graph_bytes = bundle.graph().unwrap().len();
        let file_bytes = std::fs::metadata(&graph).unwrap().len() as usize;
        assert!(graph_bytes * 4 < file_bytes, "{graph_bytes} of {file_bytes}");
        let carried = bundle.bound_graph(&digits.base, Some(&digits.basis)).unwrap().unwrap();
        assert!(carried.is_embedded() && !digits.graph.is_embedded());
        assert_eq!(carried.layout().tensors(), digits.graph.layout().tensors());
        if !runtime() {
            continue;
        }
        let model = bundle.model(None, &ModelOptions::default()).unwrap();
        let encoder = Encoder::of_bundle(&bundle, &model, &options()).unwrap();
        assert!(encoder.graph().unwrap().is_embedded());
        let (arch, beside) = (bundle.arch(), digits.model());
        let theirs = Encoder::with_graph(arch, &digits.graph, &options()).unwrap();
        for expression in ["MNIST", "MNIST - Parity@0.3", "merged@0.4", "base"] {
            let (found, expected) = (embeds(&encoder, &model, expression), embeds(&theirs, &beside, expression));
            for (found, expected) in found.iter().zip(&expected) {
                assert_eq!(bits(found), bits(expected), "{expression}, {}", graph.display());
            }
        }
        let built = Encoder::new(arch, &options()).unwrap();
        assert!(built.graph().is_none());
        let expected = embeds(&built, &model, "MNIST");
        assert!(relative_l2(&embeds(&encoder, &model, "MNIST")[0], &expected[0]) < 1e-5);

        // Blocks for vectors and a rounded base: what the built graph makes of the same bundle.
        for vectors in ["q8", "q4"] {
            let bundle = digits.pack(vectors, BaseFormat::F16, &folder.path().join("small.taskbasis"));
            let model = bundle.model(None, &ModelOptions::default()).unwrap();
            let encoder = Encoder::of_bundle(&bundle, &model, &options()).unwrap();
            let (found, expected) = (embeds(&encoder, &model, "MNIST"), embeds(&built, &model, "MNIST"));
            found.iter().for_each(|found| assert!(relative_l2(found, &expected[0]) < 1e-5, "{vectors}"));
        }

        // One task as a plain file, and the faster form of a graph that has no file of its own.
        let carried = bundle.bound_graph(model.base(), model.basis()).unwrap().unwrap();
        let task = model.weights(&"MNIST".parse().unwrap()).unwrap();
        let plain = folder.path().join("task.onnx");
        carried.write(&task.in_layout(carried.layout()).get().unwrap(), &plain, &[]).unwrap();
        let pixels = vec![0.25; 2 * arch.pixels()];
        let exported = OnnxFileEncoder::open(&plain, &options()).unwrap().encode(&pixels, 2).unwrap();
        assert!(relative_l2(&exported, &theirs.encode_task(&task, &pixels, 2).unwrap()) < 1e-5);
        let (fastest, trials) = Encoder::with_fastest_graph(arch, &carried, &model, &options()).unwrap();
        assert!(trials.iter().all(|trial| trial.result.is_ok()), "{trials:?}");
        assert!(relative_l2(&fastest.encode_task(&task, &pixels, 2).unwrap(), &exported) < 1e-5);
    }
}

/// An optimised form, half floats, values in other files, a fixed batch and names of noise are carried like any other.
#[test]
fn every_form_of_a_graph_can_be_carried() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for path in GRAPHS.iter().filter_map(|graph| digits(graph)) {
        let plain = || support::onnx::decode(&path);
        let mut forms = Vec::new();
        let mut half = plain();
        support::onnx::half(&mut half);
        forms.push((support::onnx::write(&half, folder.path(), "half.onnx"), 2e-2));
        let mut half_weights = plain();
        support::onnx::half_weights(&mut half_weights);
        forms.push((support::onnx::write(&half_weights, folder.path(), "half_weights.onnx"), 2e-3));
        let beside = tempfile::tempdir().unwrap();
        let mut external = plain();
        support::onnx::external(&mut external, beside.path());
        forms.push((support::onnx::write(&external, beside.path(), "external.onnx"), 1e-5));
        let (mut renamed, mut state) = (plain(), 1u64);
        support::onnx::rename(&mut renamed, &mut || {
            state = state.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(1);
            state
        });
        forms.push((support::onnx::write(&renamed, folder.path(), "renamed.onnx"), 1e-5));
        let mut five = plain();
        for port in &mut support::onnx::graph(&mut five).input {
            let tensor = port.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
            tensor.shape.as_mut().unwrap().dim[0].value = Some(DimValue(5));
        }
        forms.push((support::onnx::write(&five, folder.path(), "five.onnx"), 1e-5));

        let basis = digits_files("PCA").unwrap().0;
        let built = Encoder::new(
            Bundle::open(bundle_of(&Digits::open(&basis, &path), &folder.path().join("x"))).unwrap().arch(),
            &options(),
        );
        let built = built.unwrap();
        for (form, allowed) in forms {
            let digits = Digits::open(&basis, &form);
            let bundle = Bundle::open(bundle_of(&digits, &folder.path().join("form.taskbasis"))).unwrap();
            let model = bundle.model(None, &ModelOptions::default()).unwrap();
            let encoder = Encoder::of_bundle(&bundle, &model, &options()).unwrap();
            let (found, expected) = (embeds(&encoder, &model, "MNIST"), embeds(&built, &model, "MNIST"));
            for found in &found {
                let error = relative_l2(found, &expected[0]);
                assert!(error < allowed, "{}: {error:e}", form.display());
            }
        }
        for extended in [false, true] {
            let file = taskbasis::encoder::optimise_graph(&path, extended, &options()).unwrap();
            let Digits { base, basis, .. } = Digits::open(&basis, &path);
            let graph = BoundGraph::bind(Arc::new(file), &base, Some(&basis), &BindOptions::default()).unwrap();
            let digits = Digits { base, basis, graph };
            let bundle = Bundle::open(bundle_of(&digits, &folder.path().join("fast.taskbasis"))).unwrap();
            let model = bundle.model(None, &ModelOptions::default()).unwrap();
            let encoder = Encoder::of_bundle(&bundle, &model, &options()).unwrap();
            assert!(relative_l2(&embeds(&encoder, &model, "Loops")[0], &embeds(&built, &model, "Loops")[0]) < 1e-5);
        }
    }
}

fn bundle_of(digits: &Digits, path: &Path) -> std::path::PathBuf {
    digits.pack("f32", BaseFormat::F32, path);
    path.to_path_buf()
}

/// Parameters that no vector changes are constants of the graph, and still stored once; a task that changes one later
/// finds it changed.
#[test]
fn what_the_basis_leaves_alone_is_stored_once() {
    let Some((whole, _)) = digits_files("AE") else { return };
    let folder = tempfile::tempdir().unwrap();
    let basis = folder.path().join("basis");
    // A matrix that exporters split or turn over, one that they fold with another, and small ones.
    let unchanged = [
        "visual.conv1.weight",
        "visual.class_embedding",
        "visual.positional_embedding",
        "visual.transformer.resblocks.0.attn.in_proj_weight",
        "visual.ln_pre.weight",
    ];
    support::bundle::write_without(&whole, &unchanged, &basis);
    for graph in GRAPHS.iter().filter_map(|graph| digits(graph)) {
        let digits = Digits::open(&basis, &graph);
        let (kept, kept_bytes) = digits.graph.kept();
        assert!(kept > 0 && kept_bytes > 40_000, "{kept}, {kept_bytes}");
        let path = folder.path().join("kept.taskbasis");
        let bundle = digits.pack("f32", BaseFormat::F32, &path);
        let file_bytes = std::fs::metadata(&graph).unwrap().len() as usize;
        assert!(bundle.graph().unwrap().len() * 4 < file_bytes, "the base has these values");
        let carried = bundle.bound_graph(&digits.base, Some(&digits.basis)).unwrap().unwrap();
        assert_eq!(carried.layout().tensors(), digits.graph.layout().tensors());
        // Constants that were merged come apart.
        assert!(carried.kept().1 >= kept_bytes);

        // Without the base's values the section can still be checked, and bound later.
        digits.pack("q8", BaseFormat::LeftOut, &folder.path().join("without.taskbasis"));
        if !runtime() {
            continue;
        }
        let model = bundle.model(None, &ModelOptions::default()).unwrap();
        let encoder = Encoder::of_bundle(&bundle, &model, &options()).unwrap();
        let theirs = Encoder::with_graph(bundle.arch(), &digits.graph, &options()).unwrap();
        let (found, expected) = (embeds(&encoder, &model, "MNIST"), embeds(&theirs, &digits.model(), "MNIST"));
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(bits(found), bits(expected), "{}", graph.display());
        }

        // A residual that changes what no vector changed.
        let finetuned = folder.path().join("finetuned.safetensors");
        let whole = Basis::open(&whole).unwrap();
        let whole = Model::new(Checkpoint::open(digits.base.path()).unwrap(), Some(whole), &ModelOptions::default());
        let task = whole.unwrap().weights(&"MNIST".parse().unwrap()).unwrap();
        task.get().unwrap().save(&finetuned, &[], &[]).unwrap();
        let finetuned = Checkpoint::open(finetuned).unwrap();
        let mut update = BundleUpdate::new(&bundle, None).unwrap();
        let residual = Some(BlockFormat::Q8);
        update
            .task(NewTask { name: "New", finetuned: &finetuned, head: None, residual: residual.map(Into::into) })
            .unwrap();
        update.write(&path, &[], &|_| {}).unwrap();
        let grown = Bundle::open(&path).unwrap();
        assert!(grown.verify(0, &|_| {}).is_empty() && grown.graph_map() == bundle.graph_map());
        let model = grown.model(None, &ModelOptions::default()).unwrap();
        let encoder = Encoder::of_bundle(&grown, &model, &options()).unwrap();
        let built = Encoder::new(grown.arch(), &options()).unwrap();
        let (found, expected) = (embeds(&encoder, &model, "New"), embeds(&built, &model, "New"));
        assert!(relative_l2(&found[0], &expected[0]) < 1e-5);
        let before = embeds(&built, &model, "MNIST");
        assert!(relative_l2(&expected[0], &before[0]) > 1e-4, "the task is another one");
    }
}

#[test]
fn what_cannot_be_carried_is_refused() {
    let family = tiny_files(Method::Pca);
    let graph = family.graph();
    let (base, basis) = (Checkpoint::open(&family.base).unwrap(), Basis::open(&family.basis).unwrap());
    // Of another base: its values are not asked for, its names and shapes are.
    let Some(other) = digits(GRAPHS[0]) else { return };
    let digits = Digits::open(&digits_files("AE").unwrap().0, &other);
    let mut packer = Packer::new(&base, &basis, family.hints()).unwrap();
    let Err(error) = packer.graph(&digits.graph) else { panic!("packed") };
    assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
    packer.graph(&graph).unwrap();
    // Twice the same bytes.
    let write = |name: &str| {
        let path = family.path(name);
        packer.write(&path, &packer.uniform(format("q4")), &[], &|_| {}).unwrap();
        std::fs::read(path).unwrap()
    };
    assert!(write("a") == write("b"));
}

/// With a graph, and everything else that it may have.
fn carrying(base: BaseFormat) -> Vec<u8> {
    let family = tiny_files(Method::Pca);
    let path = family.pack_with("graph.taskbasis", "q4", base, |packer| {
        packer.graph(&family.graph()).unwrap();
    });
    std::fs::read(path).unwrap()
}

#[test]
fn a_map_that_does_not_fit_is_found() {
    for base in [BaseFormat::F32, BaseFormat::LeftOut] {
        let bytes = carrying(base);
        assert!(faults(bytes.clone()).is_empty());
        let map: GraphMap = serde_json::from_value(Parts::of(&bytes).metadata("taskbasis.graph")).unwrap();
        let broken = |what: &str, change: &dyn Fn(&mut GraphMap), parts: &[&str]| {
            let (mut taken, mut changed) = (Parts::of(&bytes), map.clone());
            change(&mut changed);
            taken.set_metadata("taskbasis.graph", &serde_json::to_value(changed).unwrap());
            let errors = faults(taken.join(true));
            let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
            assert!(text.starts_with("x.taskbasis: "), "{what}: {text}");
            for part in parts {
                assert!(text.contains(part), "{what}: `{part}` is not in: {text}");
            }
        };
        const PROJ: &str = "visual.proj";
        let proj = |change: &'static dyn Fn(&mut taskbasis::onnx::Mapped)| {
            move |map: &mut GraphMap| change(map.tensors.get_mut(PROJ).unwrap())
        };
        broken("left out", &|m| drop(m.tensors.shift_remove(PROJ)), &["an input that the map does not know", PROJ]);
        let renamed = |m: &mut GraphMap| {
            let mapped = m.tensors.shift_remove(PROJ).unwrap();
            m.tensors.insert("stranger".into(), mapped);
        };
        broken("unknown", &renamed, &["an input that the map does not know"]);
        let added = |m: &mut GraphMap| {
            let mapped = m.tensors[PROJ].clone();
            m.tensors.insert("stranger".into(), mapped);
        };
        broken("more", &added, &["holds this parameter more than once"]);
        let images = |m: &mut GraphMap| {
            let mapped = m.tensors[PROJ].clone();
            m.tensors.insert(m.pixels.clone(), mapped);
        };
        broken("images", &images, &["the input for images is mapped to weights"]);
        broken("no such input", &|m| m.pixels = "x".into(), &["an input that the map does not know"]);
        broken("no such output", &|m| m.output = "x".into(), &["no output `x`"]);
        broken("nothing", &proj(&|p| p.sum.clear()), &["lacks this parameter"]);
        broken("a constant", &proj(&|p| p.constant = Some("x".into())), &["no constant `x`"]);
        broken("rows", &proj(&|p| p.sum[0].rows = Some([0, usize::MAX])), &["has no such rows"]);
        broken("no rows", &proj(&|p| p.sum[0].rows = Some([3, 3])), &["lacks this parameter"]);
        broken("shape", &proj(&|p| p.sum[0].shape = Some(vec![usize::MAX, 2])), &["another number of elements"]);
        broken("order", &proj(&|p| p.sum[0].permute = Some(vec![0, 0])), &["not a permutation"]);
        let swapped = |m: &mut GraphMap| m.tensors[PROJ].sum[0].parameter = "visual.conv1.weight".into();
        broken("another parameter", &swapped, &["more than once"]);
        let missing = |m: &mut GraphMap| {
            swapped(m);
            m.repeated.push("visual.conv1.weight".into());
            m.missing.push(PROJ.into());
        };
        broken("of another size", &missing, &["a part of another size"]);
        let unknown = |m: &mut GraphMap| m.tensors[PROJ].sum[0].parameter = "visual.more".into();
        broken("unknown parameter", &unknown, &["visual.more"]);

        // Beyond what f32 can say.
        let mut taken = Parts::of(&bytes);
        let mut metadata = taken.metadata("taskbasis.graph");
        metadata["tensors"][PROJ]["sum"][0]["scale"] = json!(1e39);
        taken.set_metadata("taskbasis.graph", &metadata);
        assert!(faults(taken.join(true))[0].to_string().contains("a scale is not finite"));

        let mut taken = Parts::of(&bytes);
        taken.header["__metadata__"]["taskbasis.graph"] = json!("[]");
        assert!(faults(taken.join(true))[0].to_string().contains("`taskbasis.graph` is broken"));
        let mut taken = Parts::of(&bytes);
        let mut metadata = taken.metadata("taskbasis.graph");
        metadata["more"] = json!(1);
        taken.set_metadata("taskbasis.graph", &metadata);
        assert!(faults(taken.join(true))[0].to_string().contains("`taskbasis.graph` is broken"));
    }
    // A map without a graph.
    let family = tiny_files(Method::Pca);
    let mut taken = Parts::of(&std::fs::read(family.pack("x", "q4", BaseFormat::F32)).unwrap());
    taken.set_metadata("taskbasis.graph", &json!({"pixels": "x", "output": "y", "tensors": {}}));
    let text = faults(taken.join(true))[0].to_string();
    assert!(text.contains("`graph`") && text.contains("missing"), "{text}");
}

/// Any byte of the graph changed, its checksum put right: an error, or a graph that binds; never a crash.
#[test]
fn hostile_graphs_are_errors() {
    let bytes = carrying(BaseFormat::F32);
    let (taken, whole) = (Parts::of(&bytes), Bundle::parse(Arc::new(Mapping::from_vec(bytes, "whole"))).unwrap());
    let (place, graph) = (taken.range("graph"), whole.graph().unwrap().to_vec());
    assert_eq!(place.len(), graph.len());
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = graph.clone();
        change(&mut changed);
        changed.resize(graph.len(), 0);
        let mut taken = Parts { header: taken.header.clone(), data: taken.data.clone() };
        taken.data[place.clone()].copy_from_slice(&changed);
        faults(taken.join(true))
    };
    assert!(with(&|_| {}).is_empty());
    // The versions of operators, at the end, are ONNX Runtime's to judge.
    for cut in (0..graph.len() - 24).step_by(101) {
        assert!(!with(&|graph| graph.truncate(cut)).is_empty(), "cut at {cut}");
    }
    let mut found = 0;
    for i in (0..graph.len()).step_by(3) {
        for flip in [1, 0x80] {
            let errors = with(&|graph| graph[i] ^= flip);
            found += usize::from(!errors.is_empty());
            errors.iter().for_each(|error| assert!(error.to_string().starts_with("x.taskbasis: "), "{error}"));
        }
    }
    // What is left are names of nodes, attributes and types, which only ONNX Runtime can judge.
    assert!(found > graph.len() / 6, "{found} of {}", graph.len() / 3 * 2);

    // Not a graph, or one that wants its values from elsewhere.
    assert!(!with(&|graph| graph.fill(0xff)).is_empty());
    let fresh = OnnxFile::parse(Arc::new(Mapping::from_vec(graph.clone(), "graph"))).unwrap();
    assert!(
        fresh.inputs().len() > 10 && safetensors::read(&Arc::new(Mapping::from_vec(graph.clone(), "graph"))).is_err()
    );
}
