//! Binding is right or refused, never silently wrong.

use crate::support;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::support::onnx::proto::{AttributeProto, AttributeType, ModelProto};
use crate::support::onnx::{GRAPHS, decode, graph, node, parse};
use crate::support::{Random, digits};
use taskbasis::onnx::{BindOptions, BoundGraph, GraphMap, OnnxFile, bind};
use taskbasis::weights::View;
use taskbasis::{Checkpoint, ErrorKind, Format, Tensor};

fn base() -> Option<Checkpoint> {
    Some(Checkpoint::open(digits("base/pickled_module.pt")?).unwrap())
}

fn exports() -> impl Iterator<Item = ModelProto> {
    GRAPHS.iter().filter_map(|graph| digits(graph)).map(|path| decode(&path))
}

/// What every use of a constant is: by node and input.
fn by_use(file: &ModelProto, map: &GraphMap) -> BTreeMap<(String, usize), Vec<View>> {
    let mut all = BTreeMap::new();
    for (name, mapped) in &map.tensors {
        let constant = mapped.constant.as_ref().unwrap_or(name);
        for (i, node) in file.graph.as_ref().unwrap().node.iter().enumerate() {
            for (k, input) in node.input.iter().enumerate() {
                if input == constant && (mapped.uses.is_empty() || mapped.uses.contains(&(i, k))) {
                    // Nodes are known by what they make, whatever is put in between.
                    all.insert((node.output[0].clone(), k), mapped.sum.clone());
                }
            }
        }
    }
    all
}

/// A base of the shapes of `like` whose values the caller chooses, and the constants of a graph with the same values.
fn refill(
    like: &Checkpoint,
    model: &mut ModelProto,
    truth: &GraphMap,
    mut value: impl FnMut(&str, usize) -> Vec<f32>,
) -> Checkpoint {
    let tensors: Vec<(String, Tensor)> = like
        .image_tower()
        .map(|(name, tensor)| {
            (name.to_owned(), Tensor::from_f32(&value(name, tensor.numel()), tensor.shape(), "made").unwrap())
        })
        .collect();
    let base = Checkpoint::from_tensors("made", Format::Safetensors, tensors).unwrap();
    for tensor in &mut graph(model).initializer {
        let Some(mapped) = truth.tensors.get(tensor.name()) else { continue };
        let mut total = vec![0.0f32; tensor.raw_data().len() / 4];
        for view in &mapped.sum {
            let values = view_of(&base, view);
            total.iter_mut().zip(values).for_each(|(total, value)| *total += value);
        }
        tensor.raw_data = Some(total.iter().flat_map(|v| v.to_le_bytes()).collect());
    }
    base
}

/// A plain implementation of views: rows, then a permutation of two dimensions.
fn view_of(base: &Checkpoint, view: &View) -> Vec<f32> {
    let tensor = base.get(&view.parameter).unwrap();
    let values = tensor.to_f32().unwrap();
    let columns: usize = tensor.shape()[1..].iter().product();
    let rows = view.rows.unwrap_or([0, tensor.shape()[0]]);
    let part = &values[rows[0] * columns..rows[1] * columns];
    match view.permute.as_deref() {
        None => part.to_vec(),
        Some([1, 0]) => {
            let count = rows[1] - rows[0];
            (0..columns).flat_map(|c| (0..count).map(move |r| part[r * columns + c])).collect()
        }
        Some(other) => panic!("{other:?}"),
    }
}

#[test]
fn names_tell_the_truth_and_are_not_needed() {
    let Some(base) = base() else { return };
    for mut model in exports() {
        let map = bind(&parse(&model), &base, &BindOptions::default()).unwrap();
        // Where the exporter left a name, it is the name of what was found.
        for (name, mapped) in &map.tensors {
            let canonical = name.starts_with("visual.").then_some(name);
            assert!(canonical.is_none_or(|name| mapped.sum[0].parameter == *name), "{name}");
            assert!(mapped.constant.is_none() && mapped.uses.is_empty());
        }
        let truth = by_use(&model, &map);
        let mut random = Random(3);
        support::onnx::rename(&mut model, &mut || random.uniform().to_bits().into());
        assert_eq!(by_use(&model, &bind(&parse(&model), &base, &BindOptions::default()).unwrap()), truth);
    }
}

/// Bases with all that makes values equal (untrained normalisations, zero biases, layers alike), in graphs with equal
/// constants merged, names permuted and matrices stored the other way round.
#[test]
fn equal_values_are_told_apart_by_structure_or_refused() {
    let Some(original) = base() else { return };
    let (mut bound, mut refused) = (0, 0);
    for seed in 1..=24u64 {
        for mut model in exports() {
            let mut random = Random(seed * 77);
            let truth = bind(&parse(&model), &original, &BindOptions::default()).unwrap();
            let expected = by_use(&model, &truth);
            // Every fourth base also has layers that are copies of each other.
            let alike = seed % 4 == 0;
            let mut drawn: HashMap<String, Vec<f32>> = HashMap::new();
            let base = refill(&original, &mut model, &truth, |name, count| {
                let layer = name.strip_prefix("visual.transformer.resblocks.").and_then(|rest| rest.split_once('.'));
                if name.ends_with("bias") && seed % 3 != 0 {
                    return vec![0.0; count];
                }
                if name.contains("ln_") && name.ends_with("weight") && seed % 2 == 0 {
                    return vec![1.0; count];
                }
                match layer.filter(|_| alike) {
                    Some((_, rest)) => {
                        drawn.entry(rest.to_owned()).or_insert_with(|| Random(count as u64 + seed).many(count)).clone()
                    }
                    None => random.many(count),
                }
            });
            if seed % 5 != 0 {
                merge_equal(&mut model);
            }
            transpose_some(&mut model, &mut random);
            // Names that lie: each initializer takes another one's.
            permute_names(&mut model, &mut random);
            match bind(&parse(&model), &base, &BindOptions::default()) {
                Ok(map) => {
                    bound += 1;
                    let found = by_use(&model, &map);
                    for (at, parts) in &expected {
                        let got = found.iter().find(|((output, k), _)| {
                            output == &at.0 && *k == at.1 || output == &format!("{}.{}.turned", at.0, at.1)
                        });
                        let parameters = |parts: &[View]| {
                            parts.iter().map(|part| (part.parameter.clone(), part.rows)).collect::<Vec<_>>()
                        };
                        assert_eq!(
                            got.map(|(_, parts)| parameters(parts)),
                            Some(parameters(parts)),
                            "seed {seed}: {at:?}"
                        );
                    }
                }
                Err(error) => {
                    refused += 1;
                    assert!(alike, "seed {seed}: {error}");
                    assert_eq!(error.kind(), ErrorKind::Mismatch);
                }
            }
        }
    }
    println!("{bound} bound, {refused} refused");
    assert!(bound >= 36, "{bound} bound, {refused} refused");
}

/// What exporters do to equal constants.
fn merge_equal(model: &mut ModelProto) {
    let graph = graph(model);
    let mut first: HashMap<(Vec<i64>, Vec<u8>), String> = HashMap::new();
    let mut renamed = HashMap::new();
    graph.initializer.retain(|tensor| {
        let key = (tensor.dims.clone(), tensor.raw_data().to_vec());
        let name = first.entry(key).or_insert_with(|| tensor.name().to_owned());
        if name != tensor.name() {
            renamed.insert(tensor.name().to_owned(), name.clone());
        }
        name == tensor.name()
    });
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input) {
        if let Some(name) = renamed.get(input) {
            input.clone_from(name);
        }
    }
}

/// Half of the matrices that one node reads are stored transposed, with a node that turns them back.
fn transpose_some(model: &mut ModelProto, random: &mut Random) {
    let graph = graph(model);
    let mut turns = Vec::new();
    for tensor in &mut graph.initializer {
        let name = tensor.name().to_owned();
        let readers: Vec<_> = graph
            .node
            .iter()
            .enumerate()
            .flat_map(|(i, node)| {
                let name = &name;
                node.input.iter().enumerate().filter(move |(_, input)| *input == name).map(move |(k, _)| (i, k))
            })
            .collect();
        let (&[(i, k)], &[rows, columns]) = (readers.as_slice(), tensor.dims.as_slice()) else { continue };
        if random.uniform() < 0.0 || graph.node[i].op_type() != "MatMul" {
            continue;
        }
        let values: Vec<[u8; 4]> = tensor.raw_data().chunks_exact(4).map(|b| b.try_into().unwrap()).collect();
        let (rows, columns) = (rows as usize, columns as usize);
        let turned = (0..columns).flat_map(|c| (0..rows).flat_map(move |r| [(r, c)]));
        tensor.raw_data = Some(turned.flat_map(|(r, c)| values[r * columns + c]).collect());
        tensor.dims.reverse();
        let output = format!("{}.{k}.turned", graph.node[i].output[0]);
        let perm = AttributeProto {
            name: Some("perm".into()),
            ints: vec![1, 0],
            r#type: Some(AttributeType::Ints as i32),
            ..AttributeProto::default()
        };
        turns.push(node("Transpose", &[&name], &output, vec![perm]));
        graph.node[i].input[k] = output;
    }
    graph.node.splice(0..0, turns);
}

/// Fused projections stored in pieces, q, k and v or two of them together, which a node puts side by side.
#[test]
fn projections_in_pieces_are_found() {
    let Some(base) = base() else { return };
    let mut pieces = 0;
    for seed in 1..=12u64 {
        for mut model in exports() {
            let mut random = Random(seed * 131);
            let truth = bind(&parse(&model), &base, &BindOptions::default()).unwrap();
            let mut expected = Vec::new();
            for (name, mapped) in &truth.tensors {
                if let [View { parameter, rows: None, permute, .. }] = mapped.sum.as_slice()
                    && parameter.contains(".attn.in_proj_")
                    && random.uniform() > 0.0
                {
                    let axis = permute.as_ref().map_or(0, |order| order.iter().position(|d| *d == 0).unwrap());
                    let thirds = [&[1, 1, 1][..], &[2, 1], &[1, 2]][random.uniform().to_bits() as usize % 3];
                    for (piece, rows) in split(&mut model, name, axis, thirds) {
                        expected.push((piece, View { rows: Some(rows), ..mapped.sum[0].clone() }));
                    }
                }
            }
            // Names that lie, but for the pieces', which are looked for.
            let found = bind(&parse(&model), &base, &BindOptions::default()).unwrap();
            for (piece, view) in &expected {
                assert_eq!(found.tensors[piece.as_str()].sum, std::slice::from_ref(view), "seed {seed}: {piece}");
            }
            pieces += expected.len();
            permute_names(&mut model, &mut random);
            let renamed = bind(&parse(&model), &base, &BindOptions::default()).unwrap();
            let views = |map: &GraphMap| {
                let mut all: Vec<String> = map.tensors.values().map(|mapped| format!("{:?}", mapped.sum)).collect();
                all.sort();
                all
            };
            assert_eq!(views(&renamed), views(&found), "seed {seed}");
        }
    }
    assert!(pieces > 50, "{pieces}");
}

/// Cuts a constant along an axis into pieces of this many thirds each, put side by side again by a node; gives the
/// pieces with their places.
fn split(model: &mut ModelProto, name: &str, axis: usize, thirds: &[usize]) -> Vec<(String, [usize; 2])> {
    let graph = graph(model);
    let at = graph.initializer.iter().position(|tensor| tensor.name() == name).unwrap();
    let whole = graph.initializer.remove(at);
    let dims: Vec<usize> = whole.dims.iter().map(|n| *n as usize).collect();
    let (third, inner) = (dims[axis] / 3, 4 * dims[axis + 1..].iter().product::<usize>());
    let (mut start, mut pieces) = (0, Vec::new());
    for (i, count) in thirds.iter().enumerate() {
        let end = start + count * third;
        let rows = whole.raw_data().chunks_exact(dims[axis] * inner);
        let mut piece = whole.clone();
        piece.name = Some(format!("{name}.{i}"));
        piece.dims[axis] = (count * third) as i64;
        piece.raw_data = Some(rows.flat_map(|row| row[start * inner..end * inner].to_vec()).collect());
        pieces.push((piece.name().to_owned(), [start, end]));
        graph.initializer.push(piece);
        start = end;
    }
    let axis = AttributeProto {
        name: Some("axis".into()),
        i: Some(axis as i64),
        r#type: Some(AttributeType::Int as i32),
        ..AttributeProto::default()
    };
    let names: Vec<&str> = pieces.iter().map(|(name, _)| name.as_str()).collect();
    graph.node.insert(0, node("Concat", &names, name, vec![axis]));
    pieces
}

fn permute_names(model: &mut ModelProto, random: &mut Random) {
    let graph = graph(model);
    let names: Vec<String> = graph.initializer.iter().map(|tensor| tensor.name().to_owned()).collect();
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by_cached_key(|_| random.uniform().to_bits());
    let new: HashMap<&str, &String> = names.iter().zip(&order).map(|(old, to)| (old.as_str(), &names[*to])).collect();
    for tensor in &mut graph.initializer {
        tensor.name = Some(new[tensor.name()].clone());
    }
    for input in graph.node.iter_mut().flat_map(|node| &mut node.input) {
        if let Some(name) = new.get(input.as_str()) {
            *input = (*name).clone();
        }
    }
}

#[test]
fn one_weight_that_differs_is_refused_by_name() {
    let Some(base) = base() else { return };
    let mut random = Random(5);
    for model in exports() {
        let truth = bind(&parse(&model), &base, &BindOptions::default()).unwrap();
        for (name, mapped) in &truth.tensors {
            let mut broken = model.clone();
            let tensor = graph(&mut broken).initializer.iter_mut().find(|tensor| tensor.name() == name).unwrap();
            let raw = tensor.raw_data.as_mut().unwrap();
            let at = (random.uniform().abs() * (raw.len() / 4) as f32) as usize % (raw.len() / 4) * 4;
            let value = f32::from_le_bytes(raw[at..at + 4].try_into().unwrap());
            raw[at..at + 4].copy_from_slice(&(value * 1.01 + 1e-4).to_le_bytes());
            let error = bind(&parse(&broken), &base, &BindOptions::default()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch);
            let parameter = error.tensor_name().unwrap().to_owned();
            assert!(mapped.sum.iter().any(|part| part.parameter == parameter), "{name}: {error}");
            // A missing weight is an error, unless it is allowed by name.
            let allowed = BindOptions { missing: vec![parameter], ..BindOptions::default() };
            bind(&parse(&broken), &base, &allowed).unwrap();
        }
    }
}

#[test]
fn other_models_and_odd_graphs_are_refused() {
    let Some(base) = base() else { return };
    let Some(other) = digits("finetuned/MNIST.pt") else { return };
    let other = Checkpoint::open(other).unwrap();
    for mut model in exports() {
        let error = bind(&parse(&model), &other, &BindOptions::default()).unwrap_err();
        assert!(error.kind() == ErrorKind::Mismatch && error.to_string().contains("lacks"), "{error}");

        for (options, what) in [
            (
                BindOptions { output: Some("image_embed".into()), ..BindOptions::default() },
                "Did you mean `image_embeds`",
            ),
            (BindOptions { pixels: Some("pixels".into()), ..BindOptions::default() }, "pixel_values"),
        ] {
            let error = bind(&parse(&model), &base, &options).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }

        // A second output that is not the embeddings, and a part of the graph that needs something else: both are left
        // out.
        let before = graph(&mut model).node.len();
        graph(&mut model).node.push(node("Sin", &["text"], "text_embeds", Vec::new()));
        let port = graph(&mut model).input[0].clone();
        graph(&mut model).input.push(crate::support::onnx::proto::ValueInfoProto { name: Some("text".into()), ..port });
        let port = graph(&mut model).output[0].clone();
        graph(&mut model)
            .output
            .insert(0, crate::support::onnx::proto::ValueInfoProto { name: Some("text_embeds".into()), ..port });
        let bound = BoundGraph::bind(Arc::new(parse(&model)), &base, None, &BindOptions::default()).unwrap();
        assert_eq!((bound.output().name.as_str(), bound.pixels().name.as_str()), ("image_embeds", "pixel_values"));
        assert_eq!(bound.file().nodes(), before + 1);
        // A parameter that the graph holds twice: the second copy is used beside the first.
        let mut twice = model.clone();
        let copied = graph(&mut twice).initializer.iter().find(|t| t.dims.len() == 4).unwrap().clone();
        let name = copied.name().to_owned();
        graph(&mut twice)
            .initializer
            .push(crate::support::onnx::proto::TensorProto { name: Some("copy".into()), ..copied });
        let conv = graph(&mut twice).node.iter().position(|node| node.input.contains(&name)).unwrap();
        let mut second = graph(&mut twice).node[conv].clone();
        let made = second.output[0].clone();
        second.input[1] = "copy".into();
        second.output[0] = "second".into();
        graph(&mut twice).node.insert(conv + 1, second);
        let added = node("Add", &[&made, "second"], "both", Vec::new());
        graph(&mut twice).node.insert(conv + 2, added);
        for input in graph(&mut twice).node[conv + 3..].iter_mut().flat_map(|node| &mut node.input) {
            if *input == made {
                *input = "both".into();
            }
        }
        let error = bind(&parse(&twice), &base, &BindOptions::default()).unwrap_err();
        assert!(error.to_string().contains("more than once") && error.to_string().contains("conv1"), "{error}");
        let allowed = BindOptions { repeated: vec!["visual.conv1.weight".into()], ..BindOptions::default() };
        bind(&parse(&twice), &base, &allowed).unwrap();
    }
}

#[test]
fn hostile_files_are_errors() {
    let Some(path) = digits(GRAPHS[0]) else { return };
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("inside")).unwrap();
    std::fs::write(folder.path().join("secret"), vec![0; 1 << 20]).unwrap();
    for location in ["../secret", "/etc/passwd", "inside/../../secret", "..", "", "a\\..\\b", "missing"] {
        let mut model = decode(&path);
        let inside = folder.path().join("inside");
        std::fs::remove_dir_all(&inside).unwrap();
        std::fs::create_dir(&inside).unwrap();
        support::onnx::external(&mut model, &inside);
        for tensor in &mut graph(&mut model).initializer {
            tensor.external_data[0].value = Some(location.into());
        }
        let error = OnnxFile::open(support::onnx::write(&model, &inside, "m.onnx")).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Format | ErrorKind::Io), "{location}: {error}");
    }
    for (entry, value) in
        [(1, "-1"), (1, "18446744073709551615"), (1, "999999999"), (2, "1"), (2, "x"), (1, "9223372036854775807")]
    {
        let mut model = decode(&path);
        let inside = tempfile::tempdir().unwrap();
        support::onnx::external(&mut model, inside.path());
        graph(&mut model).initializer[3].external_data[entry].value = Some(value.into());
        let error = OnnxFile::open(support::onnx::write(&model, inside.path(), "m.onnx")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Format, "{value}: {error}");
        assert_eq!(error.tensor_name(), graph(&mut model).initializer[3].name.as_deref());
    }
    for dims in [vec![-1], vec![i64::MAX, 4], vec![3; 100], vec![0], vec![65]] {
        let mut model = decode(&path);
        graph(&mut model).initializer[2].dims = dims.clone();
        let parsed =
            OnnxFile::parse(Arc::new(taskbasis::Mapping::from_vec(prost::Message::encode_to_vec(&model), "m.onnx")));
        assert_eq!(parsed.unwrap_err().kind(), ErrorKind::Format, "{dims:?}");
    }
    // Cut or changed anywhere: an error or a graph, never a crash.
    let bytes = std::fs::read(&path).unwrap();
    let open = |bytes: Vec<u8>| OnnxFile::parse(Arc::new(taskbasis::Mapping::from_vec(bytes, "m.onnx")));
    for end in (0..bytes.len()).step_by(bytes.len() / 200) {
        assert!(open(bytes[..end].to_vec()).is_err(), "{end}");
    }
    let mut random = Random(11);
    for _ in 0..300 {
        let mut bytes = bytes.clone();
        for _ in 0..4 {
            let at = (random.uniform().abs() * bytes.len() as f32) as usize % bytes.len();
            bytes[at] = random.uniform().to_bits() as u8;
        }
        let _ = open(bytes);
    }
    // Graphs in graphs in graphs.
    let mut nested = Vec::new();
    for _ in 0..100 {
        let field = |number: u8, content: &[u8]| {
            let mut bytes = vec![number << 3 | 2];
            let mut length = content.len();
            while length >= 128 {
                bytes.push(length as u8 | 128);
                length >>= 7;
            }
            bytes.push(length as u8);
            bytes.extend(content);
            bytes
        };
        nested = field(1, &field(5, &field(6, &nested)));
    }
    let mut model = vec![7 << 3 | 2];
    let mut length = nested.len();
    while length >= 128 {
        model.push(length as u8 | 128);
        length >>= 7;
    }
    model.push(length as u8);
    model.extend(nested);
    assert!(open(model).unwrap_err().to_string().contains("nested"));
}
