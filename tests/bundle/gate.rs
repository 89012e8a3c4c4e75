//! The gate of precisions: what is measured when a bundle is packed, what it tells, and what `auto` runs.

use std::fs;
use std::path::Path;

use crate::support::bundle::{Parts, digits_files, faults, tiny_files};
use crate::support::family::amplified;
use crate::support::{digits, runtime};
use serde_json::json;
use taskbasis::bundle::{Floors, Gate, LabelledTask, PrecisionMeasure};
use taskbasis::{
    Activation, ArchHints, BaseFormat, Basis, Bundle, BundleUpdate, Checkpoint, Dataset, Encoder, EncoderOptions,
    ErrorKind, Head, LayerKind, LayerPrecisions, Method, NewTask, OpenModel, OpenOptions, OtherNames, Packer,
    Precision, PrecisionChoice, Provider, Residency, Runtime, TowerOptions, open,
};

const KEY: &str = "measured.precision";

fn auto() -> EncoderOptions {
    EncoderOptions { precision: PrecisionChoice::Auto, threads: 1, ..EncoderOptions::default() }
}

/// A bundle of the digits family.
fn pack(vectors: &str, gate: Option<Gate>, path: &Path) {
    let (basis, base) = digits_files("AE").unwrap();
    pack_family(&basis, &base, ArchHints::default(), (vectors, gate), path);
}

fn pack_family(basis: &Path, base: &Path, hints: ArchHints, (vectors, gate): (&str, Option<Gate>), path: &Path) {
    let (basis, checkpoint) = (Basis::open(basis).unwrap(), Checkpoint::open(base).unwrap());
    let mut packer = Packer::new(&checkpoint, &basis, hints).unwrap();
    if let Some(gate) = gate {
        packer.gate(gate, |_| {}).unwrap();
    }
    let report = packer.write(path, &packer.uniform(vectors.parse().unwrap()), &[], &|_| {}).unwrap();
    assert_eq!(report.precision.as_ref(), Bundle::open(path).unwrap().precision());
}

fn opened(path: &Path) -> OpenModel {
    OpenModel::open(path, &OpenOptions::default()).unwrap()
}

/// The precisions that `auto` takes over the bundle, and why.
fn taken(path: &Path) -> (LayerPrecisions, String) {
    let encoder = opened(path).encoder(&auto()).unwrap();
    (encoder.precisions(), encoder.execution().precision_reason.clone().unwrap())
}

/// The least cosine of all tasks' embeddings of other images than the gate looked at.
fn least_cosine(path: &Path, options: &EncoderOptions) -> f64 {
    let opened = opened(path);
    let exact = opened.encoder(&EncoderOptions { threads: 1, ..EncoderOptions::default() }).unwrap();
    let encoder = opened.encoder(options).unwrap();
    let preprocess = opened.bundle().unwrap().preprocess().unwrap();
    let data = Dataset::open(digits("images.safetensors").unwrap()).unwrap();
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    let (width, mut least) = (encoder.arch().embed_dim, 1.0f64);
    for task in opened.bundle().unwrap().tasks() {
        let pixels = data.split("MNIST", "test").unwrap().preprocess(&preprocess, 0..16, 1).unwrap();
        let weights = opened.model().weights(&taskbasis::TaskExpr::task(task)).unwrap();
        let [a, b] = [&encoder, &exact].map(|encoder| encoder.encode_task(&weights, &pixels, 16).unwrap());
        for (a, b) in a.chunks(width).zip(b.chunks(width)) {
            least = least.min(dot(a, b) / (dot(a, a) * dot(b, b)).sqrt());
        }
    }
    least
}

#[test]
fn digits_pass_in_int8() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.taskbasis");
    pack("q8", Some(Gate::default()), &path);
    let bundle = Bundle::open(&path).unwrap();
    let measure = bundle.precision().unwrap();
    assert_eq!((&*measure.precisions, measure.floors, measure.built_in_images), ("int8", Floors::default(), 32));
    let trial = measure.chosen().unwrap();
    assert_eq!((measure.trials.len(), trial.tasks.len(), &measure.data), (1, 8, &None));
    assert!(trial.tasks.iter().all(|task| (0.999..1.0).contains(&task.cosine)), "{trial:?}");
    let (precisions, why) = taken(&path);
    assert_eq!(precisions, LayerPrecisions::of(Precision::Int8));
    assert!(why.contains("32 built-in images") && why.contains("0.999 is the floor"), "{why}");
    // What is asked for is had without a reason, and the golden door leads to the same.
    let opened = opened(&path);
    let asked = opened.encoder(&EncoderOptions { precision: Precision::Bf16.into(), ..auto() }).unwrap();
    assert_eq!((asked.precisions().uniform(), &asked.execution().precision_reason), (Some(Precision::Bf16), &None));
    let encoder = Encoder::of_bundle(&bundle, opened.model(), &auto()).unwrap();
    assert_eq!(encoder.precisions().uniform(), Some(Precision::Int8));
    assert!(least_cosine(&path, &auto()) >= 0.999);

    // Where int8 cannot run, `auto` is f32, and says why.
    let not = |options: EncoderOptions, says: &str| {
        let encoder = opened.encoder(&options).unwrap();
        let why = encoder.execution().precision_reason.clone().unwrap();
        assert!(encoder.precisions().is_f32() && why.contains(says), "{why}");
    };
    if Runtime::load(None).unwrap().check_provider(Provider::Cuda, 0).is_ok() {
        not(EncoderOptions { provider: Provider::Cuda, ..auto() }, "another provider");
    }
    let blockwise = opened.encoder(&EncoderOptions { residency: Residency::Blockwise, ..auto() }).unwrap();
    assert_eq!(blockwise.precisions().uniform(), Some(Precision::Int8));
    let arch = ArchHints { activation: Some(Activation::Gelu), ..ArchHints::default() };
    let tower = TowerOptions { arch, ..TowerOptions::default() };
    let tower = opened.tower(tower, &open::GraphChoice::Carried).unwrap();
    let other = opened.encoder_of(&tower, None, &auto()).unwrap();
    assert!(other.precisions().is_f32(), "measured was another activation");
    let alone = Encoder::new(bundle.arch(), &auto()).unwrap();
    assert!(alone.execution().precision_reason.as_ref().unwrap().contains("nothing was measured"));
    assert!(alone.precisions().is_f32());
    let cuda = EncoderOptions { provider: Provider::Cuda, precision: Precision::Int8.into(), ..auto() };
    assert_eq!(Encoder::new(bundle.arch(), &cuda).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn amplified_channels_are_seen_and_go_to_bf16() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, basis, arch) = amplified(folder.path());
    let path = folder.path().join("m.taskbasis");
    pack_family(&basis, &base, arch.hints(), ("q8", Some(Gate::default())), &path);
    let bundle = Bundle::open(&path).unwrap();
    let measure = bundle.precision().unwrap();
    let first = &measure.trials[0];
    let least = first.least_cosine(true).unwrap().1;
    assert!(first.precisions == "int8" && !first.passed && (0.99..0.999).contains(&least), "{first:?}");
    assert_eq!(measure.alone.len(), 4, "{:?}", measure.alone);
    let precisions = measure.precisions().unwrap();
    // What follows a normalisation hurts; the rest is int8 still.
    let count = |precision| LayerKind::ALL.into_iter().filter(|kind| precisions.get(*kind) == precision).count();
    assert_eq!(precisions.get(LayerKind::Qkv), Precision::Bf16);
    assert!(count(Precision::Int8) >= 2 && count(Precision::F32) == 0, "{precisions}");
    assert!(measure.chosen().unwrap().least_cosine(true).unwrap().1 >= 0.999);
    assert_eq!(taken(&path).0, precisions);
    let (auto, int8) = (least_cosine(&path, &auto()), EncoderOptions { precision: Precision::Int8.into(), ..auto() });
    let int8 = least_cosine(&path, &int8);
    println!("amplified: {precisions}; int8 {int8:.5} ({least:.5} on built-in images), auto {auto:.5}");
    assert!(auto >= 0.999 && int8 < 0.999, "auto {auto}, int8 {int8}");
}

#[test]
fn labelled_images_count_where_there_are_some() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.taskbasis");
    let data = Dataset::open(digits("images.safetensors").unwrap()).unwrap();
    let labelled = |task: &str| {
        let (heads, images) = (digits("heads.safetensors").unwrap(), data.split(task, "test").unwrap());
        let head = Head::open(&heads, Some(task)).unwrap();
        let labels = images.labels_for(&head, OtherNames::Refuse).unwrap().labels;
        LabelledTask { task: task.into(), head, images, labels }
    };
    let labelled = ["MNIST", "Parity"].map(labelled).into();
    let gate = Gate { labelled, data: Some("images.safetensors (test)".into()), ..Gate::default() };
    pack("q8", Some(gate), &path);
    let bundle = Bundle::open(&path).unwrap();
    let measure = bundle.precision().unwrap();
    let trial = measure.chosen().unwrap();
    let counted: Vec<_> =
        trial.tasks.iter().filter_map(|task| task.accuracy.map(|a| (&*task.task, a.images))).collect();
    assert_eq!((&*measure.precisions, counted), ("int8", vec![("MNIST", 400), ("Parity", 400)]));
    assert!(trial.worst_drop().unwrap().1 <= 0.5 && trial.mean_drop().unwrap() <= 0.1);
    let why = measure.to_string();
    assert!(why.contains("images.safetensors (test)") && why.contains("32 built-in"), "{why}");
    // The accuracies are those that anyone counts.
    let accuracy = trial.tasks.iter().find(|task| task.task == "MNIST").unwrap().accuracy.unwrap();
    assert!(accuracy.points()[0] > 80.0, "{accuracy:?}");
}

/// Floors that nothing rounder can keep to leave f32, which says what failed.
#[test]
fn where_nothing_passes_it_is_f32() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (base, basis, arch) = amplified(folder.path());
    let path = folder.path().join("m.taskbasis");
    let floors = Floors { cosine: 1.0, ..Floors::default() };
    let gate = Gate { floors, ..Gate::default() };
    pack_family(&basis, &base, arch.hints(), ("q8", Some(gate)), &path);
    let bundle = Bundle::open(&path).unwrap();
    let measure = bundle.precision().unwrap();
    assert_eq!((&*measure.precisions, measure.chosen(), measure.alone.len()), ("f32", None, 9));
    let (precisions, why) = taken(&path);
    assert!(precisions.is_f32() && why.contains("nothing rounder passed"), "{why}");
}

#[test]
fn a_measure_belongs_to_what_was_measured() {
    if !runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let base = digits_files("AE").unwrap().1;
    pack("q8", Some(Gate::default()), &at("q8.taskbasis"));
    pack("q4", None, &at("q4.taskbasis"));
    assert!(taken(&at("q4.taskbasis")).1.contains("nothing was measured when"));
    let bundle = Bundle::open(at("q8.taskbasis")).unwrap();

    // Put over other vectors by whatever means, it is not believed.
    let measured = Parts::of(&fs::read(at("q8.taskbasis")).unwrap()).metadata(KEY);
    let mut other = Parts::of(&fs::read(at("q4.taskbasis")).unwrap());
    other.set_metadata(KEY, &measured);
    fs::write(at("forged.taskbasis"), other.join(true)).unwrap();
    let forged = Bundle::open(at("forged.taskbasis")).unwrap();
    assert!(forged.precision().is_none() && forged.has_stale_precision() && !bundle.has_stale_precision());
    assert!(taken(&at("forged.taskbasis")).1.contains("changed since"));

    // A task more, or a residual, leaves it out; with nothing new it stays, and may be given anew.
    let tuned = Checkpoint::open(&base).unwrap();
    let write = |is_grown: bool, measure: Option<&PrecisionMeasure>| {
        let mut update = BundleUpdate::new(&bundle, None).unwrap();
        if is_grown {
            update.task(NewTask { name: "New", finetuned: &tuned, head: None, residual: None }).unwrap();
        }
        measure.map(|measure| update.precision(measure.clone()));
        update.write(&at("grown.taskbasis"), &[], &|_| {}).unwrap();
        Bundle::open(at("grown.taskbasis")).unwrap()
    };
    let grown = write(true, None);
    assert!(grown.precision().is_none() && !grown.has_stale_precision());
    assert!(write(true, bundle.precision()).precision().is_none(), "it was measured without the new task");
    assert_eq!(write(false, None).precision(), bundle.precision());
    let again = bundle.measure_precision(None, &Gate::default(), &|_| {}).unwrap();
    assert_eq!(Some(&again), bundle.precision(), "the same machine measures the same");

    // Readers pass over what they do not know: the key, as all that do not begin with `taskbasis.`, and fields in it.
    assert!(!KEY.starts_with("taskbasis."));
    let mut newer = Parts::of(&fs::read(at("q8.taskbasis")).unwrap());
    let mut record = newer.metadata(KEY);
    record["since"] = json!("2030");
    record["precisions"] = json!("fp4");
    newer.set_metadata(KEY, &record);
    assert!(faults(newer.join(true)).is_empty());
    fs::write(at("newer.taskbasis"), newer.join(true)).unwrap();
    let (precisions, why) = taken(&at("newer.taskbasis"));
    assert!(precisions.is_f32() && why.contains("fp4"), "{why}");
    newer.set_metadata(KEY, &json!({}));
    assert!(faults(newer.join(true)).remove(0).to_string().contains(KEY));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    for floors in [
        Floors { cosine: 1.5, ..Floors::default() },
        Floors { worst_drop: -0.1, ..Floors::default() },
        Floors { mean_drop: f64::NAN, ..Floors::default() },
    ] {
        assert_eq!(floors.check().unwrap_err().kind(), ErrorKind::InvalidArgument, "{floors:?}");
    }
    let encoder = EncoderOptions { runtime: Some("/nowhere/libonnxruntime.so".into()), ..EncoderOptions::default() };
    let missing = Gate { encoder, ..Gate::default() }.check().unwrap_err();
    assert!(missing.to_string().contains("/nowhere/libonnxruntime.so"), "{missing}");
    if !runtime() {
        return;
    }
    // A graph that is carried runs in f32 wherever the bundle is.
    let family = tiny_files(Method::Pca);
    let path = family.pack_with("m.taskbasis", "q4", BaseFormat::LeftOut, |packer| {
        packer.graph(&family.graph()).unwrap();
    });
    let bundle = Bundle::open(&path).unwrap();
    let base = || Some(Checkpoint::open(&family.base).unwrap());
    let refused = bundle.measure_precision(base(), &Gate::default(), &|_| {}).unwrap_err();
    assert!(refused.kind() == ErrorKind::Unsupported && refused.to_string().contains("graph"), "{refused}");
    // A base that is left out is given to the measurement as to anything else.
    let path = family.pack_with("m.taskbasis", "q4", BaseFormat::LeftOut, |packer| {
        packer.gate(Gate::default(), |_| {}).unwrap();
    });
    assert!(Bundle::open(&path).unwrap().precision().is_some());
}
