use std::path::Path;

use serde_json::{Value, json};

use super::keys::Keys;
use super::*;
use crate::error::Result;
use crate::preprocess::{Interpolation, ResizeMode};
use crate::tower::arch::{Activation, ArchHints, Epsilon, Pooling};

fn read(config: &Value) -> Result<Option<stated::Stated>> {
    files::parse(Keys(config))
}

fn stated(config: &Value) -> stated::Stated {
    read(config).unwrap().expect("a configuration")
}

fn refused(config: &Value) -> String {
    stated(config).image.unwrap().refused.unwrap_or_default()
}

fn open_clip(vision: Value) -> Value {
    json!({ "model_cfg": { "embed_dim": 640, "vision_cfg": vision, "text_cfg": {} } })
}

#[test]
fn open_clips_defaults_are_its_own() {
    let image = stated(&open_clip(json!({ "width": 768 }))).image.unwrap();
    let usual = ArchHints {
        heads: Some(12),
        activation: Some(Activation::Gelu),
        norm_epsilon: Some(Epsilon::USUAL),
        pooling: Some(Pooling::ClassToken),
        grid: None,
    };
    assert_eq!((image.hints, image.pre_norm, image.refused), (usual, Some(true), None));
    let quick = json!({ "quick_gelu": true, "embed_dim": 1, "vision_cfg": { "width": 1280, "head_width": 80 } });
    let hints = stated(&quick).image.unwrap().hints;
    assert_eq!((hints.heads, hints.activation), (Some(16), Some(Activation::QuickGelu)));
}

#[test]
fn open_clips_switches_are_read() {
    let config = open_clip(json!({
        "width": 1664, "head_width": 104, "mlp_ratio": 4.9231, "no_ln_pre": true, "pool_type": "avg",
        "final_ln_after_pool": true, "act_kwargs": { "approximate": "tanh" }, "norm_kwargs": { "eps": 1e-6 },
        "image_size": [336, 336], "something_new": [1],
    }));
    let image = stated(&config).image.unwrap();
    let expected = ArchHints {
        heads: Some(16),
        activation: Some(Activation::GeluTanh),
        norm_epsilon: Some(Epsilon::new(1e-6).unwrap()),
        pooling: Some(Pooling::MeanThenNorm),
        grid: None,
    };
    assert_eq!((image.hints, image.pre_norm), (expected, Some(false)));
    // What int(1664 · 4.9231) is.
    assert!(image.extents.contains(&(stated::Extent::MlpWidth, 8192)), "{:?}", image.extents);
    let pooling = |vision| stated(&open_clip(vision)).image.unwrap().hints.pooling;
    assert_eq!(pooling(json!({ "pool_type": "avg" })), Some(Pooling::NormThenMean));
    assert_eq!(pooling(json!({ "pool_type": "tok", "final_ln_after_pool": true })), Some(Pooling::ClassToken));
}

#[test]
fn what_is_not_built_in_is_refused_by_its_name() {
    for (vision, word) in [
        (json!({ "attentional_pool": true }), "attentional pooling"),
        (json!({ "timm_model_name": "convnext_base" }), "convnext_base"),
        (json!({ "layers": [3, 4, 6, 3] }), "ResNet"),
        (json!({ "pool_type": "none" }), "pooling `none`"),
        (json!({ "qk_norm": true }), "qk_norm"),
        (json!({ "scale_heads": true }), "scale_heads"),
    ] {
        assert!(refused(&open_clip(vision)).contains(word), "{word}");
    }
    for (vision, word) in [
        (json!({ "act_kwargs": { "approximate": "other" } }), "activation"),
        (json!({ "patch_size": [16, 14] }), "not square"),
        (json!({ "width": "768" }), "`width`"),
        (json!({ "width": -1 }), "`width`"),
        (json!({ "norm_kwargs": { "eps": 0.0 } }), "epsilon"),
    ] {
        assert!(read(&open_clip(vision)).unwrap_err().to_string().contains(word), "{word}");
    }
    let other = json!({ "model_type": "clip", "vision_config": { "hidden_act": "relu" } });
    assert!(read(&other).unwrap_err().to_string().contains("`relu`"));
}

#[test]
fn transformers_sections_are_found() {
    let vision =
        json!({ "hidden_size": 1280, "num_attention_heads": 16, "hidden_act": "gelu", "layer_norm_eps": 1e-6 });
    let hints = |config: &Value| stated(config).image.unwrap().hints;
    let nested = json!({ "model_type": "clip", "projection_dim": 1024, "vision_config": vision });
    let mut alone = vision.clone();
    alone["model_type"] = json!("clip_vision_model");
    let within = json!({ "model_type": "llava", "vision_config": alone });
    for config in [&nested, &alone, &within] {
        let hints = hints(config);
        assert_eq!((hints.heads, hints.activation), (Some(16), Some(Activation::Gelu)));
        assert_eq!(hints.norm_epsilon.map(Epsilon::get), Some(1e-6));
    }
    assert_eq!(hints(&json!({ "model_type": "clip" })).activation, Some(Activation::QuickGelu));
    for (name, activation) in [("gelu_pytorch_tanh", Activation::GeluTanh), ("quick_gelu", Activation::QuickGelu)] {
        let config = json!({ "model_type": "clip", "vision_config": { "hidden_act": name } });
        assert_eq!(hints(&config).activation, Some(activation));
    }
    let other = stated(&json!({ "model_type": "blip", "vision_config": { "model_type": "blip_vision_model" } }));
    assert!(other.image.is_none() && other.other.unwrap().contains("blip"));
    assert!(read(&json!({ "name": "a package", "version": 1 })).unwrap().is_none());
}

#[test]
fn timms_names_and_tags_tell_the_activation() {
    let hints = |architecture: &str, tag: &str| {
        let config =
            json!({ "architecture": architecture, "pretrained_cfg": { "tag": tag, "input_size": [3, 224, 224] } });
        stated(&config).image.map(|says| says.hints.activation.unwrap())
    };
    for (architecture, tag, activation) in [
        ("vit_base_patch32_clip_224", "openai", Some(Activation::QuickGelu)),
        ("vit_base_patch32_clip_224", "openai_ft_in1k", Some(Activation::Gelu)),
        ("vit_base_patch32_clip_224", "laion400m_e32", Some(Activation::QuickGelu)),
        ("vit_base_patch16_clip_224", "laion400m_e32", Some(Activation::Gelu)),
        ("vit_huge_patch14_clip_quickgelu_224", "any", Some(Activation::QuickGelu)),
        ("vit_large_patch14_clip_224", "laion2b", Some(Activation::Gelu)),
        ("vit_base_patch16_224", "augreg_in21k", Some(Activation::Gelu)),
        ("eva02_large_patch14_clip_336", "merged2b_s6b_b61k", Some(Activation::Silu)),
        ("vit_giant_patch14_reg4_dinov2", "lvd142m", Some(Activation::Silu)),
        ("vit_base_patch16_rope_reg1_gap_256", "sbb_in1k", None),
        ("convnext_base", "any", None),
    ] {
        assert_eq!(hints(architecture, tag), activation, "{architecture}.{tag}");
    }
}

#[test]
fn the_preparation_of_images_is_read() {
    let config = json!({
        "model_cfg": { "embed_dim": 1, "vision_cfg": {} },
        "preprocess_cfg": { "mean": [0.5, 0.5, 0.5], "std": 0.25, "interpolation": "bilinear", "resize_mode": "squash" },
    });
    let preprocess = stated(&config).images.unwrap().preprocess(8).unwrap();
    assert_eq!((preprocess.mean(), preprocess.std()), ([0.5; 3], [0.25; 3]));
    assert_eq!((preprocess.resize(), preprocess.edge()), (ResizeMode::Squash, 8));
    assert_eq!(preprocess.interpolation(), Interpolation::Bilinear);

    let config = json!({
        "image_processor_type": "CLIPImageProcessor", "image_mean": [0.1, 0.2, 0.3], "image_std": [1, 1, 1],
        "size": { "shortest_edge": 256 }, "crop_size": { "height": 224, "width": 224 }, "resample": 2,
    });
    let of = stated(&config);
    let side = of.side;
    let preprocess = of.images.unwrap().preprocess(224).unwrap();
    assert_eq!((side, preprocess.edge(), preprocess.mean()), (Some(224), 256, [0.1, 0.2, 0.3]));
    assert_eq!((preprocess.resize(), preprocess.interpolation()), (ResizeMode::Shortest, Interpolation::Bilinear));

    let size = |size: Value, crop: Value| {
        let config = json!({ "image_mean": [0.5, 0.5, 0.5], "size": size, "crop_size": crop, "do_normalize": false });
        let of = stated(&config);
        (of.images.unwrap().resize.unwrap(), of.side.unwrap())
    };
    assert_eq!(size(json!(224), json!(224)), (ResizeMode::Shortest, 224));
    assert_eq!(size(json!({ "height": 378, "width": 378 }), json!(null)), (ResizeMode::Squash, 378));
    for (config, word) in [
        (json!({ "image_mean": 0.5, "size": 224, "do_resize": false }), "do_resize"),
        (json!({ "image_mean": 0.5, "size": 224, "do_center_crop": false }), "not square"),
        (json!({ "image_mean": 0.5, "size": { "height": 2, "width": 3 } }), "`size`"),
        (json!({ "image_mean": 0.5, "size": 224, "rescale_factor": 1.0 }), "rescale_factor"),
        (json!({ "image_mean": 0.5, "size": 224, "resample": 9 }), "resample"),
        (json!({ "image_mean": [0.5, 0.5], "size": 224 }), "image_mean"),
    ] {
        assert!(read(&config).unwrap_err().to_string().contains(word), "{word}");
    }
}

#[test]
fn the_preparation_of_images_of_others_is_read() {
    // For a user's graph, of architectures that are not built here.
    let pretrained = json!({ "input_size": [3, 224, 224], "crop_pct": 0.875, "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1],
        "interpolation": "bilinear" });
    let of = stated(&json!({ "architecture": "convnext_tiny", "pretrained_cfg": pretrained }));
    let images = of.images.unwrap();
    assert!(of.other.unwrap().contains("convnext_tiny") && of.image.is_none());
    assert_eq!((of.side, images.edge, images.mean), (Some(224), Some(256), Some([0.1, 0.2, 0.3])));
    assert_eq!((images.resize, images.interpolation), (Some(ResizeMode::Shortest), Some(Interpolation::Bilinear)));
    // What is odd is no error of those who pass over it.
    let odd = json!({ "architecture": "convnext_tiny", "pretrained_cfg": { "crop_mode": "border" } });
    assert!(stated(&odd).images.is_none());

    // transformers' ConvNextImageProcessor, as ConvNeXt's and ResNet's checkpoints have it.
    let processor = |kind: &str, size: Value, share: f64| {
        json!({ "image_processor_type": kind, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "size": size,
            "crop_pct": share, "resample": 3 })
    };
    for (size, share, side, edge, resize) in [
        (json!({ "shortest_edge": 224 }), 0.875, 224, 256, ResizeMode::Shortest),
        (json!(224), 0.95, 224, 235, ResizeMode::Shortest),
        (json!({ "shortest_edge": 384 }), 0.875, 384, 384, ResizeMode::Squash),
    ] {
        let of = stated(&processor("ConvNextImageProcessor", size, share));
        let images = of.images.unwrap();
        assert_eq!((of.side, images.edge, images.resize), (Some(side), Some(edge), Some(resize)));
    }
    let mut unsaid = processor("ConvNextImageProcessor", json!({ "shortest_edge": 224 }), 0.5);
    unsaid.as_object_mut().unwrap().remove("crop_pct");
    assert_eq!(stated(&unsaid).images.unwrap().edge, Some(256));
    let mut odd = json!({ "image_processor_type": "LevitImageProcessor", "image_mean": 0.5, "size": 224 });
    assert!(read(&odd).unwrap_err().to_string().contains("256/224"));
    odd["image_processor_type"] = json!("MobileViTImageProcessor");
    odd["do_flip_channel_order"] = json!(true);
    assert!(read(&odd).unwrap_err().to_string().contains("blue before red"));
    let other = processor("PoolFormerImageProcessor", json!({ "shortest_edge": 224 }), 0.9);
    assert!(read(&other).unwrap_err().to_string().contains("`crop_pct`"));
    assert!(read(&processor("ConvNextImageProcessor", json!(224), 2.0)).unwrap_err().to_string().contains("0.05 to 1"));
}

#[test]
fn a_configuration_is_no_bomb() {
    let folder = tempfile::tempdir().unwrap();
    let weights = folder.path().join("model.safetensors");
    let error = |text: &[u8]| {
        std::fs::write(folder.path().join("config.json"), text).unwrap();
        files::read(&weights, &ConfigSource::Beside).unwrap_err().to_string()
    };
    for (text, word) in [
        (&b"{"[..], "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "a JSON object"),
        (&vec![b' '; (4 << 20) + 1], "too large"),
        (&vec![b'['; 1 << 16], "not JSON"),
    ] {
        let error = error(text);
        assert!(error.contains(word) && error.contains("config.json"), "{error}");
        assert!(error.contains("model.safetensors"), "{error}");
    }
    std::fs::write(folder.path().join("config.json"), b"{\"name\": \"a package\"}").unwrap();
    assert!(files::read(&weights, &ConfigSource::Beside).unwrap().is_empty());
    let asked = ConfigSource::File(folder.path().join("config.json"));
    assert!(files::read(&weights, &asked).unwrap_err().to_string().contains("no configuration"));
    assert!(files::read(Path::new("gone"), &ConfigSource::File("gone.json".into())).is_err());
}

#[test]
fn other_families_of_transformers_are_read() {
    let hints = |config: Value| stated(&config).image.unwrap().hints;
    let siglip = hints(json!({ "model_type": "siglip", "vision_config": { "num_attention_heads": 16 } }));
    assert_eq!(
        (siglip.heads, siglip.activation, siglip.norm_epsilon, siglip.pooling),
        (Some(16), Some(Activation::GeluTanh), Some(Epsilon::SMALL), Some(Pooling::Attention))
    );
    let classifier = json!({ "model_type": "siglip", "architectures": ["SiglipForImageClassification"] });
    assert_eq!(hints(classifier).pooling, Some(Pooling::NormThenMean));
    for (kind, architecture, pooling, epsilon) in [
        ("vit", "ViTForImageClassification", Pooling::ClassToken, Epsilon::SMALLEST),
        ("deit", "DeiTForImageClassificationWithTeacher", Pooling::ClassAndDistillation, Epsilon::SMALLEST),
        ("dinov2", "Dinov2Model", Pooling::ClassToken, Epsilon::SMALL),
        ("dinov2", "Dinov2ForImageClassification", Pooling::ClassAndMean, Epsilon::SMALL),
        ("dinov3_vit", "DINOv3ViTModel", Pooling::ClassToken, Epsilon::USUAL),
    ] {
        let config = json!({ "model_type": kind, "architectures": [architecture], "image_size": 32, "patch_size": 8 });
        let hints = hints(config);
        assert_eq!((hints.pooling, hints.norm_epsilon, hints.grid), (Some(pooling), Some(epsilon), Some(4)), "{kind}");
    }
    let gated = json!({ "model_type": "dinov2", "hidden_act": "gelu", "use_swiglu_ffn": true });
    assert_eq!(hints(gated).activation, Some(Activation::Silu));
    assert!(refused(&json!({ "model_type": "siglip2", "vision_config": {} })).contains("NaFlex"));
    assert!(refused(&json!({ "model_type": "dinov3_vit", "rope_theta": 10 })).contains("base 10"));
}

#[test]
fn other_families_of_timm_are_read() {
    let says = |architecture: &str, pool: &str, size: usize| {
        let pretrained = json!({ "input_size": [3, size, size] });
        let config = json!({ "architecture": architecture, "global_pool": pool, "pretrained_cfg": pretrained });
        stated(&config).image.unwrap()
    };
    for (architecture, pool, size, pooling, epsilon, pre_norm) in [
        ("vit_base_patch16_siglip_224", "map", 224, Pooling::Attention, Epsilon::SMALL, false),
        ("vit_small_patch14_dinov2", "token", 518, Pooling::ClassToken, Epsilon::SMALL, false),
        ("vit_small_patch16_dinov3", "avg", 256, Pooling::NormThenMean, Epsilon::USUAL, false),
        ("deit_tiny_patch16_224", "avg", 224, Pooling::MeanThenNorm, Epsilon::SMALL, false),
        ("eva02_base_patch16_clip_224", "token", 224, Pooling::ClassToken, Epsilon::SMALL, false),
        ("vit_pe_core_base_patch16_224", "map", 224, Pooling::Attention, Epsilon::USUAL, true),
        ("vit_large_patch14_clip_224", "token", 224, Pooling::ClassToken, Epsilon::USUAL, true),
    ] {
        let says = says(architecture, pool, size);
        assert_eq!(says.refused, None, "{architecture}");
        assert_eq!(
            (says.hints.pooling, says.hints.norm_epsilon, says.pre_norm),
            (Some(pooling), Some(epsilon), Some(pre_norm)),
            "{architecture}"
        );
    }
    assert_eq!(says("vit_small_patch16_dinov3", "avg", 256).hints.grid, Some(16));
    let other_size = says("vit_pe_core_base_patch16_224", "map", 384);
    assert!(other_size.refused.unwrap().contains("rotary positions"));
    // Within open_clip's configurations.
    let vision = json!({ "timm_model_name": "vit_base_patch16_siglip_256", "timm_pool": "map", "image_size": 256,
        "timm_proj": "none" });
    let image = stated(&open_clip(vision)).image.unwrap();
    assert_eq!((image.hints.pooling, image.refused), (Some(Pooling::Attention), None));
    let deep = json!({ "timm_model_name": "vit_base_patch16_siglip_256", "timm_proj": "mlp" });
    assert!(refused(&open_clip(deep)).contains("several layers"));
}
