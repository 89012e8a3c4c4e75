//! The C ABI with a bundle: one path is all that it needs.
#![allow(clippy::undocumented_unsafe_blocks)]

use crate::support;
use std::ptr::{null, null_mut};

use crate::support::capi::{basis_options, c, fails, ok, sized, text};
use crate::support::{digits, relative_l2};
use taskbasis::bundle::{BaseFormat, Gate};
use taskbasis::capi::*;
use taskbasis::onnx::{BindOptions, BoundGraph};
use taskbasis::{Activation, ArchHints, Basis, Checkpoint, Head, Packer};

fn pack(path: &std::path::Path, base_format: BaseFormat) {
    let basis = Basis::open(digits(support::capi::PCA).unwrap()).unwrap();
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    // Not what the family was trained with: it is to be seen that the bundle's word counts.
    let hints = ArchHints { heads: Some(2), activation: Some(Activation::Gelu), ..ArchHints::default() };
    let mut packer = Packer::new(&base, &basis, hints).unwrap();
    let head = Head::open(digits("heads.safetensors").unwrap(), Some("Parity")).unwrap();
    let head = head.with_class_names(digits("classes.json").unwrap(), "Parity").unwrap();
    packer.head("Parity", head).unwrap().base_format(base_format);
    packer.write(path, &packer.uniform("q8".parse().unwrap()), &[], &|_| {}).unwrap();
}

#[test]
fn one_path_is_enough() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.taskbasis");
    pack(&path, BaseFormat::F16);
    let path = c(path);
    unsafe {
        let mut basis = null_mut();
        ok(|err| tb_basis_open(path.as_ptr(), null(), &mut basis, err));
        ok(|err| tb_basis_verify(basis, err));
        let mut about: tb_basis_properties = sized();
        ok(|err| tb_basis_info(basis, &mut about, err));
        assert_eq!((about.tasks, about.vectors, about.has_mean), (8, 4, 1));
        assert_eq!(text(about.method), "PCA");

        let mut library: tb_library_properties = sized();
        ok(|err| tb_library_info(null(), &mut library, err));
        if !library.onnxruntime_path.is_null() {
            let mut encoder = null_mut();
            ok(|err| tb_encoder_create(basis, null(), &mut encoder, err));
            let mut model: tb_encoder_properties = sized();
            ok(|err| tb_encoder_info(encoder, &mut model, err));
            assert_eq!((model.heads, model.activation), (2, TB_ACTIVATION_GELU));
            let mut weights = null_mut();
            ok(|err| tb_weights_create(basis, c"MNIST@0.3 + Parity@0.5".as_ptr(), &mut weights, err));
            let (pixels, mut out) = (vec![0.1f32; 3 * 32 * 32], vec![0.0f32; model.embedding]);
            ok(|err| tb_encoder_encode(encoder, weights, pixels.as_ptr(), 1, out.as_mut_ptr(), out.len(), err));
            assert!(out.iter().all(|value| value.is_finite()) && out.iter().any(|value| *value != 0.0));
            // An option counts more than the bundle.
            let mut other = null_mut();
            let options = tb_encoder_options { heads: 1, ..sized() };
            ok(|err| tb_encoder_create(basis, &options, &mut other, err));
            ok(|err| tb_encoder_info(other, &mut model, err));
            assert_eq!(model.heads, 1);
            tb_encoder_free(other);
            tb_weights_free(weights);
            tb_encoder_free(encoder);
        }
        tb_basis_free(basis);

        let mut head = null_mut();
        ok(|err| tb_head_open(path.as_ptr(), null(), null(), &mut head, err));
        let mut name = null();
        ok(|err| tb_head_class_name(head, 0, &mut name, err));
        assert_eq!(text(name), "even");
        tb_head_free(head);
        let unknown = c"MNIST".as_ptr();
        let message =
            fails(tb_status::TB_ERR_NOT_FOUND, |err| tb_head_open(path.as_ptr(), unknown, null(), &mut head, err));
        assert!(message.contains("Parity"), "{message}");
    }
}

/// What was measured when the bundle was packed is what TB_PRECISION_AUTO runs, and the reason is told.
#[test]
fn the_fastest_precision_that_passed() {
    let Some(o) = support::capi::open(support::capi::AE) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.taskbasis");
    let basis = Basis::open(digits(support::capi::AE).unwrap()).unwrap();
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    let mut packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
    packer.gate(Gate::default(), |_| {}).unwrap();
    packer.write(&path, &packer.uniform("q8".parse().unwrap()), &[], &|_| {}).unwrap();
    let path = c(path);
    let told = |basis: *const tb_basis, precision: u32| unsafe {
        let mut encoder = null_mut();
        let options = tb_encoder_options { precision: precision as usize, ..sized() };
        ok(|err| tb_encoder_create(basis, &options, &mut encoder, err));
        let mut info: tb_encoder_properties = sized();
        ok(|err| tb_encoder_info(encoder, &mut info, err));
        let why = (!info.precision_reason.is_null()).then(|| text(info.precision_reason));
        let told = (info.precision as u32, text(info.precisions), why);
        tb_encoder_free(encoder);
        told
    };
    unsafe {
        let mut basis = null_mut();
        ok(|err| tb_basis_open(path.as_ptr(), null(), &mut basis, err));
        let (number, precisions, why) = told(basis, TB_PRECISION_AUTO);
        assert_eq!((number, &*precisions), (TB_PRECISION_INT8, "int8"));
        assert!(why.unwrap().contains("least cosine"));
        assert_eq!(told(basis, TB_PRECISION_BF16), (TB_PRECISION_BF16, "bf16".into(), None));
        let (number, precisions, why) = told(o.basis, TB_PRECISION_AUTO);
        assert_eq!((number, &*precisions), (TB_PRECISION_F32, "f32"));
        assert!(why.unwrap().contains("nothing was measured"));
        assert_eq!(told(o.basis, TB_PRECISION_F32), (TB_PRECISION_F32, "f32".into(), None));
        tb_basis_free(basis);
    }
}

/// The graph that the bundle carries is the default; options override it, and properties tell.
#[test]
fn a_carried_graph_is_the_default() {
    let Some(graph) = digits("onnx/transformers_style_opset14.onnx") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.taskbasis");
    let basis = Basis::open(digits(support::capi::PCA).unwrap()).unwrap();
    let base = Checkpoint::open(digits("base/pickled_module.pt").unwrap()).unwrap();
    let bound = BoundGraph::open(&graph, &base, Some(&basis), &BindOptions::default()).unwrap();
    let mut packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
    packer.graph(&bound).unwrap().base_format(BaseFormat::F32);
    packer.write(&path, &packer.uniform("q4".parse().unwrap()), &[], &|_| {}).unwrap();
    let (path, graph) = (c(path), c(graph));
    unsafe {
        let mut basis = null_mut();
        ok(|err| tb_basis_open(path.as_ptr(), null(), &mut basis, err));
        ok(|err| tb_basis_verify(basis, err));
        let mut library: tb_library_properties = sized();
        ok(|err| tb_library_info(null(), &mut library, err));
        if library.onnxruntime_path.is_null() {
            return tb_basis_free(basis);
        }
        let mut weights = null_mut();
        ok(|err| tb_weights_create(basis, c"MNIST".as_ptr(), &mut weights, err));
        let none: tb_encoder_options = sized();
        let built = tb_encoder_options { built_graph: 1, ..none };
        let given = tb_encoder_options { graph: graph.as_ptr(), ..none };
        let mut all = Vec::new();
        for (options, which) in [(none, TB_GRAPH_BUNDLE), (built, TB_GRAPH_BUILT), (given, TB_GRAPH_FILE)] {
            let mut encoder = null_mut();
            ok(|err| tb_encoder_create(basis, &options, &mut encoder, err));
            let mut about: tb_encoder_properties = sized();
            ok(|err| tb_encoder_info(encoder, &mut about, err));
            assert_eq!(about.graph, which);
            let (pixels, mut out) = (vec![0.1f32; 3 * 32 * 32], vec![0.0f32; about.embedding]);
            ok(|err| tb_encoder_encode(encoder, weights, pixels.as_ptr(), 1, out.as_mut_ptr(), out.len(), err));
            ok(|err| tb_encoder_promote(encoder, weights, 1, err));
            let mut promoted = out.clone();
            let capacity = promoted.len();
            ok(|err| tb_encoder_encode(encoder, weights, pixels.as_ptr(), 1, promoted.as_mut_ptr(), capacity, err));
            assert!(relative_l2(&promoted, &out) < 1e-5);
            all.push(out);
            tb_encoder_free(encoder);
        }
        assert!(all[0] == all[2] && relative_l2(&all[0], &all[1]) < 1e-5);
        let both = tb_encoder_options { built_graph: 1, ..given };
        let mut encoder = null_mut();
        let message =
            fails(tb_status::TB_ERR_INVALID_ARGUMENT, |err| tb_encoder_create(basis, &both, &mut encoder, err));
        assert!(message.contains("exclude each other"), "{message}");
        tb_weights_free(weights);
        tb_basis_free(basis);
    }
}

#[test]
fn what_is_missing_or_wrong_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.taskbasis");
    pack(&path, BaseFormat::LeftOut);
    let base = c(digits("base/pickled_module.pt").unwrap());
    let mut basis = null_mut();
    unsafe {
        let bundle = c(&path);
        let message =
            fails(tb_status::TB_ERR_INVALID_ARGUMENT, |err| tb_basis_open(bundle.as_ptr(), null(), &mut basis, err));
        assert!(message.contains("leaves the base out") && basis.is_null(), "{message}");
        ok(|err| tb_basis_open(bundle.as_ptr(), &basis_options(&base), &mut basis, err));
        tb_basis_free(basis);
        // A folder still needs its base.
        let folder_path = c(digits(support::capi::PCA).unwrap());
        fails(tb_status::TB_ERR_INVALID_ARGUMENT, |err| tb_basis_open(folder_path.as_ptr(), null(), &mut basis, err));

        pack(&path, BaseFormat::F32);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        ok(|err| tb_basis_open(bundle.as_ptr(), null(), &mut basis, err));
        let message = fails(tb_status::TB_ERR_FORMAT, |err| tb_basis_verify(basis, err));
        assert!(message.contains("another checksum") && message.contains("m.taskbasis"), "{message}");
        tb_basis_free(basis);
    }
}
