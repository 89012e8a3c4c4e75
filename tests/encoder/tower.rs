//! What shapes do not tell of a tower is read beside its weights, stored in bundles, and said where it is assumed.

use crate::support;
use std::path::{Path, PathBuf};

use crate::support::naive;
use crate::support::tensors::Tensors;
use crate::support::{Random, relative_l2, runtime};
use serde_json::{Value, json};
use taskbasis::preprocess::{Interpolation, ResizeMode};
use taskbasis::tower::{Activation, ConfigSource, Origin, Property};
use taskbasis::{
    Arch, ArchHints, BaseFormat, Basis, Bundle, Checkpoint, Encoder, EncoderOptions, Epsilon, ErrorKind, ImageHints,
    Method, ModelOptions, Packer, Pooling, Residency, Result, TowerConfig, TowerOptions, Variant, save_arrays,
};

/// A tower with heads that its width does not tell, and all that an open_clip configuration can say of one.
fn clipa() -> Arch {
    Arch {
        width: 48,
        layers: 2,
        heads: 4,
        mlp_width: 80,
        patch: 5,
        grid: 3,
        embed_dim: 20,
        activation: Activation::GeluTanh,
        variant: Variant {
            pre_norm: false,
            norm_epsilon: Epsilon::new(1e-3).unwrap(),
            pooling: Pooling::MeanThenNorm,
            ..Variant::default()
        },
    }
}

/// What open_clip would have written beside [`clipa`].
fn clipa_config() -> Value {
    json!({
        "model_cfg": { "embed_dim": 20, "vision_cfg": {
            "width": 48, "head_width": 12, "layers": 2, "mlp_ratio": 1.6667, "patch_size": 5, "image_size": 15,
            "no_ln_pre": true, "pool_type": "avg", "final_ln_after_pool": true,
            "act_kwargs": { "approximate": "tanh" }, "norm_kwargs": { "eps": 1e-3 },
        } },
        "preprocess_cfg": { "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.75], "resize_mode": "squash",
            "interpolation": "bilinear" },
    })
}

/// A folder with random weights of `arch`.
struct Folder(tempfile::TempDir);

impl Folder {
    fn of(arch: &Arch) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        let weights = Tensors::random(arch, 3);
        let arrays: Vec<(&str, &[usize], &[f32])> = weights
            .0
            .iter()
            .map(|(name, (shape, values))| (name.as_str(), shape.as_slice(), values.as_slice()))
            .collect();
        save_arrays(&folder.base(), &arrays, &[], &[]).unwrap();
        folder
    }

    fn base(&self) -> PathBuf {
        self.0.path().join("model.safetensors")
    }

    fn with(self, name: &str, config: &Value) -> Self {
        std::fs::write(self.0.path().join(name), config.to_string()).unwrap();
        self
    }

    fn read(&self, options: &TowerOptions) -> Result<TowerConfig> {
        TowerConfig::read(&Checkpoint::open(self.base()).unwrap(), options)
    }

    fn error(&self) -> String {
        self.read(&TowerOptions::default()).unwrap_err().to_string()
    }
}

#[test]
fn a_configuration_beside_the_weights_tells_everything() {
    let folder = Folder::of(&clipa()).with("open_clip_config.json", &clipa_config());
    let tower = folder.read(&TowerOptions::default()).unwrap();
    assert_eq!(tower.arch, clipa());
    assert_eq!((tower.assumed(), tower.assumed_images(), tower.notes.len()), (None, None, 0));
    let is_config = |value: &taskbasis::tower::TowerValue| matches!(&value.origin, Origin::Config(path) if path.ends_with("open_clip_config.json"));
    assert!(tower.values.len() == 8 && tower.values.iter().all(is_config), "{:?}", tower.values);
    let preprocess = &tower.preprocess;
    assert_eq!((preprocess.mean(), preprocess.std()), ([0.5; 3], [0.25, 0.5, 0.75]));
    assert_eq!((preprocess.resize(), preprocess.interpolation()), (ResizeMode::Squash, Interpolation::Bilinear));
    if !runtime() {
        return;
    }
    let weights = Tensors::open(&folder.base());
    let pixels = Random(7).many(2 * tower.arch.pixels());
    let encoder = Encoder::new(&tower.arch, &EncoderOptions::default()).unwrap();
    let embeds = encoder.encode(&weights, &pixels, 2).unwrap();
    let error = relative_l2(&embeds, &naive::encode(&clipa(), &weights, &pixels, 2));
    assert!(error < 1e-5, "{error}");
}

/// OpenAI's form in the shapes of [`clipa`], heads apart: what nothing tells is assumed, and said.
#[test]
fn what_nothing_tells_is_assumed_and_said() {
    let arch = Arch { width: 64, heads: 1, activation: Activation::QuickGelu, variant: Variant::default(), ..clipa() };
    let folder = Folder::of(&arch);
    let tower = folder.read(&TowerOptions::default()).unwrap();
    assert_eq!(tower.arch, arch);
    let said = tower.assumed().unwrap();
    for option in ["--heads-count", "--activation", "--norm-eps", "--pooling", "QuickGELU", "class token"] {
        assert!(said.contains(option), "{option}: {said}");
    }
    assert!(tower.assumed_images().unwrap().contains("--mean, --std, --resize, --interpolation"));

    // All of it asked for: nothing is left to say.
    let asked = TowerOptions { arch: arch.hints(), images: ImageHints::clip(), ..TowerOptions::default() };
    let tower = folder.read(&asked).unwrap();
    assert_eq!((tower.assumed(), tower.assumed_images()), (None, None));
    assert_eq!(tower.origin(Property::Heads), Some(&Origin::Asked));
    // A user's graph has the architecture in it.
    let graph = folder.read(&TowerOptions { has_graph: true, ..TowerOptions::default() }).unwrap();
    assert!(graph.assumed().is_none() && graph.assumed_images().is_some());
}

#[test]
fn published_widths_have_their_heads_and_disputed_ones_none() {
    let of_width =
        |width| Arch { width, layers: 1, heads: 1, mlp_width: 8, grid: 1, patch: 1, embed_dim: 2, ..clipa() };
    let usual = |width| Arch { variant: Variant::default(), ..of_width(width) };
    for (width, heads) in [(1152, 16), (1280, 16), (1408, 16), (1664, 16), (1792, 16), (768, 12)] {
        let tower = Folder::of(&usual(width)).read(&TowerOptions::default()).unwrap();
        assert_eq!(tower.arch.heads, heads);
        assert_eq!(tower.origin(Property::Heads), Some(&Origin::Published));
        assert!(!tower.assumed().unwrap().contains("heads"), "{width}");
    }
    let error = Folder::of(&usual(1536)).error();
    assert!(error.contains("16 or 24") && error.contains("--heads-count"), "{error}");
    // CLIPA's form is published at some widths, and open at others.
    let tower = Folder::of(&of_width(1280)).read(&TowerOptions::default()).unwrap();
    assert_eq!(tower.arch.variant.pooling, Pooling::MeanThenNorm);
    let error = Folder::of(&of_width(64)).error();
    assert!(error.contains("--pooling") && error.contains("model.safetensors"), "{error}");
}

#[test]
fn options_win_over_configurations_and_that_is_said() {
    let folder = Folder::of(&clipa()).with("open_clip_config.json", &clipa_config());
    let hints = ArchHints { heads: Some(2), activation: Some(Activation::QuickGelu), ..ArchHints::default() };
    let tower = folder.read(&hints.into()).unwrap();
    assert_eq!(tower.arch, Arch { heads: 2, activation: Activation::QuickGelu, ..clipa() });
    assert_eq!(tower.notes.len(), 2, "{:?}", tower.notes);
    for (note, words) in
        tower.notes.iter().zip([["heads 4", "2 is used"], ["activation GELU (tanh)", "QuickGELU is used"]])
    {
        assert!(note.contains("open_clip_config.json") && words.iter().all(|word| note.contains(word)), "{note}");
    }
    // Another configuration than the one beside, and none.
    let other = folder.0.path().join("other.json");
    let mut config = clipa_config();
    config["model_cfg"]["vision_cfg"]["norm_kwargs"] = json!(null);
    std::fs::write(&other, config.to_string()).unwrap();
    let tower = folder.read(&TowerOptions { config: ConfigSource::File(other), ..TowerOptions::default() }).unwrap();
    assert_eq!(tower.arch.variant.norm_epsilon, Epsilon::USUAL);
    let none = TowerOptions { arch: clipa().hints(), config: ConfigSource::Ignored, ..TowerOptions::default() };
    assert!(folder.read(&none).unwrap().assumed_images().is_some());
}

#[test]
fn the_first_configuration_is_believed() {
    let quick = json!({ "model_type": "clip_vision_model", "hidden_size": 48, "num_hidden_layers": 2,
        "intermediate_size": 80, "num_attention_heads": 4, "patch_size": 5, "image_size": 15, "hidden_act": "gelu" });
    let usual = Arch { variant: Variant::default(), ..clipa() };
    let mut config = clipa_config();
    let vision = &mut config["model_cfg"]["vision_cfg"];
    for key in ["no_ln_pre", "pool_type", "final_ln_after_pool", "norm_kwargs"] {
        vision.as_object_mut().unwrap().remove(key);
    }
    let folder = Folder::of(&usual).with("open_clip_config.json", &config).with("config.json", &quick);
    let tower = folder.read(&TowerOptions::default()).unwrap();
    assert_eq!(tower.arch.activation, Activation::GeluTanh);
    assert!(tower.notes.len() == 1 && tower.notes[0].contains("config.json says activation GELU"), "{:?}", tower.notes);
    // Another kind of model is passed over, which is said.
    let folder = folder.with("config.json", &json!({ "model_type": "blip", "vision_config": {} }));
    let tower = folder.read(&TowerOptions::default()).unwrap();
    assert!(tower.notes.len() == 1 && tower.notes[0].contains("blip"), "{:?}", tower.notes);
}

#[test]
fn a_configuration_of_other_weights_is_an_error_that_names_both() {
    let change = |key: &str, value: Value| {
        let mut config = clipa_config();
        config["model_cfg"]["vision_cfg"][key] = value;
        Folder::of(&clipa()).with("open_clip_config.json", &config).error()
    };
    for (key, value, word) in [
        ("width", json!(64), "another width"),
        ("layers", json!(12), "another number of layers"),
        ("patch_size", json!(14), "another patch size"),
        ("image_size", json!(224), "another image size"),
        ("mlp_ratio", json!(4.0), "another MLP width"),
        ("head_width", json!(9), "a number of heads"),
        ("no_ln_pre", json!(false), "norm before the blocks"),
        ("attentional_pool", json!(true), "attentional pooling"),
    ] {
        let error = change(key, value);
        assert!(error.contains(word) && error.contains("open_clip_config.json"), "{key}: {error}");
        assert!(word == "attentional pooling" || error.contains("model.safetensors: "), "{key}: {error}");
    }
    let images = json!({ "image_mean": [0.5, 0.5, 0.5], "size": 224, "crop_size": 224 });
    let error = Folder::of(&clipa())
        .with("open_clip_config.json", &clipa_config())
        .with("preprocessor_config.json", &images)
        .error();
    assert!(error.contains("224 × 224 pixels") && error.contains("preprocessor_config.json"), "{error}");

    let mut config = clipa_config();
    config["preprocess_cfg"]["std"] = json!([0.5, 0.0, 0.5]);
    let error = Folder::of(&clipa()).with("open_clip_config.json", &config).error();
    assert!(error.contains("open_clip_config.json: mean and standard deviation cannot be used"), "{error}");
    assert!(error.contains("--std"), "{error}");
}

/// A bundle holds the tower whole, in a form that readers of before refuse.
#[test]
fn a_bundle_stores_the_tower_whole() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let family =
        crate::support::synthetic::Synthetic { arch: clipa(), ..support::family::small(Method::Autoencoder, 4) };
    family.write_base(at("model.safetensors")).unwrap();
    family.write_basis(at("basis")).unwrap();
    std::fs::write(at("open_clip_config.json"), clipa_config().to_string()).unwrap();
    let (base, basis) = (Checkpoint::open(at("model.safetensors")).unwrap(), Basis::open(at("basis")).unwrap());
    let mut packer = Packer::new(&base, &basis, ArchHints::default()).unwrap();
    packer.base_format(BaseFormat::F32);
    packer.write(&at("model.taskbasis"), &packer.uniform("f32".parse().unwrap()), &[], &|_| {}).unwrap();

    let bundle = Bundle::open(at("model.taskbasis")).unwrap();
    assert_eq!(bundle.arch(), &clipa());
    let preprocess = bundle.preprocess().unwrap();
    assert_eq!((preprocess.mean(), preprocess.std()), ([0.5; 3], [0.25, 0.5, 0.75]));
    assert_eq!((preprocess.resize(), preprocess.interpolation()), (ResizeMode::Squash, Interpolation::Bilinear));
    let header = header(&at("model.taskbasis"));
    assert_eq!(
        header["taskbasis.tower"],
        json!({ "pre_norm": false, "norm_epsilon": 0.001, "pooling": "mean_then_norm" }).to_string()
    );
    assert!(!header["taskbasis.arch"].as_str().unwrap().contains("variant"));

    let model = bundle.model(None, &ModelOptions::default()).unwrap();
    let tower = bundle.tower(model.base(), &TowerOptions::default()).unwrap();
    assert_eq!((&tower.arch, tower.origin(Property::Pooling)), (&clipa(), Some(&Origin::Bundle)));
    assert!(tower.notes.is_empty(), "{:?}", tower.notes);
    let named = TowerOptions { config: ConfigSource::File(at("other.json")), ..TowerOptions::default() };
    let told = bundle.tower(model.base(), &named).unwrap();
    assert!(told.notes.len() == 1 && told.notes[0].contains("other.json is not read"), "{:?}", told.notes);
    if !runtime() {
        return;
    }
    let weights = model.weights(&"Task0".parse().unwrap()).unwrap();
    let pixels = Random(9).many(3 * clipa().pixels());
    let encoder = Encoder::of_bundle(&bundle, &model, &EncoderOptions::default()).unwrap();
    let embeds = encoder.encode(&*weights.get().unwrap(), &pixels, 3).unwrap();
    let streamed =
        Encoder::new(bundle.arch(), &EncoderOptions { residency: Residency::Blockwise, ..EncoderOptions::default() });
    let streamed = streamed.unwrap();
    let streamed = streamed.encode_task(&weights, &pixels, 3).unwrap();
    assert!(relative_l2(&streamed, &embeds) < 1e-5, "{}", relative_l2(&streamed, &embeds));
}

/// The metadata of a bundle's header.
fn header(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap();
    let length = usize::try_from(u64::from_le_bytes(bytes[..8].try_into().unwrap())).unwrap();
    let header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    header["__metadata__"].clone()
}

#[test]
fn an_unusual_tower_is_refused_where_its_feature_is_not_built_in() {
    let folder = Folder::of(&clipa());
    let mut weights = Tensors::open(&folder.base());
    weights.0.insert("visual.transformer.resblocks.0.ln_attn.weight".into(), (vec![48], vec![0.5; 48]));
    let arrays: Vec<(&str, &[usize], &[f32])> =
        weights.0.iter().map(|(name, (shape, values))| (name.as_str(), shape.as_slice(), values.as_slice())).collect();
    save_arrays(&folder.base(), &arrays, &[], &[]).unwrap();
    let error = folder.read(&TowerOptions::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("norm after attention"), "{error}");
}
