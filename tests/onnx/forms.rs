//! Graphs in the forms that exporters, simplifiers and optimisers give them: each runs with the weights of any task as
//! the built graph does, or is refused for the right reason.

mod checks;

use crate::support;
use crate::support::onnx::proto::{ModelProto, TensorProto, TensorType, dimension::Value};
use crate::support::onnx::tower::{
    CLASS, POSITIONS, PROJECTION, Tower, declare_batch, floats, int, integers, maker, mirror, options, reader,
    repeat_token, repeat_token_with_position,
};
use crate::support::onnx::{external, graph, node, parse};
use crate::support::{relative_l2, runtime};
use checks::{check, check_carried, check_mirrored, exported, with_values, without_projection};
use taskbasis::onnx::{BindOptions, BoundGraph, GraphMap, OnnxFile, bind};
use taskbasis::weights::View;
use taskbasis::{BaseFormat, Basis, Bundle, Checkpoint, Encoder, ErrorKind, Format, ModelOptions, Packer, Tensor};

const TASKS: [&str; 3] = ["base", "Task1", "Task0 - Task2@0.5"];

#[test]
fn a_class_token_that_was_repeated_for_a_fixed_batch_is_the_class_token() {
    let tower = Tower::new();
    check(&tower, &tower.bind(&tower.plain).unwrap(), "as it is");
    for batch in [1, 2, 4, 7] {
        for (what, fold) in [
            ("repeated", repeat_token as fn(&Tower, &mut ModelProto, usize)),
            ("repeated with its position", repeat_token_with_position),
        ] {
            let mut model = tower.plain.clone();
            fold(&tower, &mut model, batch);
            // The token tells the number of images, too, where the graph says that any will do.
            for declared in if batch > 1 { &[true, false][..] } else { &[true][..] } {
                if *declared {
                    declare_batch(&mut model, batch as i64);
                }
                let bound = tower.bind(&model).unwrap();
                let sum = &bound.map().tensors["token"].sum;
                assert_eq!(sum[0].parameter, CLASS, "{what}, {batch}");
                assert!(sum.iter().all(|part| part.repeat == (batch > 1).then_some(batch)), "{what}: {sum:?}");
                check(&tower, &bound, what);
                check_carried(&tower, &bound, what);
                // A map of it says the same.
                let path = tower.folder.path().join("map.json");
                bound.map().save(&path, &[]).unwrap();
                let map = GraphMap::open(&path).unwrap();
                assert_eq!(&map, bound.map());
                let (base, basis) = (tower.model.base(), tower.model.basis());
                BoundGraph::with_map(bound.file().clone(), map, base, basis).unwrap();
            }
        }
    }
    // One row that differs is another thing.
    let mut model = tower.plain.clone();
    repeat_token(&tower, &mut model, 3);
    let token = graph(&mut model).initializer.last_mut().unwrap().raw_data.as_mut().unwrap();
    token[16 * 4 * 2] ^= 1;
    assert_eq!(tower.bind(&model).unwrap_err().tensor_name(), Some(CLASS));
}

#[test]
fn a_map_cannot_repeat_without_end() {
    let tower = Tower::new();
    let mut model = tower.plain.clone();
    repeat_token(&tower, &mut model, 2);
    let bound = tower.bind(&model).unwrap();
    for repeat in [0, 1, 3, usize::MAX] {
        let mut map = bound.map().clone();
        map.tensors["token"].sum = vec![View { repeat: Some(repeat), ..View::whole(CLASS) }];
        let (base, basis) = (tower.model.base(), tower.model.basis());
        let error = BoundGraph::with_map(bound.file().clone(), map, base, basis).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Mismatch, "{repeat}: {error}");
    }
}

/// Rows of zeros that a graph has for reasons of its own are no parameter many times over.
#[test]
fn zeros_of_the_graph_are_no_weights() {
    let tower = Tower::new();
    let base = with_values(&tower, |name, values| {
        if name.ends_with("ln_post.bias") {
            values.fill(0.0);
        }
    });
    let mut model = exported(&tower, &base);
    let at = reader(graph(&mut model), POSITIONS);
    let sum = graph(&mut model).node[at].output[0].clone();
    graph(&mut model).node[at].output[0] = "unpadded".into();
    graph(&mut model).node.insert(at + 1, node("Add", &["unpadded", "nothing"], &sum, Vec::new()));
    graph(&mut model).initializer.push(floats("nothing", &[5, 16], &[0.0; 80]));
    let map = bind(&parse(&model), &base, &BindOptions::default()).unwrap();
    assert!(!map.tensors.contains_key("nothing") && map.tensors.contains_key("visual.ln_post.bias"));
}

#[test]
fn names_left_out_are_no_values() {
    let tower = Tower::new();
    let mut model = tower.plain.clone();
    let nodes = &mut graph(&mut model).node;
    // An early node that leaves an input out, a late one that leaves outputs out.
    nodes.iter_mut().find(|node| node.op_type() == "Conv").unwrap().input.push(String::new());
    let norms = nodes.iter_mut().filter(|node| node.op_type() == "LayerNormalization");
    norms.for_each(|node| node.output.extend([String::new(), String::new()]));
    check(&tower, &tower.bind(&model).unwrap(), "left out");
}

#[test]
fn nodes_out_of_order_are_put_in_order() {
    let tower = Tower::new();
    let mut reversed = tower.plain.clone();
    graph(&mut reversed).node.reverse();
    let bound = tower.bind(&reversed).unwrap();
    check(&tower, &bound, "reversed");
    check_carried(&tower, &bound, "reversed");
    // What is written is in order whatever was read.
    let weights = tower.model.weights(&"Task1".parse().unwrap()).unwrap();
    let path = tower.folder.path().join("task.onnx");
    bound.write(&weights.in_layout(bound.layout()).get().unwrap(), &path, &[]).unwrap();
    let written = support::onnx::decode(&path).graph.unwrap();
    let mut known: Vec<&str> = written.input.iter().map(|port| port.name()).collect();
    known.extend(written.initializer.iter().map(|tensor| tensor.name()));
    for node in &written.node {
        assert!(node.input.iter().all(|name| known.contains(&name.as_str())), "{}", node.name());
        known.extend(node.output.iter().map(String::as_str));
    }
    // Half floats as converters write them: the casts of the weights behind everything.
    let mut half_weights = tower.plain.clone();
    support::onnx::half_weights(&mut half_weights);
    let casts: Vec<_> = graph(&mut half_weights).node.extract_if(.., |node| node.op_type() == "Cast").collect();
    graph(&mut half_weights).node.extend(casts);
    tower.bind(&half_weights).unwrap();
    // A circle is an error.
    let mut circle = tower.plain.clone();
    let at = maker(graph(&mut circle), "tokens");
    let last = graph(&mut circle).node.last().unwrap().output[0].clone();
    graph(&mut circle).node[at].input.push(last);
    let error = tower.bind(&circle).unwrap_err();
    assert!(error.kind() == ErrorKind::Format && error.to_string().contains("circle"), "{error}");
}

#[test]
fn branches_may_share_their_weights() {
    let tower = Tower::new();
    let mut model = tower.plain.clone();
    mirror(&mut model);
    let bound = tower.bind(&model).unwrap();
    let plain = tower.bind(&tower.plain).unwrap().map().tensors.len();
    assert_eq!(bound.map().tensors.len(), plain);
    check_mirrored(&tower, &bound);
    // Exporters that fold transpositions give each branch its own copies.
    let graph = graph(&mut model);
    for tensor in graph.initializer.clone().into_iter().filter(|tensor| tensor.name().starts_with("visual.")) {
        let copy = format!("{}.copy", tensor.name());
        for node in graph.node.iter_mut().filter(|node| node.name().starts_with("right/")) {
            node.input.iter_mut().filter(|name| *name == tensor.name()).for_each(|name| name.clone_from(&copy));
        }
        graph.initializer.push(TensorProto { name: Some(copy), ..tensor });
    }
    let copied = tower.bind(&model).unwrap();
    assert_eq!((copied.map().tensors.len(), copied.map().repeated.len()), (2 * plain, plain));
    check_mirrored(&tower, &copied);
}

#[test]
fn an_output_of_symbolic_width_is_as_wide_as_it_is() {
    let tower = Tower::new();
    let mut symbolic = tower.plain.clone();
    let tensor = graph(&mut symbolic).output[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    tensor.shape.as_mut().unwrap().dim[1].value = None;
    check(&tower, &tower.bind(&symbolic).unwrap(), "symbolic");

    let allowed = BindOptions { missing: vec![PROJECTION.into()], ..BindOptions::default() };
    let mut model = without_projection(&tower);
    for hides_its_width in [false, true] {
        if hides_its_width {
            // Through a shape that is only known in a run.
            let graph = graph(&mut model);
            let (output, pixels) = (graph.output[0].name().to_owned(), graph.input[0].name().to_owned());
            let at = maker(graph, &output);
            graph.node[at].output[0] = "pooled".into();
            let first = vec![int("start", 0), int("end", 1)];
            graph.node.push(node("Shape", &[&pixels], "images", first));
            graph.node.push(node("Concat", &["images", "rest"], "extents", vec![int("axis", 0)]));
            graph.node.push(node("Reshape", &["pooled", "extents"], &output, Vec::new()));
            graph.initializer.push(integers("rest", &[-1]));
        }
        let bound = tower.bind_with(&model, &allowed).unwrap();
        assert_eq!(bound.beyond(), [PROJECTION]);
        if !runtime() {
            continue;
        }
        let (encoder, pixels) = (tower.encoder(&bound), tower.pixels(3));
        let (w, e) = (tower.arch.width, tower.arch.embed_dim);
        assert_eq!(encoder.arch().embed_dim, w);
        for task in TASKS {
            let pooled = tower.embeds(&encoder, task, &pixels);
            let weights = tower.model.weights(&task.parse().unwrap()).unwrap().get().unwrap();
            let projection = weights.get(PROJECTION).unwrap();
            let times = |row: &[f32], c: usize| row.iter().enumerate().map(|(r, v)| v * projection[r * e + c]).sum();
            let projected: Vec<f32> = pooled.chunks(w).flat_map(|row| (0..e).map(move |c| times(row, c))).collect();
            let error = relative_l2(&projected, &tower.expected(task, &pixels));
            assert!(error < 1e-5, "{task}: {error:e}");
        }
    }
    // Not one embedding for each image.
    let mut tokens = tower.plain.clone();
    let stream = "positions".to_owned();
    let port = &mut graph(&mut tokens).output[0];
    port.name = Some(stream);
    let tensor = port.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    let dim = tensor.shape.as_mut().unwrap().dim[0].clone();
    tensor.shape.as_mut().unwrap().dim = vec![dim; 3];
    let everything = tower.model.base().image_tower().map(|(name, _)| name.to_owned()).collect();
    let bound = tower.bind_with(&tokens, &BindOptions { missing: everything, ..BindOptions::default() }).unwrap();
    if runtime() {
        let error = Encoder::with_graph(&tower.arch, &bound, &options()).unwrap_err();
        assert!(error.to_string().contains("not one embedding for each image"), "{error}");
    }
}

/// No option and no hint leads to a run with the base's values of what a task changes.
#[test]
fn a_parameter_may_be_missing_only_where_nothing_is_lost_in_silence() {
    let tower = Tower::new();
    let allow = |name: &str| BindOptions { missing: vec![name.into()], ..BindOptions::default() };
    // Held in a form that nothing knows: one value off, or times two.
    for name in [CLASS, "visual.conv1.weight", "visual.transformer.resblocks.1.mlp.c_fc.weight", PROJECTION] {
        let mut model = tower.plain.clone();
        let tensor = graph(&mut model).initializer.iter_mut().find(|tensor| tensor.name() == name).unwrap();
        let values = tower.values(name).iter().map(|value| value * 2.0).collect::<Vec<_>>();
        *tensor = floats(name, &tensor.dims.clone(), &values);
        let refused = tower.bind(&model).unwrap_err();
        assert!(!refused.to_string().contains("allow"), "{refused}");
        let error = tower.bind_with(&model, &allow(name)).unwrap_err();
        assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Mismatch, Some(name)), "{error}");
        assert!(error.to_string().contains("tasks change this parameter"), "{error}");
        // Where no task changes it, it stays the base's.
        let (base, path) = (tower.model.base(), tower.write(&model, "form.onnx"));
        let (whole, copy) = (tower.folder.path().join("basis"), tempfile::tempdir().unwrap());
        support::bundle::write_without(&whole, &[name], &copy.path().join("basis"));
        let other = Basis::open(copy.path().join("basis")).unwrap();
        let kept = BoundGraph::open(&path, base, Some(&other), &allow(name)).unwrap();
        assert!(kept.beyond().is_empty());
        // Weights of the basis that changes it do not fit it then.
        let task = tower.model.weights(&"Task1".parse().unwrap()).unwrap();
        let error = task.in_layout(kept.layout()).get().unwrap_err();
        assert_eq!((error.kind(), error.tensor_name()), (ErrorKind::Mismatch, Some(name)), "{error}");
    }
    // The projection, folded into something that comes after the pooled features.
    let mut model = without_projection(&tower);
    let output = graph(&mut model).output[0].name().to_owned();
    let at = maker(graph(&mut model), &output);
    graph(&mut model).node[at].output[0] = "pooled".into();
    graph(&mut model).node.push(node("MatMul", &["pooled", "folded"], &output, Vec::new()));
    graph(&mut model).initializer.push(floats("folded", &[16, 12], &vec![0.25; 192]));
    let error = tower.bind_with(&model, &allow(PROJECTION)).unwrap_err();
    assert!(error.to_string().contains("`folded`"), "{error}");
}

#[test]
fn a_graph_that_normalises_its_pixels_is_refused() {
    let tower = Tower::new();
    for (ops, said) in [(&["Sub", "Div"][..], "Sub, Div"), (&["Mul"], "Mul"), (&["Cast", "Transpose", "Add"], "Add")] {
        let mut model = tower.plain.clone();
        let graph = graph(&mut model);
        let pixels = graph.input[0].name().to_owned();
        let first = reader(graph, &pixels);
        let mut value = pixels.clone();
        let mut nodes = Vec::new();
        for (i, op) in ops.iter().enumerate() {
            let made = format!("prepared{i}");
            let attributes = if *op == "Cast" { vec![int("to", TensorType::Float as i64)] } else { Vec::new() };
            let two = [value.as_str(), "mean"];
            let inputs = if attributes.is_empty() && *op != "Transpose" { &two[..] } else { &two[..1] };
            nodes.push(node(op, inputs, &made, attributes));
            value = made;
        }
        graph.node[first].input[0] = value;
        graph.node.splice(0..0, nodes);
        graph.initializer.push(floats("mean", &[1, 3, 1, 1], &[0.5, 0.25, 0.75]));
        let error = tower.bind(&model).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.to_string().contains(&format!("got {said}")), "{error}");
        // Nor with a map.
        let file = std::sync::Arc::new(OnnxFile::open(tower.write(&model, "form.onnx")).unwrap());
        let map = bind(&file, tower.model.base(), &BindOptions::default()).unwrap();
        assert!(BoundGraph::with_map(file, map, tower.model.base(), tower.model.basis()).is_err());
    }
    // Casts and layouts change nothing.
    let mut model = tower.plain.clone();
    let graph = graph(&mut model);
    let pixels = graph.input[0].name().to_owned();
    let first = reader(graph, &pixels);
    graph.node[first].input[0] = "same".into();
    let to = vec![int("to", TensorType::Float as i64)];
    graph.node.splice(0..0, [node("Cast", &[&pixels], "cast", to), node("Identity", &["cast"], "same", Vec::new())]);
    check(&tower, &tower.bind(&model).unwrap(), "cast");
}

#[test]
fn a_graph_that_moves_its_pixels_is_told() {
    let tower = Tower::new();
    assert!(tower.bind(&tower.plain).unwrap().moved().is_empty());
    let mut model = tower.plain.clone();
    let graph = graph(&mut model);
    let pixels = graph.input[0].name().to_owned();
    let first = reader(graph, &pixels);
    graph.node[first].input[0] = "swapped".into();
    graph.node.insert(0, node("Gather", &[&pixels, "blue_first"], "swapped", vec![int("axis", 1)]));
    graph.initializer.push(integers("blue_first", &[2, 1, 0]));
    assert_eq!(tower.bind(&model).unwrap().moved(), ["Gather"]);
    // The mean of an image and its mirror image sees the image itself too.
    let mut mirrored = tower.plain.clone();
    mirror(&mut mirrored);
    assert!(tower.bind(&mirrored).unwrap().moved().is_empty());
}

#[test]
fn refusals_say_why() {
    let tower = Tower::new();
    let linear = "visual.transformer.resblocks.0.mlp.c_fc.weight";
    let says = |model: &ModelProto, said: &str| {
        let error = tower.bind(model).unwrap_err();
        assert!(error.to_string().contains(said), "{error}");
        assert!(error.path().is_some() && !error.to_string().contains("allow-missing"), "{error}");
    };
    let mut quantised = tower.plain.clone();
    let constants = &mut graph(&mut quantised).initializer;
    let at = constants.iter().position(|tensor| tensor.name() == linear).unwrap();
    constants[at].name = Some("eight".into());
    constants[at].data_type = Some(TensorType::Int8 as i32);
    constants[at].raw_data = Some(vec![3; 16 * 24]);
    constants.push(floats("step", &[], &[0.01]));
    graph(&mut quantised).node.insert(0, node("DequantizeLinear", &["eight", "step"], linear, Vec::new()));
    says(&quantised, "quantised (DequantizeLinear, i8)");

    let mut rewritten = tower.plain.clone();
    let conv = graph(&mut rewritten).node.iter_mut().find(|node| node.op_type() == "Conv").unwrap();
    conv.domain = Some("com.microsoft.nchwc".into());
    let weight = graph(&mut rewritten).initializer.iter_mut().find(|tensor| tensor.dims.len() == 4).unwrap();
    weight.raw_data.as_mut().unwrap().rotate_left(4);
    says(&rewritten, "EXTENDED");

    let mut folded = tower.plain.clone();
    for tensor in &mut graph(&mut folded).initializer {
        if tensor.name().ends_with("blocks.0.ln_2.weight") || tensor.name() == linear {
            let raw = tensor.raw_data.as_ref().unwrap();
            let values = raw.chunks_exact(4).map(|value| 1.5 * f32::from_le_bytes(value.try_into().unwrap()));
            *tensor = floats(tensor.name(), &tensor.dims, &values.collect::<Vec<_>>());
        }
    }
    says(&folded, "folded into the layer after it");

    for (data_type, name) in [(TensorType::Bfloat16, "bf16"), (TensorType::Uint8, "u8"), (TensorType::Double, "f64")] {
        let mut ports = tower.plain.clone();
        let port = &mut graph(&mut ports).input[0];
        port.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap().elem_type = Some(data_type as i32);
        says(&ports, &format!("got {name} [?, 3, 4, 4]"));
    }
    // A bias of zeros that nothing adds.
    let bias = "visual.transformer.resblocks.0.attn.out_proj.bias";
    let base = with_values(&tower, |name, values| {
        if name == bias {
            values.fill(0.0);
        }
    });
    let mut dropped = exported(&tower, &base);
    let at = reader(graph(&mut dropped), bias);
    graph(&mut dropped).node[at].input.pop();
    graph(&mut dropped).initializer.retain(|tensor| tensor.name() != bias);
    let error = bind(&parse(&dropped), &base, &BindOptions::default()).unwrap_err();
    assert!(error.tensor_name() == Some(bias) && error.to_string().contains("are zero in the base"), "{error}");

    // A base of texts alone.
    let text = Tensor::from_f32(&[1.0; 4], &[4], "text").unwrap();
    let text =
        Checkpoint::from_tensors("text", Format::Safetensors, vec![("ln_final.weight".to_owned(), text)]).unwrap();
    let error = bind(&parse(&tower.plain), &text, &BindOptions::default()).unwrap_err();
    assert!(error.to_string().contains("no image encoder"), "{error}");
}

#[test]
fn pointers_of_git_lfs_are_called_that() {
    let tower = Tower::new();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n";
    let path = tower.folder.path().join("pointer.onnx");
    std::fs::write(&path, pointer).unwrap();
    let error = OnnxFile::open(&path).unwrap_err();
    assert!(error.path() == Some(&path) && error.to_string().contains("git-LFS"), "{error}");
    let mut model = tower.plain.clone();
    graph(&mut model).initializer.retain(|tensor| tensor.data_type() == TensorType::Float as i32);
    external(&mut model, tower.folder.path());
    let data = tower.folder.path().join("weights/model.bin");
    std::fs::write(&data, pointer).unwrap();
    let error = OnnxFile::open(tower.write(&model, "pointed.onnx")).unwrap_err();
    assert!(error.path() == Some(&data) && error.to_string().contains("git-LFS"), "{error}");
}

/// A graph for one image in each run, though it says that any number will do.
#[test]
fn one_image_baked_in_is_said() {
    let tower = Tower::new();
    if !runtime() {
        return;
    }
    let mut model = tower.plain.clone();
    repeat_token(&tower, &mut model, 1);
    let encoder = tower.encoder(&tower.bind(&model).unwrap());
    let task = tower.model.weights(&"Task1".parse().unwrap()).unwrap();
    let pixels = tower.pixels(2);
    let error = encoder.encode_task(&task, &pixels, 2).unwrap_err();
    assert!(error.to_string().contains("--batch 1"), "{error}");
    let one = tower.arch.pixels();
    let found: Vec<f32> = pixels.chunks(one).flat_map(|image| encoder.encode_task(&task, image, 1).unwrap()).collect();
    assert!(relative_l2(&found, &tower.expected("Task1", &pixels)) < 1e-5);
}

/// A graph that gives each image something of the others of its run: no error of ONNX Runtime's tells of it.
#[test]
fn images_of_one_run_are_not_mixed() {
    let tower = Tower::new();
    if !runtime() {
        return;
    }
    let mut model = tower.plain.clone();
    let output = graph(&mut model).output[0].name().to_owned();
    let at = maker(graph(&mut model), &output);
    graph(&mut model).node[at].output[0] = "own".into();
    graph(&mut model).node.push(node("ReduceSum", &["own", "images"], "all", vec![int("keepdims", 1)]));
    graph(&mut model).node.push(node("Add", &["own", "all"], &output, Vec::new()));
    graph(&mut model).initializer.push(integers("images", &[0]));
    let encoder = tower.encoder(&tower.bind(&model).unwrap());
    let task = tower.model.weights(&"Task1".parse().unwrap()).unwrap();
    let (pixels, mut out) = (tower.pixels(3), vec![7.0; 3 * tower.arch.embed_dim]);
    for _ in 0..2 {
        let error = encoder.encode_task_into(&task, &pixels, 3, &mut out).unwrap_err();
        assert!(error.to_string().contains("mixes the images") && error.to_string().contains("--batch 1"), "{error}");
        assert!(out.iter().all(|value| *value == 7.0));
    }
    encoder.encode_task(&task, &pixels[..tower.arch.pixels()], 1).unwrap();
}

/// Values in another file, which is where exporters put them: the optimiser's forms are made all the same.
#[test]
fn values_in_other_files_do_not_keep_a_graph_from_being_optimised() {
    let tower = Tower::new();
    if !runtime() {
        return;
    }
    let mut model = tower.plain.clone();
    // ONNX Runtime wants shapes in the model itself.
    let (shapes, weights): (Vec<_>, Vec<_>) =
        graph(&mut model).initializer.drain(..).partition(|tensor| tensor.data_type() != TensorType::Float as i32);
    graph(&mut model).initializer = weights;
    external(&mut model, tower.folder.path());
    graph(&mut model).initializer.extend(shapes);
    let bound = tower.bind(&model).unwrap();
    check(&tower, &bound, "external");
    let (encoder, trials) = Encoder::with_fastest_graph(&tower.arch, &bound, &tower.model, &options()).unwrap();
    assert!(trials.len() == 3 && trials.iter().all(|trial| trial.result.is_ok()), "{trials:?}");
    let pixels = tower.pixels(2);
    assert!(relative_l2(&tower.embeds(&encoder, "Task1", &pixels), &tower.expected("Task1", &pixels)) < 1e-5);
}

/// Promoted and frozen sessions of graphs with half floats keep clear of what changes the layout, and still run.
#[test]
fn half_floats_are_promoted() {
    let tower = Tower::new();
    let mut model = tower.plain.clone();
    support::onnx::half_weights(&mut model);
    let bound = tower.bind(&model).unwrap();
    if !runtime() {
        return;
    }
    let (encoder, pixels) = (tower.encoder(&bound), tower.pixels(3));
    let task = tower.model.weights(&"Task1".parse().unwrap()).unwrap();
    encoder.promote(&task).unwrap();
    assert!(encoder.is_promoted(&task));
    let error = relative_l2(&tower.embeds(&encoder, "Task1", &pixels), &tower.expected("Task1", &pixels));
    assert!(error < 5e-3, "{error:e}");
    let path = tower.folder.path().join("task.onnx");
    bound.write(&task.in_layout(bound.layout()).get().unwrap(), &path, &[]).unwrap();
    let frozen = crate::support::onnx_file::OnnxFileEncoder::open(&path, &options()).unwrap();
    let error = relative_l2(&frozen.encode(&pixels, 3).unwrap(), &tower.expected("Task1", &pixels));
    assert!(error < 5e-3, "{error:e}");
}
