//! Numbers that are not finite: an error that names the first one, whichever way they would have come out.

use crate::support;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::support::bundle::{Family, tiny_files};
use crate::support::program::{fail, succeed, text};
use crate::support::runtime;
use taskbasis::{
    Arch, Basis, Checkpoint, Encoder, EncoderOptions, Error, ErrorKind, Method, Model, ModelOptions, Promotion,
    Residency, Scope, TaskExpr, Tensor, Weights, write_onnx,
};

const PARAMETER: &str = "visual.transformer.resblocks.0.mlp.c_fc.bias";

/// Writes `value` over element 3 of a tensor of the checkpoint at `path`.
fn spoil(path: &Path, tensor: &str, value: f32) {
    let place = Checkpoint::open(path).unwrap().require(tensor).unwrap().offset() + 12;
    let mut bytes = fs::read(path).unwrap();
    bytes[place..][..4].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

/// Writes `value` over element 3 of a parameter's piece of the first basis vector.
fn spoil_vector(family: &Family, value: f32) {
    let (offset, path) = {
        let basis = Basis::open(&family.basis).unwrap();
        let source = &basis.parameter(PARAMETER).unwrap().sources()[0];
        let taskbasis::Source::Dense(tensor) = source else { panic!("a folder's vectors are dense") };
        (tensor.offset() + 12, tensor.mapping().path().to_path_buf())
    };
    let mut bytes = fs::read(&path).unwrap();
    bytes[offset..][..4].copy_from_slice(&value.to_le_bytes());
    fs::write(path, bytes).unwrap();
}

struct Open {
    model: Arc<Model>,
    arch: Arch,
    pixels: Vec<f32>,
}

fn open(family: &Family) -> Open {
    let (base, basis) = (Checkpoint::open(&family.base).unwrap(), Basis::open(&family.basis).unwrap());
    let model = Model::new(base, Some(basis), &ModelOptions::default()).unwrap();
    let pixels = (0..2 * family.arch.pixels()).map(|i| (i % 7) as f32 / 4.0 - 0.8).collect();
    Open { model, arch: family.arch.clone(), pixels }
}

fn options() -> EncoderOptions {
    EncoderOptions { threads: 1, promotion: Promotion::Manual, ..EncoderOptions::default() }
}

/// What every way of encoding says of these weights; none of them writes anything.
fn refusals(open: &Open, family: &Family, expr: &str) -> Vec<Error> {
    let Open { model, arch, pixels } = open;
    let task = model.weights(&expr.parse().unwrap()).unwrap();
    let untouched = |encode: &dyn Fn(&mut [f32]) -> taskbasis::Result<()>| {
        let mut out = vec![7.0; 2 * arch.embed_dim];
        let error = encode(&mut out).unwrap_err();
        assert!(out.iter().all(|value| *value == 7.0), "something was written");
        error
    };
    let encoder = Encoder::new(arch, &options()).unwrap();
    let streamed =
        Encoder::new(arch, &EncoderOptions { residency: Residency::Blockwise, promotion: Promotion::Off, ..options() })
            .unwrap();
    let (base, basis) = (model.base(), model.basis().unwrap());
    let graph = support::bundle::exported(arch, base, basis, &family.path("graph.onnx"));
    let theirs = Encoder::with_graph(arch, &graph, &options()).unwrap();
    let mut all = vec![
        untouched(&|out| encoder.encode_task_into(&task, pixels, 2, out)),
        untouched(&|out| streamed.encode_task_into(&task, pixels, 2, out)),
        untouched(&|out| theirs.encode_task_into(&task, pixels, 2, out)),
        untouched(&|out| encoder.encode_into(&*task.get().unwrap(), pixels, 2, out)),
        encoder.encode_in_batches(&task.get().unwrap(), pixels, 2, 1).unwrap_err(),
    ];
    let graph = support::bundle::promotable(arch, base, basis, &family.path("plain.onnx"));
    let theirs = Encoder::with_graph(arch, &graph, &options()).unwrap();
    theirs.promote(&task).unwrap();
    assert!(theirs.is_promoted(&task));
    all.push(untouched(&|out| theirs.encode_task_into(&task, pixels, 2, out)));
    all
}

#[test]
fn a_vector_that_is_not_finite_is_named() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Autoencoder);
    spoil_vector(&family, f32::NAN);
    let open = open(&family);
    for error in refusals(&open, &family, "Task1") {
        let said = error.to_string();
        assert!(error.kind() == ErrorKind::Format && error.tensor_name() == Some(PARAMETER), "{said}");
        assert!(said.contains("NaN at element 3") && said.contains("not finite"), "{said}");
    }
    let task = open.model.weights(&TaskExpr::task("Task1")).unwrap();
    let encoder = Encoder::new(&open.arch, &options()).unwrap();
    let error = encoder.encode_task(&task, &open.pixels, 2).unwrap_err();
    assert!(error.path().is_some_and(|path| path.ends_with("basis_vectors.pt")), "{error}");
    assert!(error.to_string().contains("the weights `Task1`"), "{error}");
    // What takes nothing of that vector is what it was.
    let base = open.model.weights(&TaskExpr::base()).unwrap();
    assert!(encoder.encode_task(&base, &open.pixels, 2).unwrap().iter().all(|value| value.is_finite()));
}

#[test]
fn a_base_that_is_not_finite_is_named_by_every_encoder() {
    if !runtime() {
        return;
    }
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let family = tiny_files(Method::Autoencoder);
        spoil(&family.base, PARAMETER, value);
        let open = open(&family);
        for expr in ["base", "Task1"] {
            let task = open.model.weights(&expr.parse().unwrap()).unwrap();
            let encoder = Encoder::new(&open.arch, &options()).unwrap();
            let streamed = Encoder::new(
                &open.arch,
                &EncoderOptions { residency: Residency::Blockwise, promotion: Promotion::Off, ..options() },
            )
            .unwrap();
            for error in [
                encoder.encode_task(&task, &open.pixels, 2).unwrap_err(),
                streamed.encode_task(&task, &open.pixels, 2).unwrap_err(),
            ] {
                let said = error.to_string();
                assert!(error.kind() == ErrorKind::Format && error.path() == Some(&*family.base), "{said}");
                assert_eq!(error.tensor_name(), Some(PARAMETER));
                assert!(said.contains(&format!("{value} at element 3")), "{said}");
            }
        }
    }
}

#[test]
fn coefficients_that_are_too_large_are_said_to_be_that() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Autoencoder);
    let open = open(&family);
    for expr in ["Task1@1e30", "Task1@1e38 + Task2@1e38 + Task0@1e38"] {
        let task = open.model.weights(&expr.parse().unwrap()).unwrap();
        let encoder = Encoder::new(&open.arch, &options()).unwrap();
        let error = encoder.encode_task(&task, &open.pixels, 2).unwrap_err();
        assert!(error.kind() == ErrorKind::InvalidArgument && error.tensor_name().is_some(), "{error}");
        assert!(error.to_string().contains("coefficients") && error.to_string().contains("`Task1@1e"), "{error}");
    }
}

#[test]
fn pixels_that_are_not_finite_are_the_pixels_fault() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Autoencoder);
    let mut open = open(&family);
    let second = open.arch.pixels() + 5;
    open.pixels[second] = f32::NAN;
    for error in refusals(&open, &family, "Task1").iter().filter(|error| !error.to_string().contains("images[0]")) {
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert!(error.to_string().contains("images[1]: a pixel is not finite: got NaN at element 5"), "{error}");
    }
}

#[test]
fn what_is_written_is_finite() {
    let family = tiny_files(Method::Autoencoder);
    let whole = family.path("whole.pt");
    fs::copy(&family.base, &whole).unwrap();
    spoil(&family.base, PARAMETER, f32::NAN);
    let open = open(&family);
    let weights = open.model.weights(&TaskExpr::task("Task1")).unwrap().get().unwrap();
    let out = family.path("out");
    for error in [weights.save(&out, &[], &[]).unwrap_err(), write_onnx(&open.arch, &weights, &out, &[]).unwrap_err()] {
        assert!(error.kind() == ErrorKind::Format && error.tensor_name() == Some(PARAMETER), "{error}");
        assert!(!out.exists());
    }
    // A user's graph, whose weights are in a layout of its own.
    let sound = Checkpoint::open(&whole).unwrap();
    let basis = open.model.basis().unwrap();
    let graph = support::bundle::exported(&open.arch, &sound, basis, &family.path("graph.onnx"));
    let in_layout =
        |expr: &str| open.model.weights(&expr.parse().unwrap()).unwrap().in_layout(graph.layout()).get().unwrap();
    let error = graph.write(&in_layout("Task1"), &out, &[]).unwrap_err();
    assert!(error.kind() == ErrorKind::Format && error.to_string().contains("NaN at element 3"), "{error}");
    assert!(!out.exists());
    let (base, basis, whole, out) = (text(&family.base), text(&family.basis), text(&whole), text(&out));
    for command in ["reconstruct", "export"] {
        let usual = [command, "--basis", basis, "--weights", "Task1", "-o", out];
        let heads: &[&str] = if command == "export" { &["--heads-count", "2"] } else { &[] };
        fail(&[&usual[..], &["--base", base], heads].concat(), &[PARAMETER, "NaN at element 3"]);
        assert!(!Path::new(out).exists());
        succeed(&[&usual[..], &["--base", whole], heads].concat());
        fs::remove_file(out).unwrap();
    }
}

/// Masks of −∞ outside the image tower are what they are: copied, and no obstacle to a basis of the image towers.
#[test]
fn masks_outside_the_image_tower_may_hold_minus_infinity() {
    let family = tiny_files(Method::Autoencoder);
    let with_mask = |name: &str, scale: f32| {
        let path = family.path(name);
        let checkpoint = Checkpoint::open(&family.base).unwrap();
        let scaled = |tensor: &Tensor| tensor.to_f32().unwrap().iter().map(|value| value * scale).collect();
        let values: Vec<(String, Vec<usize>, Vec<f32>)> = checkpoint
            .iter()
            .map(|(name, tensor)| (name.to_owned(), tensor.shape().to_vec(), scaled(tensor)))
            .chain([("transformer.resblocks.0.attn_mask".into(), vec![2, 2], vec![0.0, f32::NEG_INFINITY, 0.0, 0.0])])
            .collect();
        let arrays: Vec<_> = values.iter().map(|(name, shape, values)| (&**name, &**shape, &**values)).collect();
        taskbasis::save_arrays(&path, &arrays, &[], &[]).unwrap();
        path
    };
    let (base, tuned) = (with_mask("masked.safetensors", 1.0), with_mask("tuned.safetensors", 1.01));
    let opened = Checkpoint::open(&base).unwrap();
    let how = taskbasis::ReconstructOptions { scope: Scope::All, ..Default::default() };
    let weights = Weights::of_base(&opened, &how).unwrap();
    weights.save(&family.path("copy.safetensors"), &[], &[]).unwrap();

    let (base, tuned) = (text(&base), format!("A={}", text(&tuned)));
    let out = family.path("built");
    let build = ["build", "--base", base, "--task", &tuned, "--vectors", "1", "-o", text(&out)];
    fail(&build, &["attn_mask", "-inf at element 1", "--image-tower"]);
    succeed(&[&build[..], &["--image-tower"]].concat());
}
