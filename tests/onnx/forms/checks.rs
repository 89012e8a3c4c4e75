//! What `onnx_forms.rs` compares and makes its graphs with.

use super::*;

/// The graph's embeddings are the built graph's, as inputs and promoted.
pub(crate) fn check(tower: &Tower, graph: &BoundGraph, what: &str) {
    if !runtime() {
        return;
    }
    let (encoder, pixels) = (tower.encoder(graph), tower.pixels(5));
    for task in TASKS {
        let expected = tower.expected(task, &pixels);
        let error = relative_l2(&tower.embeds(&encoder, task, &pixels), &expected);
        assert!(error < 1e-5, "{what}, {task}: {error:e}");
        encoder.promote(&tower.model.weights(&task.parse().unwrap()).unwrap()).unwrap();
        let error = relative_l2(&tower.embeds(&encoder, task, &pixels), &expected);
        assert!(error < 1e-5, "{what}, {task}, promoted: {error:e}");
    }
}

/// Checks a graph that a bundle carries.
pub(crate) fn check_carried(tower: &Tower, graph: &BoundGraph, what: &str) {
    let (base, basis) = (tower.model.base(), tower.model.basis().unwrap());
    let hints = tower.arch.hints();
    let mut packer = Packer::new(base, basis, hints).unwrap();
    packer.base_format(BaseFormat::F32).graph(graph).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("carried.taskbasis");
    packer.write(&path, &packer.uniform("f32".parse().unwrap()), &[], &|_| {}).unwrap();
    let bundle = Bundle::open(&path).unwrap();
    assert!(bundle.verify(0, &|_| {}).is_empty());
    if !runtime() {
        return;
    }
    let model = bundle.model(None, &ModelOptions::default()).unwrap();
    let (encoder, pixels) = (Encoder::of_bundle(&bundle, &model, &options()).unwrap(), tower.pixels(5));
    for task in TASKS {
        let weights = model.weights(&task.parse().unwrap()).unwrap();
        let error = relative_l2(&encoder.encode_task(&weights, &pixels, 5).unwrap(), &tower.expected(task, &pixels));
        assert!(error < 1e-5, "{what}, {task}, carried: {error:e}");
    }
}

pub(crate) fn check_mirrored(tower: &Tower, bound: &BoundGraph) {
    if !runtime() {
        return;
    }
    let (pixels, side) = (tower.pixels(3), tower.arch.image_size());
    let mirrored: Vec<f32> = pixels.chunks(side).flat_map(|row| row.iter().rev().copied()).collect();
    let encoder = tower.encoder(bound);
    for task in TASKS {
        let (left, right) = (tower.expected(task, &pixels), tower.expected(task, &mirrored));
        let mean: Vec<f32> = left.iter().zip(&right).map(|(a, b)| (a + b) / 2.0).collect();
        assert!(relative_l2(&left, &mean) > 1e-3, "the images are not symmetric");
        let error = relative_l2(&tower.embeds(&encoder, task, &pixels), &mean);
        assert!(error < 1e-5, "{task}: {error:e}");
    }
}

/// The graph with the last product left out, its output's width a name.
pub(crate) fn without_projection(tower: &Tower) -> ModelProto {
    let mut model = tower.plain.clone();
    let graph = graph(&mut model);
    let output = graph.output[0].name().to_owned();
    let at = maker(graph, &output);
    let pooled = graph.node.remove(at).input[0].clone();
    graph.initializer.retain(|tensor| tensor.name() != PROJECTION);
    let makes = maker(graph, &pooled);
    graph.node[makes].output[0] = output;
    let tensor = graph.output[0].r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
    tensor.shape.as_mut().unwrap().dim[1].value = Some(Value::DimParam("width".into()));
    // No more is said of it than that.
    graph.value_info.clear();
    model
}

/// The base with other values, as `change` makes them.
pub(crate) fn with_values(tower: &Tower, change: impl Fn(&str, &mut Vec<f32>)) -> Checkpoint {
    let tensors = tower.model.base().iter().map(|(name, tensor)| {
        let mut values = tensor.to_f32().unwrap().into_owned();
        change(name, &mut values);
        (name.to_owned(), Tensor::from_f32(&values, tensor.shape(), "made").unwrap())
    });
    Checkpoint::from_tensors("made", Format::Safetensors, tensors.collect::<Vec<_>>()).unwrap()
}

/// The built graph with the weights of this base in it.
pub(crate) fn exported(tower: &Tower, base: &Checkpoint) -> ModelProto {
    let weights = taskbasis::Weights::of_base(base, &taskbasis::ReconstructOptions::default()).unwrap();
    let path = tower.folder.path().join("exported.onnx");
    taskbasis::write_onnx(&tower.arch, &weights, &path, &[]).unwrap();
    support::onnx::decode(&path)
}
