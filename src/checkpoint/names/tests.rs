use super::*;
use crate::checkpoint::unread_type::Unread;
use crate::tower::{Activation, Arch, Variant};

fn named(tensors: Vec<(String, Stored)>) -> Result<NamedTensors> {
    canonical(tensors, None, Beside::LeaveOut)
}

fn tensors(names: &[&str]) -> Vec<(String, Stored)> {
    let tensor = |i: usize| Tensor::from_f32(&[i as f32, i as f32 + 0.5], &[2, 1], "test").unwrap();
    names.iter().enumerate().map(|(i, &name)| (name.to_owned(), Ok(tensor(i)))).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    canonical(tensors(names), None, Beside::Keep).unwrap().tensors.into_keys().collect()
}

fn error(names: &[&str]) -> String {
    named(tensors(names)).unwrap_err().to_string()
}

#[test]
fn wrappers_are_taken_off_the_whole_model() {
    assert_eq!(names(&["model.visual.proj", "model.logit_scale"]), ["visual.proj", "logit_scale"]);
    assert_eq!(names(&["state_dict.module.model.visual.proj"]), ["visual.proj"]);
    assert_eq!(names(&["n_averaged", "module.visual.proj"]), ["n_averaged", "visual.proj"]);
    assert_eq!(names(&["model.weight", "model.bias"]), ["weight", "bias"]);
    assert_eq!(names(&["model.weight", "bias"]), ["model.weight", "bias"]);
    assert_eq!(names(&["weight", "bias"]), ["weight", "bias"]);
}

#[test]
fn two_models_are_not_mixed() {
    assert_eq!(
        error(&["model.visual.proj", "ema", "module.visual.conv1.weight"]),
        "two image towers, or one that is wrapped in two ways: got `model.visual.proj` and \
         `module.visual.conv1.weight`. Save the weights of one model"
    );
    assert_eq!(
        error(&["visual.proj", "visual_projection.weight"]),
        "two tensors stand for the same weights: got `visual.proj` and `visual_projection.weight`"
    );
    let pre = ["vision_model.pre_layrnorm.bias", "vision_model.pre_layernorm.bias"];
    assert!(error(&pre).contains("same weights: got `vision_model.pre_layrnorm.bias` and"));
}

#[test]
fn q_k_and_v_become_one() {
    let [k, q, v] = ["k", "q", "v"].map(|x| format!("vision_model.encoder.layers.3.self_attn.{x}_proj.weight"));
    let joined = named(tensors(&[&k, &q, &v])).unwrap().tensors;
    let tensor = joined["visual.transformer.resblocks.3.attn.in_proj_weight"].as_ref().unwrap();
    assert_eq!((joined.len(), tensor.shape()), (1, &[6, 1][..]));
    assert_eq!(*tensor.to_f32().unwrap(), [1., 1.5, 0., 0.5, 2., 2.5], "q, then k, then v");
    assert_eq!(error(&[&k, &v]), format!("tensor `{k}`: attention weights are incomplete: expected beside it `{q}`"));
    let whole = "visual.transformer.resblocks.3.attn.in_proj_weight";
    assert!(error(&[&k, &q, whole, &v]).contains("same weights"));
}

#[test]
fn the_projection_is_transposed() {
    let found = named(tensors(&["visual_projection.weight"])).unwrap().tensors;
    assert_eq!(found["visual.proj"].as_ref().unwrap().shape(), [1, 2]);
}

#[test]
fn unknown_parts_of_the_tower_are_refused() {
    for name in [
        "vision_model.head.attention.in_proj_scale",
        "vision_model.encoder.layers.01.layer_norm1.weight",
        "vision_model.encoder.layers.1.layer_norm1.scale",
        "vision_model.embeddings.patch_embedding.scale",
    ] {
        assert!(error(&[name]).starts_with(&format!("tensor `{name}`: this tensor has no place")));
    }
    assert_eq!(names(&["text_model.final_layer_norm.bias"]), ["text_model.final_layer_norm.bias"]);
}

/// A small tower by open_clip's names, its values told apart by `seed`.
fn tower(seed: f32) -> Vec<(String, Stored)> {
    let arch = Arch {
        width: 4,
        layers: 2,
        heads: 2,
        mlp_width: 6,
        patch: 2,
        grid: 2,
        embed_dim: 3,
        activation: Activation::Gelu,
        variant: Variant::default(),
    };
    let parameter = |(name, shape): (String, Vec<usize>)| {
        let values: Vec<f32> =
            (0..shape.iter().product()).map(|i: usize| seed + name.len() as f32 + i as f32).collect();
        (name, Ok(Tensor::from_f32(&values, &shape, "test").unwrap()))
    };
    arch.parameters().into_iter().map(parameter).collect()
}

/// The same tower as transformers names it: q, k and v apart, the projection transposed.
fn transformers(tower: &[(String, Stored)]) -> Vec<(String, Stored)> {
    let modules = [
        ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
        ("visual.conv1.", "vision_model.embeddings.patch_embedding."),
        ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
        ("visual.ln_pre.", "vision_model.pre_layrnorm."),
        ("visual.ln_post.", "vision_model.post_layernorm."),
        ("visual.transformer.resblocks.", "vision_model.encoder.layers."),
    ];
    let inner =
        [("ln_", "layer_norm"), ("attn.out", "self_attn.out"), ("mlp.c_fc", "mlp.fc1"), ("mlp.c_proj", "mlp.fc2")];
    let mut renamed = Vec::new();
    for (name, stored) in tower {
        let tensor = stored.clone().unwrap();
        if name == "visual.proj" {
            renamed.push(("visual_projection.weight".to_owned(), Ok(tensor.transposed().unwrap())));
            continue;
        }
        let (ours, theirs) = modules.iter().find(|(ours, _)| name.starts_with(ours)).unwrap();
        let name = name.replace(ours, theirs);
        if let Some((block, kind)) = name.split_once("attn.in_proj_") {
            for (third, letter) in ["q", "k", "v"].iter().enumerate() {
                let rows = tensor.rows(4 * third..4 * (third + 1)).unwrap();
                renamed.push((format!("{block}self_attn.{letter}_proj.{kind}"), Ok(rows)));
            }
            continue;
        }
        let blocks = name.contains(".layers.");
        let name = inner.iter().fold(name, |name, (a, b)| if blocks { name.replace(a, b) } else { name });
        renamed.push((name, Ok(tensor)));
    }
    renamed
}

/// The same tower as timm names it, with its zero bias beside the projection.
fn timm(tower: &[(String, Stored)]) -> Vec<(String, Stored)> {
    let modules = [
        ("visual.class_embedding", "cls_token"),
        ("visual.conv1.", "patch_embed.proj."),
        ("visual.positional_embedding", "pos_embed"),
        ("visual.ln_pre.", "norm_pre."),
        ("visual.ln_post.", "norm."),
        ("visual.transformer.resblocks.", "blocks."),
        ("visual.proj", "head.weight"),
    ];
    let inner = [
        ("ln_", "norm"),
        ("attn.in_proj_", "attn.qkv."),
        ("attn.out_proj", "attn.proj"),
        ("mlp.c_fc", "mlp.fc1"),
        ("mlp.c_proj", "mlp.fc2"),
    ];
    let renamed = tower.iter().map(|(name, stored)| {
        let tensor = stored.clone().unwrap();
        let (ours, theirs) = modules.iter().find(|(ours, _)| name.starts_with(ours)).unwrap();
        let name = name.replace(ours, theirs);
        let blocks = name.starts_with("blocks.");
        let name = inner.iter().fold(name, |name, (a, b)| if blocks { name.replace(a, b) } else { name });
        let tensor = match &*name {
            "cls_token" => tensor.reshaped(&[1, 1, 4]),
            "pos_embed" => tensor.reshaped(&[1, 5, 4]),
            "head.weight" => tensor.transposed(),
            _ => Ok(tensor),
        };
        (name, Ok(tensor.unwrap()))
    });
    let bias = Tensor::from_f32(&[0.0; 3], &[3], "test").unwrap();
    renamed.chain([("head.bias".to_owned(), Ok(bias))]).collect()
}

fn under(prefix: &str, tower: Vec<(String, Stored)>) -> Vec<(String, Stored)> {
    tower.into_iter().map(|(name, stored)| (format!("{prefix}{name}"), stored)).collect()
}

/// Names and values.
fn content(tensors: &IndexMap<String, Stored>) -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut content: Vec<_> = tensors
        .iter()
        .map(|(name, stored)| {
            let tensor = stored.as_ref().unwrap();
            (name.clone(), tensor.shape().to_vec(), tensor.to_f32().unwrap().into_owned())
        })
        .collect();
    content.sort_by(|(a, ..), (b, ..)| a.cmp(b));
    content
}

#[track_caller]
fn is_tower(tensors: Vec<(String, Stored)>, seed: f32) -> Naming {
    let found = named(tensors).unwrap();
    assert_eq!(content(&found.tensors), content(&tower(seed).into_iter().collect()));
    found.naming
}

#[test]
fn a_tower_is_found_under_any_prefix_by_any_of_the_names() {
    let prefixes = [
        "",
        "clip_model.",
        "net.",
        "base_model.model.",
        "_forward_module.",
        "0.",
        "state_dict._orig_mod.clip_model.",
        "conditioner.embedders.0.open_clip.model.",
    ];
    for prefix in prefixes {
        let bare = |root: &str, tower: Vec<(String, Stored)>| {
            let strip =
                |(name, stored): (String, Stored)| (name.strip_prefix(root).unwrap_or(&name).to_owned(), stored);
            tower.into_iter().map(strip).collect::<Vec<_>>()
        };
        let plain = tower(1.0);
        let layer = |(name, stored): (String, Stored)| (name.replace(".layers.", ".layer."), stored);
        let altclip: Vec<_> = transformers(&plain).into_iter().map(layer).collect();
        for form in [
            altclip.clone(),
            bare("vision_model.", altclip),
            plain.clone(),
            bare("visual.", plain.clone()),
            transformers(&plain),
            bare("vision_model.", transformers(&plain)),
            timm(&plain),
        ] {
            let naming = is_tower(under(prefix, form.clone()), 1.0);
            assert_eq!(naming.prefix(), prefix);
            assert_eq!(naming.told().is_none(), prefix.is_empty() && form[0].0.starts_with("visual."), "{naming:?}");
            // What stands beside the model is not the model's: an accuracy, an optimizer, a head.
            let more = ["best_acc1", "optimizer.state.0.exp_avg", "ff_head.weight"];
            let with_more: Vec<_> = under(prefix, form).into_iter().chain(tensors(&more)).collect();
            if !prefix.is_empty() {
                assert_eq!(is_tower(with_more, 1.0).beside(), more);
            }
        }
    }
}

#[test]
fn what_torch_puts_between_names_is_passed_over() {
    for infix in ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "module"] {
        for place in ["visual.", "visual.transformer.resblocks.0.", "visual.ln_post.", "visual.class_embedding"] {
            let wrapped = |tower: Vec<(String, Stored)>| {
                let wrap = |(name, stored): (String, Stored)| match name.strip_prefix(place) {
                    Some(rest) if place.ends_with('.') => (format!("{place}{infix}.{rest}"), stored),
                    Some(_) => (format!("visual.{infix}.class_embedding"), stored),
                    None => (name, stored),
                };
                tower.into_iter().map(wrap).collect::<Vec<_>>()
            };
            let naming = is_tower(wrapped(tower(1.0)), 1.0);
            assert!(naming.told().is_some_and(|told| told.contains("passed over")), "{infix} {place} {naming:?}");
        }
        is_tower(under(&format!("{infix}."), tower(1.0)), 1.0);
    }
}

#[test]
fn of_several_towers_one_is_to_be_named() {
    let two = |a: &str, b: &str| [under(a, tower(1.0)), under(b, tower(2.0))].concat();
    let asked = |tensors, prefix: &str| canonical(tensors, Some(prefix), Beside::LeaveOut);
    for (a, b) in [("model.", "teacher."), ("", "module."), ("state_dict.", "state_dict_ema."), ("0.", "1.")] {
        let error = named(two(a, b)).unwrap_err().to_string();
        let listed =
            format!("several image towers, of different weights: expected one, got `{a}visual.`, `{b}visual.`");
        assert!(error.starts_with(&listed) && error.contains("--prefix"), "{error}");
        for (prefix, seed) in [(a, 1.0), (b, 2.0)] {
            for spelling in [prefix.to_owned(), format!("{prefix}visual"), format!("{prefix}visual.")] {
                let found = asked(two(a, b), &spelling).unwrap();
                assert_eq!(content(&found.tensors), content(&tower(seed).into_iter().collect()), "{spelling}");
            }
        }
        let error = asked(two(a, b), "student").unwrap_err();
        assert_eq!(error.kind(), crate::ErrorKind::NotFound);
        assert!(error.to_string().contains(&format!("got `{a}visual.`, `{b}visual.`")), "{error}");
    }
    // The one model by two libraries' names.
    let mixed = [tower(1.0), transformers(&tower(2.0))].concat();
    assert!(named(mixed.clone()).unwrap_err().to_string().contains("`visual.`, `vision_model.`"));

    // A part of a tower beside a whole one, as prompts have it, is no second tower.
    let class_token = tensors(&["prompts.visual.class_embedding"]);
    assert_eq!(is_tower([under("clip.", tower(1.0)), class_token].concat(), 1.0).prefix(), "clip.");
}

#[test]
fn equal_weights_under_two_prefixes_are_no_conflict() {
    let naming = is_tower([under("model.", tower(1.0)), under("ema.", tower(1.0))].concat(), 1.0);
    assert_eq!(naming.remark(), Some("the same weights again under `ema.visual.`"));
    let mut other = under("ema.", tower(1.0));
    other[3].1 = Err(Unread::new("float8"));
    assert!(named([under("model.", tower(1.0)), other].concat()).is_err());
    // Towers that are equal up to the projection, which lies outside of transformers' towers.
    let mut other = under("ema.", transformers(&tower(1.0)));
    other.last_mut().unwrap().1 = transformers(&tower(2.0)).pop().unwrap().1;
    assert!(other.last().unwrap().0.ends_with("visual_projection.weight"));
    assert!(named([under("model.", transformers(&tower(1.0))), other].concat()).is_err());
}

#[test]
fn the_average_that_lightning_saves_is_taken_and_told() {
    for order in [["state_dict.net.", "current_model_state.net."], ["current_model_state.net.", "state_dict.net."]] {
        let seed = |prefix: &str| if prefix.starts_with("state_dict") { 1.0 } else { 2.0 };
        let naming = is_tower(order.map(|prefix| under(prefix, tower(seed(prefix)))).concat(), 1.0);
        assert!(naming.remark().is_some_and(|remark| remark.contains("current_model_state")), "{naming:?}");
    }
}

#[test]
fn a_bare_tower_has_no_place_for_what_is_unknown() {
    let bare: Vec<_> = tower(1.0).into_iter().map(|(name, stored)| (name.replacen("visual.", "", 1), stored)).collect();
    let with = |more: &str| named([bare.clone(), tensors(&[more])].concat()).unwrap().tensors;
    // Named as a part of the tower, so that what asks for its architecture is told.
    assert!(with("prompt_embeddings").contains_key("visual.prompt_embeddings"));
    for outside in ["classifier.weight", "head.bias", "logit_scale"] {
        assert!(with(outside).contains_key(outside));
    }
    let theirs: Vec<_> = transformers(&tower(1.0));
    let theirs = theirs.into_iter().map(|(name, stored)| (name.replacen("vision_model.", "", 1), stored));
    let error = named(theirs.chain(tensors(&["encoder.layers.0.gate"])).collect()).unwrap_err().to_string();
    assert!(error.contains("tensor `vision_model.encoder.layers.0.gate`: this tensor has no place"), "{error}");
    for unknown in
        ["blocks.0.ls1.weight", "reg_tokens", "fc_norm.scale", "blocks.01.norm1.weight", "patch_embed.proj.scale"]
    {
        let error = named([timm(&tower(1.0)), tensors(&[unknown])].concat()).unwrap_err().to_string();
        assert!(error.contains(&format!("tensor `{unknown}`: this tensor, by timm's names, has no place")), "{error}");
    }
}

#[test]
fn a_classifier_of_timms_is_no_projection() {
    let mut tensors = timm(&tower(1.0));
    tensors.pop();
    tensors.push(("head.bias".into(), Ok(Tensor::from_f32(&[0.0, 0.5, 0.0], &[3], "test").unwrap())));
    let found = named(tensors).unwrap();
    assert!(found.tensors.contains_key("head.weight") && !found.tensors.contains_key("visual.proj"));
    assert_eq!(found.naming.remark(), Some("its head is a classifier over 3 classes, no projection"));
}

#[test]
fn an_unread_third_makes_the_whole_unread() {
    let mut tensors = transformers(&tower(1.0));
    let k = tensors.iter_mut().find(|(name, _)| name.ends_with("layers.1.self_attn.k_proj.weight")).unwrap();
    k.1 = Err(Unread::new("float8"));
    let found = named(tensors).unwrap().tensors;
    let whole = &found["visual.transformer.resblocks.1.attn.in_proj_weight"];
    assert_eq!(whole.as_ref().unwrap_err(), &Unread::new("float8"));
    assert_eq!(found.values().filter(|stored| stored.is_err()).count(), 1);
}

#[test]
fn other_models_are_told_by_their_names() {
    for (names, what) in [
        (&["embeddings.cls_token", "encoder.layer.0.layer_scale1.lambda1"][..], "DINOv2"),
        (&["cls_token", "pos_embed", "blocks.0.ls1.gamma"], "DINOv2"),
        (&["trunk.patch_embed.proj.weight", "trunk.attn_pool.latent"], "SigLIP"),
        (&["embeddings.patch_embedding.bias", "post_layernorm.weight"], "SigLIP"),
        (&["vit.embeddings.patch_embeddings.projection.weight", "vit.embeddings.cls_token"], "transformers library's"),
        (&["visual.layer1.0.conv1.weight", "visual.conv1.weight"], "ResNet"),
        (&["text_model.embeddings.token_embedding.weight"], "text tower alone"),
    ] {
        let found = named(tensors(names)).unwrap();
        assert!(found.naming.kind().is_some_and(|kind| kind.contains(what)), "{names:?}: {:?}", found.naming.kind());
    }
    assert_eq!(named(tensors(&["weight", "bias"])).unwrap().naming.kind(), None);
}

#[test]
fn names_without_end_cost_no_time() {
    let long = ["visual.".repeat(20_000), "module.".repeat(20_000), "a.".repeat(60_000)];
    let names: Vec<String> = long.iter().map(|name| format!("{name}class_embedding")).collect();
    let many: Vec<String> = (0..2_000).map(|i| format!("m{i}.visual.class_embedding")).collect();
    let all: Vec<&str> = names.iter().chain(&many).map(String::as_str).collect();
    let began = std::time::Instant::now();
    assert!(error(&all).contains("several image towers"));
    assert!(began.elapsed() < std::time::Duration::from_secs(10));
}

#[test]
fn files_of_other_things_keep_their_names() {
    let weights = ["AE/A/model.visual.proj", "AE/B/model.visual.conv1.weight", "PCA/model.visual.proj"];
    assert_eq!(names(&weights), weights);
    let whole = [under("AE/A/model.", tower(1.0)), under("AE/B/model.", tower(2.0))].concat();
    assert!(named(whole).unwrap().tensors.contains_key("AE/B/model.visual.proj"));
}

/// Every library's names of the parts that CLIP's towers lack, in the order of the file.
#[test]
fn other_families_names_are_known() {
    let block = "visual.transformer.resblocks.0.";
    let at = |part: &str| format!("{block}{part}");
    let open_clip = |more: &[(&str, &str)]| {
        let anchor = [("visual.trunk.patch_embed.proj.weight", "visual.conv1.weight")];
        let block = [("visual.trunk.blocks.0.norm1.weight", "visual.transformer.resblocks.0.ln_1.weight")];
        anchor.iter().chain(&block).chain(more).map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect::<Vec<_>>()
    };
    let in_block = |theirs: &str, parts: &[(&str, &str)]| {
        parts.iter().map(|(a, b)| (format!("{theirs}{a}"), at(b))).collect::<Vec<_>>()
    };
    let trunk = open_clip(&[
        ("visual.trunk.patch_embed.proj.bias", "visual.conv1.bias"),
        ("visual.trunk.norm_pre.bias", "visual.ln_pre.bias"),
        ("visual.trunk.norm.bias", "visual.ln_post.bias"),
        ("visual.trunk.attn_pool.norm.weight", "visual.attn_pool.ln_2.weight"),
        ("visual.trunk.attn_pool.proj.bias", "visual.attn_pool.attn.out_proj.bias"),
        ("visual.trunk.attn_pool.mlp.fc2.weight", "visual.attn_pool.mlp.c_proj.weight"),
        ("visual.head.proj.weight", "visual.proj"),
        ("text.transformer.resblocks.0.ln_1.weight", "text.transformer.resblocks.0.ln_1.weight"),
        ("logit_bias", "logit_bias"),
    ]);
    let trunk_blocks = in_block(
        "visual.trunk.blocks.0.",
        &[
            ("ls1.gamma", "ls_1.gamma"),
            ("gamma_2", "ls_2.gamma"),
            ("attn.norm.weight", "attn.ln_inner.weight"),
            ("mlp.norm.bias", "mlp.ln.bias"),
            ("mlp.w12.weight", "mlp.c_fc.weight"),
            ("mlp.w3.bias", "mlp.c_proj.bias"),
        ],
    );
    let vit = in_block(
        "dinov2.encoder.layer.0.",
        &[
            ("norm1.weight", "ln_1.weight"),
            ("attention.output.dense.bias", "attn.out_proj.bias"),
            ("layer_scale1.lambda1", "ls_1.gamma"),
            ("mlp.weights_in.weight", "mlp.c_fc.weight"),
            ("mlp.weights_out.bias", "mlp.c_proj.bias"),
            ("layer_scale2.lambda1", "ls_2.gamma"),
        ],
    );
    let others = in_block(
        "dinov2.encoder.layer.0.",
        &[
            ("layernorm_before.bias", "ln_1.bias"),
            ("layernorm_after.weight", "ln_2.weight"),
            ("intermediate.dense.weight", "mlp.c_fc.weight"),
            ("output.dense.weight", "mlp.c_proj.weight"),
            ("attention.o_proj.weight", "attn.out_proj.weight"),
            ("mlp.up_proj.weight", "mlp.c_fc.weight"),
            ("mlp.down_proj.bias", "mlp.c_proj.bias"),
        ],
    );
    let around = [
        ("dinov2.embeddings.patch_embeddings.projection.weight", "visual.conv1.weight"),
        ("dinov2.embeddings.patch_embeddings.projection.bias", "visual.conv1.bias"),
        ("dinov2.layernorm.weight", "visual.ln_post.weight"),
        ("dinov2.embeddings.mask_token", "dinov2.embeddings.mask_token"),
        ("classifier.weight", "classifier.weight"),
    ]
    .map(|(a, b)| (a.to_owned(), b.to_owned()));
    let names_of = |all: &[(String, String)], anchor: Option<&str>| {
        let mut sources: Vec<(String, Stored)> = tensors(&all.iter().map(|(a, _)| a.as_str()).collect::<Vec<_>>());
        if let Some(name) = anchor {
            sources.push((name.to_owned(), Ok(Tensor::from_f32(&[0.0; 2], &[1, 1, 2], "test").unwrap())));
        }
        canonical(sources, None, Beside::Keep).unwrap().tensors.into_keys().collect::<Vec<_>>()
    };
    let right = |all: &[(String, String)]| all.iter().map(|(_, b)| b.clone()).collect::<Vec<_>>();
    for case in [[trunk.clone(), trunk_blocks].concat(), trunk] {
        assert_eq!(names_of(&case, None), right(&case));
    }
    for parts in [vit, others] {
        // A class token is what such a tower is known by.
        let mut parts: Vec<_> = around.iter().cloned().chain(parts).collect();
        let duplicate = parts.iter().position(|(name, _)| name.ends_with("mlp.up_proj.weight"));
        let plain = duplicate.map(|at| parts.remove(at));
        let mut found = names_of(&parts, Some("dinov2.embeddings.cls_token"));
        assert_eq!(found.pop().as_deref(), Some("visual.class_embedding"));
        assert_eq!(found, right(&parts));
        if let Some(plain) = plain {
            // DINOv3's first layer, where MLPs have no gate.
            let is_other = |(name, _): &(String, String)| !name.contains("intermediate");
            let parts: Vec<_> = parts.into_iter().filter(is_other).chain([plain]).collect();
            assert!(names_of(&parts, Some("dinov2.embeddings.cls_token")).contains(&at("mlp.c_fc.weight")));
        }
    }
}

/// EVA-02's keys have no bias, gates come first, and a probe's query is in front of its keys and values.
#[test]
fn what_others_keep_apart_is_joined() {
    let part = |name: &str, values: &[f32]| {
        (format!("visual.trunk.{name}"), Ok(Tensor::from_f32(values, &[values.len()], "test").unwrap()))
    };
    let anchor = [part("patch_embed.proj.weight", &[0.0])];
    let eva = [
        part("blocks.0.attn.q_proj.bias", &[1., 2.]),
        part("blocks.0.attn.v_proj.bias", &[5., 6.]),
        part("blocks.0.mlp.fc1_x.bias", &[3., 4.]),
        part("blocks.0.mlp.fc1_g.bias", &[1., 2.]),
        part("attn_pool.kv.bias", &[3., 4., 5., 6.]),
        part("attn_pool.q.bias", &[1., 2.]),
    ];
    let found = named([&anchor[..], &eva].concat()).unwrap().tensors;
    let values = |name: &str| found[name].as_ref().unwrap().to_f32().unwrap().into_owned();
    assert_eq!(values("visual.transformer.resblocks.0.attn.in_proj_bias"), [1., 2., 0., 0., 5., 6.]);
    assert_eq!(values("visual.transformer.resblocks.0.mlp.c_fc.bias"), [1., 2., 3., 4.]);
    assert_eq!(values("visual.attn_pool.attn.in_proj_bias"), [1., 2., 3., 4., 5., 6.]);

    let error = |tensors: &[(String, Stored)]| named([&anchor[..], tensors].concat()).unwrap_err().to_string();
    let message = error(&[eva[2].clone(), part("blocks.0.norm1.weight", &[1.])]);
    assert!(message.contains("gated MLP is incomplete") && message.contains("fc1_g.bias"), "{message}");
    let message = error(&[eva[4].clone(), part("blocks.0.norm1.weight", &[1.])]);
    assert!(message.contains("attn_pool.q.bias"), "{message}");
    // In one block it got lost.
    let two = [part("blocks.1.attn.q_proj.bias", &[1.]), part("blocks.1.attn.k_proj.bias", &[1.])];
    let whole = [part("blocks.1.attn.v_proj.bias", &[1.])];
    let message = error(&[&eva[..2], &two, &whole].concat());
    assert!(message.contains("attention weights are incomplete") && message.contains("k_proj"), "{message}");
}
