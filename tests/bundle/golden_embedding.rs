//! A bundle's golden embedding: computed when it is packed, compared by `verify` and before an encoder's first run.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::bundle::{Family, Parts, faults, tiny_files};
use crate::support::program::{fail, json, run, succeed, text};
use crate::support::runtime;
use taskbasis::{
    BaseFormat, Bundle, BundleUpdate, Checkpoint, Encoder, EncoderOptions, ErrorKind, Method, ModelOptions, NewTask,
    SelfTest, TaskExpr,
};

fn options(self_test: SelfTest) -> EncoderOptions {
    EncoderOptions { threads: 1, self_test, ..EncoderOptions::default() }
}

fn packed(family: &Family, name: &str, base: BaseFormat, with_graph: bool) -> PathBuf {
    family.pack_with(name, "q4", base, |packer| {
        if with_graph {
            packer.graph(&family.graph()).unwrap();
        }
        packer.golden(Some(options(SelfTest::Off)));
    })
}

/// The formula of docs/bundle-format.md, written once more.
fn image(size: usize) -> Vec<f32> {
    let mut pixels = Vec::new();
    for c in 0..3 {
        for y in 0..size {
            for x in 0..size {
                pixels.push(((x * x + 3 * y * y + 5 * x * y + 64 * c) % 256) as f32 / 64.0 - 2.0);
            }
        }
    }
    pixels
}

/// The bundle with the first number of its golden embedding moved by a thousandth of the embedding's length, all
/// checksums in order.
fn spoilt(bundle: &Path, name: &str) -> PathBuf {
    let golden = Bundle::open(bundle).unwrap().golden().unwrap().to_vec();
    let length = golden.iter().map(|value| value * value).sum::<f32>().sqrt();
    let mut parts = Parts::of(&fs::read(bundle).unwrap());
    let place = parts.range("golden");
    parts.data[place][..4].copy_from_slice(&(golden[0] + 1e-3 * length).to_le_bytes());
    let path = bundle.with_file_name(name);
    fs::write(&path, parts.join(true)).unwrap();
    path
}

#[test]
fn it_is_the_base_s_embedding_of_the_built_in_image() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Pca);
    for (i, base) in [BaseFormat::F32, BaseFormat::F16, BaseFormat::BF16, BaseFormat::LeftOut].into_iter().enumerate() {
        for with_graph in [false, true] {
            let path = packed(&family, &format!("{i}{with_graph}.taskbasis"), base, with_graph);
            assert!(faults(fs::read(&path).unwrap()).is_empty());
            let bundle = Bundle::open(&path).unwrap();
            let given = || (base == BaseFormat::LeftOut).then(|| Checkpoint::open(&family.base).unwrap());
            let agreement = bundle.check_golden(given(), &options(SelfTest::Auto)).unwrap().unwrap();
            assert!(agreement.relative < 1e-6 && agreement.cosine > 0.999_999, "{agreement:?}");

            let model = bundle.model(given(), &ModelOptions::default()).unwrap();
            let encoder = Encoder::of_bundle(&bundle, &model, &options(SelfTest::Off)).unwrap();
            let weights = model.weights(&TaskExpr::base()).unwrap();
            let embeds = encoder.encode_task(&weights, &image(bundle.arch().image_size()), 1).unwrap();
            assert_eq!(bundle.golden(), Some(&*embeds));
        }
    }
}

#[test]
fn the_unrounded_base_may_be_given_to_a_bundle_that_stores_it_rounded() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Pca);
    let given = || Some(Checkpoint::open(&family.base).unwrap());
    for base in [BaseFormat::F32, BaseFormat::F16, BaseFormat::BF16] {
        let path = packed(&family, &format!("{base:?}.taskbasis"), base, false);
        let bundle = Bundle::open(&path).unwrap();
        bundle.check_golden(given(), &options(SelfTest::Auto)).unwrap();
        let model = bundle.model(given(), &ModelOptions::default()).unwrap();
        let encoder = Encoder::of_bundle(&bundle, &model, &options(SelfTest::On)).unwrap();
        let weights = model.weights(&TaskExpr::base()).unwrap();
        encoder.encode_task(&weights, &image(bundle.arch().image_size()), 1).unwrap();
        // Where nothing was rounded, the comparison stays as sharp as it is.
        let other = Bundle::open(spoilt(&path, &format!("{base:?}_spoilt.taskbasis"))).unwrap();
        let is_found = other.check_golden(given(), &options(SelfTest::Auto)).is_err();
        assert_eq!(is_found, base == BaseFormat::F32);
    }
}

#[test]
fn another_embedding_is_found_before_the_first_run() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Pca);
    let good = packed(&family, "good.taskbasis", BaseFormat::F16, false);
    let bad = spoilt(&good, "bad.taskbasis");
    assert!(faults(fs::read(&bad).unwrap()).is_empty(), "only a run can tell");
    let pixels = image(Bundle::open(&good).unwrap().arch().image_size());
    let first = |path: &Path, self_test: SelfTest, cache_bytes: Option<usize>| {
        let bundle = Bundle::open(path).unwrap();
        let model = bundle.model(None, &ModelOptions { cache_bytes, ..ModelOptions::default() }).unwrap();
        let encoder = Encoder::of_bundle(&bundle, &model, &options(self_test)).unwrap();
        let task = model.weights(&TaskExpr::task("Task1")).unwrap();
        let mut results = vec![encoder.encode_task(&task, &pixels, 1)];
        results.push(encoder.encode(&*task.get().unwrap(), &pixels, 1));
        results
    };
    let untested = first(&bad, SelfTest::Off, None);
    assert!(untested.iter().all(Result::is_ok));
    // No room for the base's weights beside a task's.
    assert!(first(&bad, SelfTest::Auto, Some(0)).iter().all(Result::is_ok));
    for (self_test, cache_bytes) in [(SelfTest::Auto, None), (SelfTest::On, None), (SelfTest::On, Some(0))] {
        // It goes on failing: nothing of a wrong encoder is to be had.
        for error in first(&bad, self_test, cache_bytes).into_iter().map(Result::unwrap_err) {
            assert_eq!((error.kind(), error.path()), (ErrorKind::Mismatch, Some(&*bad)), "{error}");
            assert!(error.to_string().contains("does not give the golden embedding"), "{error}");
            assert!(error.to_string().contains("got 1.00e-3 of its length"), "{error}");
        }
        let tested = first(&good, self_test, cache_bytes);
        assert_eq!(tested[0].as_ref().unwrap(), untested[0].as_ref().unwrap(), "the run itself is as it was");
    }
    let error = Bundle::open(&bad).unwrap().check_golden(None, &options(SelfTest::Off)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    // Of the built graph, and of one that says nothing of a bundle, it is not.
    let bundle = Bundle::open(&bad).unwrap();
    let encoder = Encoder::new(bundle.arch(), &options(SelfTest::On)).unwrap();
    let model = bundle.model(None, &ModelOptions::default()).unwrap();
    encoder.encode_task(&model.weights(&TaskExpr::base()).unwrap(), &pixels, 1).unwrap();
}

#[test]
fn a_grown_bundle_keeps_it() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Autoencoder);
    let path = packed(&family, "old.taskbasis", BaseFormat::F16, false);
    let bundle = Bundle::open(&path).unwrap();
    let finetuned = Checkpoint::open(&family.base).unwrap();
    let mut update = BundleUpdate::new(&bundle, None).unwrap();
    update.task(NewTask { name: "New", finetuned: &finetuned, head: None, residual: None }).unwrap();
    let grown = family.path("grown.taskbasis");
    update.write(&grown, &[], &|_| {}).unwrap();
    let grown = Bundle::open(&grown).unwrap();
    assert!(grown.golden().is_some() && grown.golden() == bundle.golden());
    assert!(grown.check_golden(None, &options(SelfTest::Off)).unwrap().is_some());
    assert!(grown.verify(1, &|_| {}).is_empty());
}

#[test]
fn one_that_cannot_be_is_refused() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Pca);
    let bytes = fs::read(packed(&family, "good.taskbasis", BaseFormat::F16, false)).unwrap();
    let broken = |change: &dyn Fn(&mut Parts), part: &str| {
        let mut parts = Parts::of(&bytes);
        change(&mut parts);
        let errors = faults(parts.join(true));
        assert!(errors.iter().any(|error| error.to_string().contains(part)), "{part}: {errors:?}");
    };
    broken(&|parts| parts.header["golden"]["shape"] = serde_json::json!([2, 2]), "the golden embedding is none");
    broken(&|parts| parts.header["golden"]["dtype"] = serde_json::json!("I32"), "the golden embedding is none");
    let nan = |parts: &mut Parts| {
        let place = parts.range("golden");
        parts.data[place][..4].copy_from_slice(&f32::NAN.to_le_bytes());
    };
    broken(&nan, "not finite");
    // A carried graph may give embeddings of another length, and it is found when they are compared.
    let bundle = family.pack_with("graph.taskbasis", "q4", BaseFormat::F16, |packer| {
        packer.graph(&family.graph()).unwrap();
        packer.golden(Some(options(SelfTest::Off)));
    });
    let mut parts = Parts::of(&fs::read(&bundle).unwrap());
    let place = parts.range("golden");
    parts.header["golden"] =
        serde_json::json!({ "dtype": "F32", "shape": [3], "data_offsets": [place.start, place.end - 4] });
    parts.header["padding/golden"] =
        serde_json::json!({ "dtype": "U8", "shape": [4], "data_offsets": [place.end - 4, place.end] });
    let errors = faults(parts.join(true));
    assert!(!errors.is_empty(), "bytes between tensors are padding of one piece");
}

#[test]
fn the_program_packs_and_verifies_it() {
    if !runtime() {
        return;
    }
    let family = tiny_files(Method::Autoencoder);
    let (basis, base) = (text(&family.basis), text(&family.base));
    let (path, plain) = (family.path("m.taskbasis"), family.path("plain.taskbasis"));
    let (path, plain) = (text(&path), text(&plain));
    let pack = ["pack", "--basis", basis, "--base", base, "--heads-count", "2", "--activation", "gelu"];
    succeed(&[&pack[..], &["-o", path]].concat());
    succeed(&[&pack[..], &["-o", plain, "--no-golden"]].concat());
    let verified = json(&["verify", path]);
    assert!(verified["golden"]["compared"] == true && verified["golden"]["relative"].as_f64().unwrap() < 1e-5);
    assert!(succeed(&["verify", path]).contains("golden embedding: the same on this machine"));
    assert!(succeed(&["verify", plain]).contains("golden embedding: not compared, the bundle has none"));
    assert!(json(&["inspect", path]).to_string().contains("\"golden\""));
    assert!(Bundle::open(plain).unwrap().golden().is_none());

    let bad = spoilt(Path::new(path), "bad.taskbasis");
    let bad = text(&bad);
    fail(&["verify", bad], &["bad.taskbasis", "does not give the golden embedding"]);
    let images = family.path("images.safetensors");
    let size = family.arch.image_size();
    taskbasis::save_arrays(&images, &[("pixel_values", &[1, 3, size, size], &image(size))], &[], &[]).unwrap();
    let out = family.path("embeds.safetensors");
    let embed = ["embed", "--weights", "Task1", "-i", text(&images), "-o", text(&out), "--basis"];
    fail(&[&embed[..], &[bad]].concat(), &["bad.taskbasis", "does not give the golden embedding"]);
    succeed(&[&embed[..], &[bad, "--self-test", "off"]].concat());
    succeed(&[&embed[..], &[path]].concat());

    // Where there is no ONNX Runtime, a bundle is packed and verified without.
    let without = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_taskbasis"));
        command.args(arguments).env("ORT_DYLIB_PATH", "/nowhere/libonnxruntime.so").output().unwrap()
    };
    let output = without(&[&pack[..], &["-o", plain]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("no golden embedding is put in"), "{said}");
    assert!(Bundle::open(plain).unwrap().golden().is_none());
    let output = without(&["verify", path]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && said.contains("not compared, there is no ONNX Runtime"), "{said}");
    assert!(run(&["verify", path]).status.success());
}
