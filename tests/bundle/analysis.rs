//! What `analyze --report` foretells, against bundles that are made.
#![cfg(feature = "cli")]

use crate::support::build::{open, write_family};
use crate::support::family::small;
use crate::support::program::{json, run};
use taskbasis::build::{Fit, WriteOptions};
use taskbasis::{BaseFormat, Basis, Bundle, Checkpoint, Method, ModelOptions, Packer, TaskExpr, VectorFormat};

#[test]
fn errors_and_bytes_are_those_of_the_bundle() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let family = open(&files);
    let gram = family.gram(0, &|_| {}).unwrap();
    let base = Checkpoint::open(&files[0]).unwrap();
    for (method, vectors, format) in [
        (Method::Autoencoder, 3, "q4"),
        (Method::Autoencoder, 5, "q2"),
        (Method::Pca, 2, "q3"),
        (Method::Pca, 4, "q8"),
        (Method::Autoencoder, 5, "f16"),
    ] {
        let format: VectorFormat = format.parse().unwrap();
        let fit = Fit::of(method, &gram, vectors, 0).unwrap();
        let rounding = family.rounding(&[format], 0).unwrap()[0];
        assert_eq!(rounding, family.rounding(&[VectorFormat::F32, format], 1).unwrap()[1]);
        let told = fit.error_as_stored(&gram, rounding).unwrap();

        let place = folder.path().join(format!("{method}{vectors}{format}"));
        family.write_basis(&fit, &place, &WriteOptions::default()).unwrap();
        let basis = Basis::open(&place).unwrap();
        let mut packer = Packer::new(&base, &basis, small(method, 5).arch.hints()).unwrap();
        packer.base_format(BaseFormat::F32);
        let path = place.with_extension("taskbasis");
        packer.write(&path, &packer.uniform(format.into()), &[], &|_| {}).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        let model = bundle.model(None, &ModelOptions::default()).unwrap();
        let (mut lost, mut whole) = (0.0, 0.0);
        for (t, file) in files[1..].iter().enumerate() {
            let weights = model.weights(&TaskExpr::task(format!("T{t}"))).unwrap().get().unwrap();
            let tuned = Checkpoint::open(file).unwrap();
            for (name, _, _) in weights.iter() {
                let (own, target) = (weights.get(name).unwrap(), tuned.require(name).unwrap().to_f32().unwrap());
                let base = base.require(name).unwrap().to_f32().unwrap();
                for ((w, t), b) in own.iter().zip(&*target).zip(&*base) {
                    lost += f64::from(w - t).powi(2);
                    whole += f64::from(t - b).powi(2);
                }
            }
        }
        let measured = (lost / whole).sqrt();
        assert!(
            // Sums of task vectors are spread otherwise than these themselves: q8 loses a tenth more of PCA's.
            (told / measured - 1.0).abs() < 0.15,
            "{method}, {vectors}, {format}: {told} told, {measured} measured"
        );
        let sections = bundle.sections();
        let of_vectors = sections.iter().filter(|section| ["vectors", "mean"].contains(&section.kind));
        let (bytes, told) = (
            of_vectors.map(|section| section.bytes).sum::<u64>(),
            fit.stored_bytes(family.changed_parameter_count(), format),
        );
        let share = told as f64 / bytes as f64;
        // What has one dimension is f16, and rows are filled to 256 bytes: that counts in so small a family.
        assert!((0.7..1.02).contains(&share), "{method}, {vectors}, {format}: {told} told, {bytes} bytes");
    }
    // A basis of some of the tasks gives the others nothing.
    let some = Fit::of(Method::RandomSample, &gram, 3, 0).unwrap();
    assert_eq!(some.error_as_stored(&gram, 0.0), None);
    // Without rounding it is what the fit itself says.
    let fit = Fit::pca(&gram, 2).unwrap();
    let squares = |t: usize| fit.errors()[t].unwrap().powi(2) * gram.get(t, t);
    let whole: f64 = (0..5).map(|t| gram.get(t, t)).sum();
    let own = ((0..5).map(squares).sum::<f64>() / whole).sqrt();
    assert!((fit.error_as_stored(&gram, 0.0).unwrap() / own - 1.0).abs() < 1e-12);
}

#[test]
fn the_page_tells_what_to_choose() {
    let folder = tempfile::tempdir().unwrap();
    let files = write_family(folder.path());
    let text = |path: &std::path::Path| path.to_str().unwrap().to_owned();
    let (page, base, tasks) = (text(&folder.path().join("page.html")), text(&files[0]), text(folder.path()));
    let told = json(&["analyze", "--base", &base, "--tasks-dir", &tasks, "--report", &page]);
    let choices = told["choices"].as_array().unwrap();
    // Autoencoder and PCA with 1 to 5 vectors, RandomSample with all: in f16 and five formats of blocks.
    assert_eq!(choices.len(), (5 + 5 + 1) * 6, "{told}");
    assert!(choices.contains(&told["knee"]));
    let html = std::fs::read_to_string(&page).unwrap();
    for part in ["What a basis costs", "Spectrum", "Cosine similarities", "By block", "At the knee", "← knee"] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<svg").count(), 2);
    assert!(html.ends_with("</html>\n") && !html.contains("src=") && !html.contains("href="), "it loads nothing");
    let plain = json(&["analyze", "--base", &base, "--tasks-dir", &tasks]);
    assert_eq!((&plain["choices"], &plain["knee"]), (&serde_json::json!([]), &serde_json::Value::Null));

    // Of a basis: what its tasks have in common, and no costs.
    let basis = text(&folder.path().join("basis"));
    json(&["build", "--base", &base, "--tasks-dir", &tasks, "--vectors", "3", "-o", &basis]);
    let told = json(&["analyze", "--basis", &basis, "--report", &page]);
    assert_eq!(told["choices"], serde_json::json!([]));
    let html = std::fs::read_to_string(&page).unwrap();
    assert!(html.contains("Spectrum") && !html.contains("What a basis costs"));
    let output = run(&["analyze", "--basis", &basis, "--report", &text(&folder.path().join("no/page.html"))]);
    assert_eq!(output.status.code(), Some(1), "a page that cannot be written is an error");
}
