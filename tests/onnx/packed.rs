//! Users' graphs whose linear layers take packed weights: which are recognised, and what they give.

use std::path::Path;
use std::sync::Arc;

use crate::support::onnx::proto::ModelProto;
use crate::support::onnx::tower::{Tower, float, floats, int, ints};
use crate::support::onnx::{GRAPHS, graph, hide_matrices, node};
use crate::support::{self, digits, relative_l2, runtime, whole_digits};
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{
    Arch, ArchHints, BaseFormat, Basis, Bundle, Checkpoint, Encoder, EncoderOptions, ErrorKind, Model, ModelOptions,
    Packer, Precision, PromotionState, ReconstructOptions, Weights,
};

/// The digits family with one of the graphs that were exported of it, or the one that we export.
struct Digits {
    _folder: tempfile::TempDir,
    arch: Arch,
    model: Arc<Model>,
    graph: BoundGraph,
    /// The same graph, none of whose layers is recognised.
    plain: BoundGraph,
}

fn families() -> Vec<Digits> {
    let Some(folder) = whole_digits("bases/ViT-D-8_AE_M4_8task").filter(|_| runtime()) else { return Vec::new() };
    let open = |path: Option<&Path>| {
        let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
        let (basis, arch) = (Basis::open(&folder).unwrap(), Arch::of(&base, ArchHints::default()).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let written = folder.path().join("written.onnx");
        match path {
            Some(path) => drop(std::fs::copy(path, &written).unwrap()),
            None => {
                let weights = Weights::of_base(&base, &ReconstructOptions::default()).unwrap();
                taskbasis::write_onnx(&arch, &weights, &written, &[]).unwrap();
            }
        }
        let mut plain = support::onnx::decode(&written);
        hide_matrices(&mut plain);
        let plain = support::onnx::write(&plain, folder.path(), "plain.onnx");
        let bind = |path: &Path| BoundGraph::open(path, &base, Some(&basis), &BindOptions::default()).unwrap();
        let (graph, plain) = (bind(&written), bind(&plain));
        let model = Model::new(base, Some(basis), &ModelOptions::default()).unwrap();
        Digits { _folder: folder, arch, model, graph, plain }
    };
    let mut all: Vec<Digits> = GRAPHS.iter().filter_map(|graph| Some(open(Some(&digits(graph)?)))).collect();
    all.push(open(None));
    all
}

impl Digits {
    fn over(&self, graph: &BoundGraph, precision: Precision) -> taskbasis::Result<Encoder> {
        Encoder::with_graph(
            &self.arch,
            graph,
            &EncoderOptions { precision: precision.into(), threads: 2, ..EncoderOptions::default() },
        )
    }

    fn pixels(&self, n: usize) -> Vec<f32> {
        (0..n * self.arch.pixels()).map(|i| ((i * 37 % 1009) as f32 / 504.5) - 1.0).collect()
    }
}

fn least_cosine(a: &[f32], b: &[f32], width: usize) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let rows = a.chunks(width).zip(b.chunks(width));
    rows.map(|(a, b)| dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()).fold(1.0, f64::min)
}

/// The names of the tensors that an encoder takes packed.
fn packed(encoder: &Encoder) -> Vec<&str> {
    let tensors = encoder.layout().tensors().iter();
    tensors.filter(|tensor| tensor.packed.is_some()).map(|tensor| tensor.name.as_str()).collect()
}

#[test]
fn exports_run_with_packed_weights_in_every_precision() {
    for digits in families() {
        let plain = digits.over(&digits.plain, Precision::F32).unwrap();
        assert_eq!(packed(&plain), Vec::<&str>::new());
        let (pixels, width) = (digits.pixels(5), digits.arch.embed_dim);
        let path = digits.graph.file().path().display();
        for (precision, least, most) in
            [(Precision::F32, 1.0, 1.05), (Precision::Bf16, 0.9999, 0.6), (Precision::Int8, 0.999, 0.4)]
        {
            let encoder = digits.over(&digits.graph, precision).unwrap();
            // Three blocks, whose queries, keys and values may be apart.
            assert!([12, 18].contains(&packed(&encoder).len()), "{path}: {:?}", packed(&encoder));
            assert_eq!(encoder.precisions(), precision.into());
            for expression in ["base", "MNIST - Parity@0.3"] {
                let task = digits.model.weights(&expression.parse().unwrap()).unwrap();
                let expected = plain.encode_task(&task, &pixels, 5).unwrap();
                let embeds = encoder.encode_task(&task, &pixels, 5).unwrap();
                let (error, cosine) = (relative_l2(&embeds, &expected), least_cosine(&embeds, &expected, width));
                println!("{path} {precision} {expression}: {error:.1e}, cosine {cosine}");
                assert!(precision != Precision::F32 || error < 2e-5, "{path}: {error:e}");
                assert!(precision == Precision::F32 || cosine >= least && error > 1e-4, "{path} {precision}: {cosine}");
                assert_eq!(encoder.promotion(&task), PromotionState::Unneeded);
                encoder.promote(&task).unwrap();
                assert_eq!(encoder.encode_task(&task, &pixels, 5).unwrap(), embeds, "{path} {precision}");
                // Given in the layout of the state dict, of the file, or of the encoder: the same bits.
                let given = task.get().unwrap();
                assert_eq!(encoder.encode(&*given, &pixels, 5).unwrap(), embeds, "{path} {precision}, a state dict");
                for layout in [digits.graph.layout(), encoder.layout()] {
                    let weights = task.in_layout(layout).get().unwrap();
                    assert_eq!(encoder.encode(&*weights, &pixels, 5).unwrap(), embeds, "{path} {precision}");
                }
                let own = task.in_layout(encoder.layout()).get().unwrap();
                let share = own.nbytes() as f64 / task.in_layout(plain.layout()).get().unwrap().nbytes() as f64;
                assert!(expression == "base" || share < most, "{path} {precision}: {share} of the bytes");
            }
            // Encoders over one graph share weights.
            let again = digits.over(&digits.graph, precision).unwrap();
            assert!(again.is_prepared(&digits.model.weights(&"MNIST - Parity@0.3".parse().unwrap()).unwrap()));
        }
    }
}

/// What ONNX Runtime computes of our export has an image's bits in every batch, so that all of it has.
#[test]
fn company_changes_no_bit_of_our_export() {
    let Some(digits) = families().pop() else { return };
    let task = digits.model.weights(&"MNIST".parse().unwrap()).unwrap();
    for precision in Precision::ALL {
        let encoder = digits.over(&digits.graph, precision).unwrap();
        let (pixels, image, width) = (digits.pixels(9), digits.arch.pixels(), digits.arch.embed_dim);
        let all = encoder.encode_task(&task, &pixels, 9).unwrap();
        for i in [0, 4, 8] {
            let alone = encoder.encode_task(&task, &pixels[i * image..][..image], 1).unwrap();
            assert_eq!(alone, &all[i * width..][..width], "{precision}: image {i}");
        }
    }
}

#[test]
fn a_bundle_and_the_optimiser_keep_the_layers() {
    for digits in families() {
        let pixels = digits.pixels(2);
        let (base, basis) = (digits.model.base(), digits.model.basis().unwrap());
        let mut packer = Packer::new(base, basis, ArchHints::default()).unwrap();
        packer.base_format(BaseFormat::F32).graph(&digits.graph).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("carried.taskbasis");
        packer.write(&path, &packer.uniform("f32".parse().unwrap()), &[], &|_| {}).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        let model = bundle.model(None, &ModelOptions::default()).unwrap();
        for precision in Precision::ALL {
            let options = EncoderOptions { precision: precision.into(), threads: 2, ..EncoderOptions::default() };
            let encoder = digits.over(&digits.graph, precision).unwrap();
            let carried = Encoder::of_bundle(&bundle, &model, &options).unwrap();
            assert_eq!(packed(&carried).len(), packed(&encoder).len());
            let embeds = |encoder: &Encoder, model: &Arc<Model>| {
                encoder.encode_task(&model.weights(&"MNIST".parse().unwrap()).unwrap(), &pixels, 2).unwrap()
            };
            assert_eq!(embeds(&carried, &model), embeds(&encoder, &digits.model), "{precision}");
            let (fastest, _) =
                Encoder::with_fastest_graph(&digits.arch, &digits.graph, &digits.model, &options).unwrap();
            assert!(packed(&fastest).len() >= 9, "{precision}: {:?}", packed(&fastest));
            // The optimiser imports our operators, as this process has them. A file for others does not.
            let (graph, written) = (fastest.graph().unwrap(), folder.path().join("written.onnx"));
            let task = digits.model.weights(&"MNIST".parse().unwrap()).unwrap().in_layout(graph.layout());
            graph.write(&task.get().unwrap(), &written, &[]).unwrap();
            let sets = support::onnx::decode(&written).opset_import;
            assert!(!sets.is_empty() && sets.iter().all(|set| set.domain.as_deref() != Some("taskbasis")), "{sets:?}");
            let error = relative_l2(&embeds(&fastest, &digits.model), &embeds(&encoder, &digits.model));
            assert!(error < if precision == Precision::F32 { 2e-5 } else { 2e-2 }, "{precision}: {error:e}");
        }
    }
}

#[test]
fn what_is_not_recognised_stays_an_input() {
    for digits in families() {
        let task = digits.model.weights(&"MNIST".parse().unwrap()).unwrap();
        let plain = digits.over(&digits.plain, Precision::F32).unwrap();
        plain.promote(&task).unwrap();
        assert!(plain.is_promoted(&task));
        for precision in [Precision::Bf16, Precision::Int8] {
            let error = digits.over(&digits.plain, precision).unwrap_err();
            let said = error.to_string();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{said}");
            assert!(said.contains(precision.name()) && said.contains("plain.onnx"), "{said}");
        }
    }
}

const OUT: &str = "visual.transformer.resblocks.0.attn.out_proj.weight";

/// Our export, changed, and what of its first block is packed in bf16.
fn check(tower: &Tower, what: &str, is_packed: bool, change: impl Fn(&mut ModelProto, usize)) {
    let mut model = tower.plain.clone();
    let at = graph(&mut model).node.iter().position(|node| node.input.get(1).is_some_and(|name| name == OUT)).unwrap();
    change(&mut model, at);
    let bound = tower.bind(&model).unwrap_or_else(|e| panic!("{what}: {e}"));
    if !runtime() {
        return;
    }
    let options = EncoderOptions { precision: Precision::Bf16.into(), threads: 1, ..EncoderOptions::default() };
    let encoder = Encoder::with_graph(&tower.arch, &bound, &options).unwrap();
    let names = packed(&encoder);
    assert_eq!(names.contains(&OUT), is_packed, "{what}: {names:?}");
    assert_eq!(names.len(), 7 + usize::from(is_packed), "{what}: {names:?}");
    let pixels = tower.pixels(3);
    let mut hidden = model;
    hide_matrices(&mut hidden);
    let plain = tower.encoder(&tower.bind(&hidden).unwrap());
    let cosine = least_cosine(
        &tower.embeds(&encoder, "Task1", &pixels),
        &tower.embeds(&plain, "Task1", &pixels),
        tower.arch.embed_dim,
    );
    assert!(cosine > 0.9999, "{what}: {cosine}");
}

/// The layer of this product becomes other nodes.
fn rewrite(model: &mut ModelProto, at: usize, nodes: &[(&str, &[&str])]) {
    let graph = graph(model);
    let [input, bias, output] = {
        let node = &graph.node[at];
        [&node.input[0], &node.input[2], &node.output[0]].map(Clone::clone)
    };
    let name = |name: &str| match name {
        "x" => input.clone(),
        "W" => OUT.to_owned(),
        "b" => bias.clone(),
        "y" => output.clone(),
        other => format!("rewritten.{other}"),
    };
    let made = nodes.iter().map(|(op, names)| {
        let (op, attributes) = match op.split_once(' ') {
            None => (*op, Vec::new()),
            Some((op, "B")) => (op, vec![int("transB", 1)]),
            Some((op, "A B")) => (op, vec![int("transA", 1), int("transB", 1)]),
            Some((op, "turn")) => (op, vec![ints("perm", &[1, 0])]),
            Some((op, "stay")) => (op, vec![ints("perm", &[0, 1])]),
            Some((op, alpha)) => (op, vec![int("transB", 1), float("alpha", alpha.parse().unwrap())]),
        };
        let (output, inputs) = names.split_last().unwrap();
        let inputs: Vec<String> = inputs.iter().copied().map(name).collect();
        let inputs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        self::node(op, &inputs, &name(output), attributes)
    });
    let made: Vec<_> = made.collect();
    graph.node.splice(at..=at, made);
}

#[test]
fn layers_are_recognised_in_their_forms() {
    let tower = Tower::new();
    /// Operators and their inputs.
    type Nodes<'a> = &'a [(&'a str, &'a [&'a str])];
    let forms: [(&str, bool, Nodes<'_>); 15] = [
        ("a Gemm", true, &[("Gemm B", &["x", "W", "b", "y"])]),
        ("without a bias", true, &[("Gemm B", &["x", "W", "s"]), ("Add", &["s", "b", "y"])]),
        (
            "transposed",
            true,
            &[("Transpose turn", &["W", "t"]), ("MatMul", &["x", "t", "s"]), ("Add", &["b", "s", "y"])],
        ),
        ("an identity", true, &[("Identity", &["W", "t"]), ("Gemm B", &["x", "t", "b", "y"])]),
        (
            "twice transposed",
            true,
            &[("Transpose turn", &["W", "t"]), ("Transpose turn", &["t", "u"]), ("Gemm B", &["x", "u", "b", "y"])],
        ),
        ("a Gemm of what was transposed", true, &[("Transpose turn", &["W", "t"]), ("Gemm", &["x", "t", "b", "y"])]),
        (
            "a sum that is read twice",
            true,
            &[
                ("Gemm B", &["x", "W", "s"]),
                ("Add", &["s", "b", "t"]),
                ("Sub", &["t", "s", "u"]),
                ("Add", &["u", "s", "y"]),
            ],
        ),
        (
            "read by two products",
            true,
            &[
                ("Gemm B", &["x", "W", "s"]),
                ("Gemm B", &["x", "W", "t"]),
                ("Sub", &["s", "t", "u"]),
                ("Add", &["u", "t", "v"]),
                ("Add", &["v", "b", "y"]),
            ],
        ),
        (
            "two orientations that are one",
            true,
            &[
                ("Transpose turn", &["W", "t"]),
                ("MatMul", &["x", "t", "s"]),
                ("Gemm B", &["x", "W", "u"]),
                ("Sub", &["s", "u", "v"]),
                ("Add", &["v", "u", "w"]),
                ("Add", &["w", "b", "y"]),
            ],
        ),
        ("halved", false, &[("Gemm 0.5", &["x", "W", "s"]), ("Add", &["s", "s", "t"]), ("Add", &["t", "b", "y"])]),
        (
            "a permutation that changes nothing",
            false,
            &[("Transpose stay", &["W", "t"]), ("Gemm B", &["x", "t", "b", "y"])],
        ),
        ("turned at the left", false, &[("Transpose turn", &["x", "t"]), ("Gemm A B", &["t", "W", "b", "y"])]),
        (
            "read by something else",
            false,
            &[
                ("Gemm B", &["x", "W", "s"]),
                ("Transpose turn", &["x", "t"]),
                ("MatMul", &["W", "t", "u"]),
                ("Transpose turn", &["u", "v"]),
                ("Sub", &["s", "v", "w"]),
                ("Add", &["w", "v", "z"]),
                ("Add", &["z", "b", "y"]),
            ],
        ),
        ("a bias that is computed", false, &[("Identity", &["b", "c"]), ("Gemm B", &["x", "W", "c", "y"])]),
        (
            "the first factor",
            false,
            &[
                ("Transpose turn", &["x", "t"]),
                ("MatMul", &["W", "t", "u"]),
                ("Transpose turn", &["u", "s"]),
                ("Add", &["s", "b", "y"]),
            ],
        ),
    ];
    for (what, is_packed, nodes) in forms {
        check(&tower, what, is_packed, |model, at| rewrite(model, at, nodes));
    }
    // A bias for each row is none.
    check(&tower, "a matrix of biases", false, |model, at| {
        rewrite(model, at, &[("Gemm B", &["x", "W", "m", "s"]), ("Add", &["s", "b", "y"])]);
        graph(model).initializer.push(floats("rewritten.m", &[1, 1], &[0.0]));
    });
}

/// A whole layer's activation goes with it, in the forms that exporters and optimisers write.
#[test]
fn activations_go_with_their_layers() {
    let tower = Tower::new();
    for what in ["QuickGelu", "apart", "read twice", "another factor"] {
        let mut model = tower.plain.clone();
        let graph = graph(&mut model);
        for layer in 0..2 {
            let gelu = graph.node.iter().position(|node| {
                node.op_type() == "QuickGelu" && node.input[0].starts_with(&format!("resblocks.{layer}."))
            });
            let Some(at) = gelu.filter(|_| what != "QuickGelu") else { continue };
            let (input, output) = (graph.node[at].input[0].clone(), graph.node[at].output[0].clone());
            let name = |part: &str| format!("apart.{layer}.{part}");
            let mut nodes = vec![
                node("Mul", &[&input, "factor"], &name("scaled"), Vec::new()),
                node("Sigmoid", &[&name("scaled")], &name("gate"), Vec::new()),
                node("Mul", &[&name("gate"), &input], &output, Vec::new()),
            ];
            if what == "read twice" {
                nodes[2].output[0] = name("product");
                nodes.push(node("Sub", &[&name("product"), &name("scaled")], &name("less"), Vec::new()));
                nodes.push(node("Add", &[&name("less"), &name("scaled")], &output, Vec::new()));
            }
            graph.node.splice(at..=at, nodes);
        }
        let factor = if what == "another factor" { 1.7 } else { 1.702 };
        graph.initializer.push(floats("factor", &[], &[factor]));
        let bound = tower.bind(&model).unwrap();
        if !runtime() {
            return;
        }
        let mut hidden = model.clone();
        hide_matrices(&mut hidden);
        let (encoder, plain) = (tower.encoder(&bound), tower.encoder(&tower.bind(&hidden).unwrap()));
        assert_eq!(packed(&encoder).len(), 8, "{what}");
        let pixels = tower.pixels(3);
        let [embeds, expected] = [&encoder, &plain].map(|encoder| tower.embeds(encoder, "Task1", &pixels));
        let error = relative_l2(&embeds, &expected);
        assert!(error < 2e-5, "{what}: {error:e}");
    }
}

/// A basis that leaves a matrix alone leaves it in the graph; where few layers are left, promotion stays.
#[test]
fn a_graph_of_which_little_is_recognised_is_promoted() {
    let Some(digits) = families().pop() else { return };
    let mut model = support::onnx::decode(digits.graph.file().path());
    let kept = model.clone();
    hide_matrices(&mut model);
    // One layer as it was.
    let nodes = &mut graph(&mut model).node;
    let first = kept.graph.as_ref().unwrap().node.iter().find(|node| node.op_type() == "Gemm").unwrap();
    let hidden = nodes.iter_mut().find(|node| node.output == first.output).unwrap();
    hidden.clone_from(first);
    let folder = tempfile::tempdir().unwrap();
    let path = support::onnx::write(&model, folder.path(), "little.onnx");
    let (base, basis) = (digits.model.base(), digits.model.basis());
    let bound = BoundGraph::open(path, base, basis, &BindOptions::default()).unwrap();
    let task = digits.model.weights(&"MNIST".parse().unwrap()).unwrap();
    let exact = digits.over(&bound, Precision::F32).unwrap();
    assert_eq!((packed(&exact).len(), exact.promotion(&task)), (0, PromotionState::Inputs(0)));
    let int8 = digits.over(&bound, Precision::Int8).unwrap();
    assert_eq!((packed(&int8).len(), int8.promotion(&task)), (1, PromotionState::Unneeded));
    let pixels = digits.pixels(2);
    let [a, b] = [&exact, &int8].map(|encoder| encoder.encode_task(&task, &pixels, 2).unwrap());
    assert!(a != b && least_cosine(&a, &b, digits.arch.embed_dim) > 0.999);
}
