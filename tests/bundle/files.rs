//! Bundles as files: the same bytes every time, never half-written, bases given and left out.

use crate::support;
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::support::bundle::{METHODS, digits_files, format, pack_digits, tiny_files};
use taskbasis::{
    ArchHints, BaseFormat, Basis, BasisFile, Bundle, Checkpoint, ErrorKind, MapMode, Method, ModelOptions, Packer,
};

#[test]
fn the_same_content_gives_the_same_bytes() {
    for method in [Method::Autoencoder, Method::Pca, Method::RandomSample] {
        let family = tiny_files(method);
        let of_threads = |threads: usize| {
            let path = family.pack_with(&format!("{threads}"), "q3", BaseFormat::BF16, |packer| {
                packer.threads(threads);
            });
            fs::read(path).unwrap()
        };
        let once = of_threads(1);
        assert!(once == of_threads(1) && once == of_threads(5), "{method}");
        assert!(support::bundle::faults(once).is_empty());
    }
}

#[test]
fn any_form_of_the_base_has_its_fingerprint() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("without.taskbasis");
    if pack_digits("AE", format("q4"), BaseFormat::LeftOut, &path).is_none() {
        return;
    }
    let bundle = Bundle::open(&path).unwrap();
    assert!(bundle.verify(0, &|_| {}).is_empty() && bundle.base().unwrap().is_none());
    let error = bundle.model(None, &ModelOptions::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::InvalidArgument && error.to_string().contains("leaves the base out"), "{error}");
    let mut forms = 0;
    for form in [
        "pickled_module.pt",
        "state_dict.pt",
        "training_checkpoint.pt",
        "open_clip_names.safetensors",
        "transformers_names.safetensors",
    ] {
        let Some(base) = support::digits(&format!("base/{form}")) else { continue };
        bundle.model(Some(Checkpoint::open(base).unwrap()), &ModelOptions::default()).unwrap();
        forms += 1;
    }
    assert!(forms >= 1);

    let other = tiny_files(Method::Pca);
    let error = bundle.base_or(Some(Checkpoint::open(&other.base).unwrap())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Mismatch);
    let fingerprint = bundle.fingerprint().to_string();
    assert!(error.to_string().contains(&format!("expected a base of fingerprint {fingerprint}, got ")), "{error}");
}

#[test]
fn a_rounded_base_takes_the_one_it_was_rounded_from() {
    let family = tiny_files(Method::Autoencoder);
    let bundle = Bundle::open(family.pack("f16", "q8", BaseFormat::F16)).unwrap();
    bundle.base_or(Some(Checkpoint::open(&family.base).unwrap())).unwrap();
    bundle.base_or(Some(bundle.base().unwrap().unwrap())).unwrap();
}

#[test]
fn what_no_vector_changes_is_in_the_base_alone() {
    for method in METHODS {
        let Some((folder, base)) = digits_files(method) else { continue };
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("x.taskbasis");
        let (basis, base) = (Basis::open(folder).unwrap(), Checkpoint::open(base).unwrap());
        let packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
        let report = packer.write(&path, &packer.uniform(format("q8")), &[], &|_| {}).unwrap();
        let bundle = Bundle::open(&path).unwrap();
        let packed = bundle.basis().unwrap();
        for (name, parameter) in packed.parameters() {
            assert_eq!(parameter.is_changed(), basis.parameter(name).unwrap().is_changed(), "{method}, {name}");
            assert_eq!(parameter.is_changed(), !parameter.sources().is_empty());
        }
        assert!(packed.parameters().all(|(name, _)| name.starts_with("visual.")));
        assert_eq!(report.left_out > 0, method == "Random", "only Random changes the text tower");
    }
}

#[test]
fn a_path_is_taken_for_what_it_is() {
    let family = tiny_files(Method::Pca);
    let path = family.pack("b.taskbasis", "q4", BaseFormat::F32);
    assert!(Bundle::is_bundle(&path) && !Bundle::is_bundle(&family.base) && !Bundle::is_bundle(&family.basis));
    assert!(!Bundle::is_bundle("/dev/null") && !Bundle::is_bundle("/nonexistent"));
    assert!(matches!(BasisFile::open(&path, MapMode::Read).unwrap(), BasisFile::Bundle(_)));
    assert!(matches!(BasisFile::open(&family.basis, MapMode::Map).unwrap(), BasisFile::Folder(_)));
    let error = BasisFile::open(&family.basis, MapMode::Map).unwrap().base_and_basis(None).unwrap_err();
    assert!(error.to_string().contains("needs its base"), "{error}");
    // Any tool can open it.
    let bytes = fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("base/visual.proj").unwrap().shape(), [8, 4]);
}

/// Killed at any moment, `pack` leaves the old file or the new one.
#[test]
fn killing_pack_breaks_nothing() {
    let Some((basis, base)) = digits_files("AE") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("out.taskbasis");
    let pack = |format: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_taskbasis"));
        command.arg("pack").arg("--basis").arg(&basis).arg("--base").arg(&base).args(["--format", format, "-o"]);
        command.arg(&path).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    assert!(pack("q8").status().unwrap().success());
    let old = fs::read(&path).unwrap();
    let began = std::time::Instant::now();
    assert!(pack("q4").status().unwrap().success());
    let (new, took) = (fs::read(&path).unwrap(), began.elapsed());
    let (mut kept, mut replaced) = (0, 0);
    for i in 0..40 {
        fs::write(&path, &old).unwrap();
        let mut child = pack("q4").spawn().unwrap();
        std::thread::sleep(Duration::from_nanos(took.as_nanos() as u64 * i / 34));
        let _ = child.kill();
        child.wait().unwrap();
        let found = fs::read(&path).unwrap();
        assert!(found == old || found == new, "neither the old nor the new file after {i}/34 of the time");
        *(if found == old { &mut kept } else { &mut replaced }) += 1;
    }
    assert!(kept > 0, "never killed in time: {kept} kept, {replaced} replaced");
}
