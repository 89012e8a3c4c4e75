//! The door: which model, graph, tower and head paths and options give.

use std::fs::{self, File, FileTimes};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use taskbasis::onnx::BindOptions;
use taskbasis::tower::ConfigSource;
use taskbasis::{
    Activation, ArchHints, BaseFormat, BasisFile, Bundle, EncoderOptions, ErrorKind, GraphChoice, MapMode, Method,
    ModelOptions, OpenModel, OpenOptions, Packer, TowerOptions, Weights, WeightsCache, head_tasks, open_head,
};

use crate::support::bundle::{digits_files, format, pack_digits, tiny, tiny_files};
use crate::support::onnx::GRAPHS;
use crate::support::synthetic::Synthetic;
use crate::support::{bits, digits, runtime};

fn with_base(base: PathBuf) -> OpenOptions {
    OpenOptions { base: Some(base), ..OpenOptions::default() }
}

#[test]
fn a_folder_with_its_base_and_a_bundle_are_one_model() {
    let Some((basis, base)) = digits_files("AE") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("f32.taskbasis");
    pack_digits("AE", format("f32"), BaseFormat::F32, &path).unwrap();
    let of_folder = OpenModel::open(&basis, &with_base(base.clone())).unwrap();
    let of_bundle = OpenModel::open(&path, &OpenOptions::default()).unwrap();
    assert!(of_folder.bundle().is_none() && of_bundle.bundle().is_some());
    assert!(BasisFile::is_folder(&basis) && BasisFile::is_folder(&basis.join("method_info.json")));
    assert!(!BasisFile::is_folder(&path) && !BasisFile::is_folder(&base));

    let missing = OpenModel::open(&basis, &OpenOptions::default()).unwrap_err();
    assert_eq!((missing.kind(), missing.path()), (ErrorKind::InvalidArgument, Some(&*basis)));
    assert_eq!(OpenModel::open_base(&OpenOptions::default()).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let alone = OpenModel::open_base(&with_base(base.clone())).unwrap();
    assert!(alone.model().basis().is_none());
    // Its only tower goes by no name.
    let named = OpenOptions { base_prefix: Some("teacher".into()), ..with_base(base) };
    assert_eq!(OpenModel::open(&basis, &named).unwrap_err().kind(), ErrorKind::NotFound);

    if !runtime() {
        return;
    }
    let embeds = [&of_folder, &of_bundle].map(|opened| {
        let encoder = opened.encoder(&EncoderOptions { threads: 1, ..EncoderOptions::default() }).unwrap();
        let task = opened.model().weights(&"MNIST".parse().unwrap()).unwrap();
        let pixels: Vec<f32> = (0..encoder.arch().pixels()).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect();
        bits(&encoder.encode_task(&task, &pixels, 1).unwrap())
    });
    assert_eq!(embeds[0], embeds[1]);
}

#[test]
fn what_is_asked_for_comes_before_what_a_bundle_says() {
    let (Some((basis, base)), Some(file)) = (digits_files("AE"), digits(GRAPHS[0])) else { return };
    let opened = OpenModel::open(&basis, &with_base(base)).unwrap();
    let given = GraphChoice::File { path: file, map: None, options: BindOptions::default() };
    let graph = opened.graph(&given).unwrap().unwrap();
    assert!(opened.has_graph(&given) && !graph.is_embedded());
    assert!(opened.graph(&GraphChoice::Carried).unwrap().is_none() && !opened.has_graph(&GraphChoice::Carried));

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("graph.taskbasis");
    let hints = ArchHints { activation: Some(Activation::Gelu), ..ArchHints::default() };
    let model = opened.model();
    let mut packer = Packer::new(model.base(), model.basis().unwrap(), hints).unwrap();
    packer.base_format(BaseFormat::F32).graph(&graph).unwrap();
    packer.write(&path, &packer.uniform(format("f32")), &[], &|_| {}).unwrap();
    let bundle = OpenModel::open(&path, &OpenOptions::default()).unwrap();
    assert!(bundle.has_graph(&GraphChoice::Carried) && !bundle.has_graph(&GraphChoice::Built));
    assert!(bundle.graph(&GraphChoice::Carried).unwrap().unwrap().is_embedded());
    assert!(bundle.graph(&GraphChoice::Built).unwrap().is_none());
    assert!(!bundle.graph(&given).unwrap().unwrap().is_embedded());

    let tower = |activation| {
        let arch = ArchHints { activation, ..ArchHints::default() };
        let options = TowerOptions { arch, config: ConfigSource::Ignored, ..TowerOptions::default() };
        bundle.tower(options, &GraphChoice::Built).unwrap().arch.activation
    };
    assert_eq!((tower(None), tower(Some(Activation::QuickGelu))), (Activation::Gelu, Activation::QuickGelu));
}

#[test]
fn a_head_is_that_of_its_task_wherever_it_lies() {
    let (Some(heads), Some((basis, base))) = (digits("heads.safetensors"), digits_files("AE")) else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("heads.taskbasis");
    let opened = OpenModel::open(&basis, &with_base(base)).unwrap();
    let (base, basis) = (opened.model().base(), opened.model().basis().unwrap());
    let mut packer = Packer::new(base, basis, ArchHints::default()).unwrap();
    packer.base_format(BaseFormat::LeftOut).head("MNIST", open_head(&heads, Some("MNIST"), None).unwrap()).unwrap();
    packer.write(&path, &packer.uniform(format("q4")), &[], &|_| {}).unwrap();
    assert_eq!(head_tasks(&path).unwrap(), ["MNIST"]);
    assert!(head_tasks(&heads).unwrap().len() > 1 && Bundle::is_bundle(&path));

    // One that is alone needs no name; of several one has to be named.
    let alone = open_head(&path, None, None).unwrap();
    assert_eq!(alone.weight(), open_head(&heads, Some("MNIST"), None).unwrap().weight());
    assert_eq!(open_head(&heads, None, None).unwrap_err().kind(), ErrorKind::InvalidArgument);
    let names: Vec<String> = (0..alone.num_classes()).map(|class| format!("digit {class}")).collect();
    let classes = folder.path().join("classes.json");
    std::fs::write(&classes, serde_json::json!({ "MNIST": names }).to_string()).unwrap();
    for (task, path) in [(None, &path), (Some("MNIST"), &path), (Some("MNIST"), &heads)] {
        assert_eq!(open_head(path, task, Some(&classes)).unwrap().class_name(3), "digit 3");
    }
    let unknown = open_head(&path, Some("MNISt"), None).unwrap_err();
    assert!(unknown.kind() == ErrorKind::NotFound && unknown.to_string().contains("MNIST"), "{unknown}");
}

/// What a shared cache keeps of files is for those files: neither for others that have taken their names, their inodes,
/// their lengths and their times, nor for what was written into them.
#[test]
fn a_shared_cache_serves_no_other_files() {
    let family = tiny_files(Method::Autoencoder);
    let files: Vec<PathBuf> = fs::read_dir(&family.basis).unwrap().map(|entry| entry.unwrap().path()).collect();
    let files: Vec<PathBuf> = files.into_iter().chain([family.base.clone()]).collect();
    let date = || {
        for file in &files {
            let times = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH);
            File::options().write(true).open(file).unwrap().set_times(times).unwrap();
        }
    };
    date();
    let cache = Arc::new(WeightsCache::new(1 << 20));
    let open = |mode, cache: &Arc<WeightsCache>| {
        let model = ModelOptions { cache: Some(Arc::clone(cache)), ..ModelOptions::default() };
        let options = OpenOptions { mode, model, ..with_base(family.base.clone()) };
        OpenModel::open(&family.basis, &options).unwrap()
    };
    let task = |opened: &OpenModel| opened.model().weights(&"Task1".parse().unwrap()).unwrap();
    let all = |weights: &Weights| -> Vec<u32> {
        weights.iter().flat_map(|(name, ..)| bits(weights.get(name).unwrap())).collect()
    };
    let values = |opened: &OpenModel| all(&task(opened).get().unwrap());
    let (first, second) = (open(MapMode::Map, &cache), open(MapMode::Map, &cache));
    let before = values(&first);
    assert!(task(&second).is_ready(), "the same files, while they are open");
    assert!(!task(&open(MapMode::Read, &cache)).is_ready(), "what is read is its own");
    drop((first, second));

    let lengths = || files.iter().map(|file| fs::metadata(file).unwrap().len()).collect::<Vec<_>>();
    let old = lengths();
    for (seed, in_place) in [(4, false), (5, true)] {
        let other = tempfile::tempdir().unwrap();
        let changed = Synthetic { seed, ..tiny(Method::Autoencoder) };
        changed.write_base(other.path().join("base.pt")).unwrap();
        changed.write_basis(other.path()).unwrap();
        for file in &files {
            let bytes = fs::read(other.path().join(file.file_name().unwrap())).unwrap();
            if !in_place {
                fs::remove_file(file).unwrap();
            }
            fs::write(file, bytes).unwrap();
        }
        date();
        assert_eq!(lengths(), old);
        for mode in [MapMode::Map, MapMode::Read] {
            let opened = open(mode, &cache);
            assert!(!task(&opened).is_ready(), "{mode:?}, {seed}");
            let anew = values(&open(mode, &Arc::new(WeightsCache::new(1 << 20))));
            assert!(anew != before && values(&opened) == anew, "{mode:?}, {seed}");
        }
    }
}

/// Of a model whose files are read, the graph is too: nothing that happens to the file afterwards matters.
#[test]
fn the_graph_of_a_model_that_is_read_is_read() {
    let family = tiny_files(Method::Autoencoder);
    let path = family.path("graph.onnx");
    drop(family.graph());
    let options = OpenOptions { mode: MapMode::Read, ..with_base(family.base.clone()) };
    let opened = OpenModel::open(&family.basis, &options).unwrap();
    let choice = GraphChoice::File { path: path.clone(), map: None, options: BindOptions::default() };
    let graph = opened.graph(&choice).unwrap().unwrap();
    for file in [&path, &family.base, &family.basis.join("basis_vectors.pt")] {
        File::options().write(true).open(file).unwrap().set_len(0).unwrap();
    }
    let weights = opened.model().weights(&"Task1".parse().unwrap()).unwrap().in_layout(graph.layout());
    graph.write(&weights.get().unwrap(), &family.path("out.onnx"), &[]).unwrap();
    assert!(fs::metadata(family.path("out.onnx")).unwrap().len() > 1000);
}
