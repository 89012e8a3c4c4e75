//! SigLIP's text encoder, its tokens, and heads whose scores are sigmoids, against what transformers and open_clip
//! compute (`support/text/siglip.py`).
#![cfg(all(feature = "cli", feature = "tokenizers"))]

use std::path::{Path, PathBuf};

use crate::support;
use crate::support::program::json;
use crate::support::text::{Named, floats, save, siglip, siglip_of_open_clip, siglip_parameters, strings};
use crate::support::{relative_l2, runtime};
use serde_json::{Value, json};
use taskbasis::heads::Tokenizer;
use taskbasis::tower::text::TextForm;
use taskbasis::{EncoderOptions, ErrorKind, Head, Prompts, ScoreFunction, TextEncoder, TextHints, TextModel};

const CONTEXT: usize = 16;
const WIDTH: usize = 32;

fn write(path: &Path, value: &Value) {
    std::fs::write(path, value.to_string()).unwrap();
}

/// A folder with the model as transformers or open_clip keeps it, and the tokenizer of `case` beside it.
fn model(folder: &Path, tensors: &[Named], case: &Value, open_clip: bool) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    write(&folder.join("tokenizer.json"), &case["tokenizer"]);
    write(&folder.join("tokenizer_config.json"), &json!({ "pad_token": case["pad_token"] }));
    let text = json!({ "num_attention_heads": 2, "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH });
    if open_clip {
        let text = json!({
            "context_length": CONTEXT, "width": WIDTH, "heads": 2, "layers": 2, "mlp_ratio": 3.0, "pool_type": "last",
            "no_causal_mask": true, "proj_bias": true, "hf_tokenizer_name": "timm/ViT-B-16-SigLIP",
            "tokenizer_kwargs": { "clean": "canonicalize" }, "norm_kwargs": { "eps": 1e-6 },
            "act_kwargs": { "approximate": "tanh" },
        });
        write(&folder.join("open_clip_config.json"), &json!({ "model_cfg": { "embed_dim": WIDTH, "text_cfg": text } }));
    } else {
        write(&folder.join("config.json"), &json!({ "model_type": "siglip", "text_config": text }));
    }
    let path = folder.join("model.safetensors");
    save(&path, tensors);
    path
}

fn tokens(value: &Value) -> Vec<Vec<i64>> {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn tokens_are_the_librarys() {
    let (golden, folder) = (siglip(), tempfile::tempdir().unwrap());
    let texts = strings(&golden["texts"]);
    for (name, case) in golden["cases"].as_object().unwrap() {
        for (open_clip, key) in [(false, "tokens"), (true, "tokens_of_open_clip")] {
            let place = model(&folder.path().join(format!("{name}-{open_clip}")), &[], case, open_clip);
            let tokenizer = Tokenizer::beside(&place).unwrap();
            for (text, expected) in texts.iter().zip(tokens(&case[key])) {
                assert_eq!(tokenizer.tokens(text, CONTEXT).unwrap(), expected, "{name}, {key}: {text}");
            }
        }
    }
}

#[test]
fn embeddings_are_the_librarys_under_every_naming() {
    if !runtime() {
        return;
    }
    let (golden, folder) = (siglip(), tempfile::tempdir().unwrap());
    let texts = strings(&golden["texts"]);
    for (name, case) in golden["cases"].as_object().unwrap() {
        for (open_clip, tensors) in [(false, siglip_parameters(&golden)), (true, siglip_of_open_clip(&golden))] {
            let place = model(&folder.path().join(format!("{name}-{open_clip}")), &tensors, case, open_clip);
            let opened = TextModel::open(place.parent().unwrap(), TextHints::default()).unwrap();
            assert!(opened.notes().is_empty() && opened.arch().form == TextForm::Siglip, "{:?}", opened.notes());
            let encoder = TextEncoder::new(opened, &EncoderOptions::default()).unwrap();
            // The two libraries clean texts in two ways, so those are compared whose tokens agree.
            let (tokens, theirs) = (tokens(&case["tokens"]), tokens(&case["tokens_of_open_clip"]));
            let embeds = floats(&case["embeds"]);
            let mut compared = 0;
            for (index, text) in texts.iter().enumerate() {
                if open_clip && tokens[index] != theirs[index] {
                    continue;
                }
                let difference = relative_l2(&encoder.encode(&[text]).unwrap(), &embeds[index * WIDTH..][..WIDTH]);
                assert!(difference < 2e-5, "{name}, {open_clip}, {text}: {difference}");
                compared += 1;
            }
            assert!(compared >= 3);
        }
    }
}

/// Probabilities are σ(scale·cos + bias), in a head's file and in a bundle.
#[test]
fn a_heads_scores_are_the_librarys_sigmoids() {
    if !runtime() {
        return;
    }
    let (golden, folder) = (siglip(), tempfile::tempdir().unwrap());
    let case = &golden["cases"]["siglip"];
    let place = model(&folder.path().join("model"), &siglip_parameters(&golden), case, false);
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    // An empty class is no class.
    let texts: Vec<String> = strings(&golden["texts"]).into_iter().filter(|text| !text.is_empty()).collect();
    write(Path::new(&at("classes.json")), &json!({ "Pets": texts, "Cars": ["cat", "number"] }));
    write(Path::new(&at("templates.json")), &json!(["{}"]));
    let arguments = |output: &str| {
        let text_model = place.parent().unwrap().to_str().unwrap().to_owned();
        [
            "heads",
            "--text-model",
            &text_model,
            "--classes",
            &at("classes.json"),
            "--templates",
            &at("templates.json"),
            "-o",
            output,
        ]
        .map(String::from)
    };
    let made = arguments(&at("heads.safetensors"));
    json(&made.iter().map(String::as_str).collect::<Vec<_>>());
    let head = Head::open(at("heads.safetensors"), Some("Pets")).unwrap();
    assert_eq!((head.function(), head.classes().len()), (ScoreFunction::Sigmoid, 0));
    assert_eq!(taskbasis::head_tasks(at("heads.safetensors")).unwrap(), ["Cars", "Pets"]);

    let check = |head: &Head| {
        let images = floats(&case["image_embeds"]);
        let kept: Vec<usize> = (0..6).filter(|index| *index != 4).collect();
        for (image, expected) in images.chunks(WIDTH).zip(case["probabilities"].as_array().unwrap()) {
            let scores = head.classify(image, 9).unwrap();
            assert_eq!(scores.len(), kept.len());
            for score in scores {
                let expected = expected[kept[score.class]].as_f64().unwrap();
                assert!((f64::from(score.probability) / expected - 1.0).abs() < 2e-5, "{score:?}, {expected}");
            }
        }
    };
    check(&head);

    // From the Hub, the files of the tokenizer come along.
    let server = support::hub::Server::start();
    for name in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"] {
        server.put("owner/siglip", name, &std::fs::read(place.with_file_name(name)).unwrap());
    }
    server.put("owner/siglip", "large.bin", &[1; 5000]);
    let mut asked = arguments(&at("from_hub.safetensors"));
    asked[2] = "hf://owner/siglip".into();
    let output = server.run(&asked.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(Head::open(at("from_hub.safetensors"), Some("Pets")).unwrap().weight(), head.weight());
    assert_eq!(server.blobs("owner/siglip").len(), 4, "nothing else came");
}

#[test]
fn a_bundle_keeps_the_function_of_a_head() {
    let family = support::bundle::tiny_files(taskbasis::Method::Autoencoder);
    let bundle = taskbasis::Bundle::open(family.pack("plain.taskbasis", "q4", taskbasis::BaseFormat::F16)).unwrap();
    let sigmoid = || bundle.head("Task1").unwrap().with_function(ScoreFunction::Sigmoid);
    let path = family.pack_with("m.taskbasis", "q4", taskbasis::BaseFormat::F16, |packer| {
        packer.head("Task2", sigmoid()).unwrap();
    });
    let packed = taskbasis::Bundle::open(&path).unwrap();
    let functions = ["Task1", "Task2"].map(|task| packed.head(task).unwrap().function());
    assert_eq!(functions, [ScoreFunction::Softmax, ScoreFunction::Sigmoid]);
    assert!(!String::from_utf8_lossy(&std::fs::read(bundle.path()).unwrap()).contains("taskbasis.sigmoid"));
    let mut parts = support::bundle::Parts::of(&std::fs::read(path).unwrap());
    parts.set_metadata("taskbasis.sigmoid", &json!(["Nowhere"]));
    let errors = support::bundle::faults(parts.join(true));
    assert!(errors[0].to_string().contains("`Nowhere` is classified, and it has no head"), "{:?}", errors[0]);
}

#[test]
fn what_is_missing_is_said() {
    let (golden, folder) = (siglip(), tempfile::tempdir().unwrap());
    let case = &golden["cases"]["siglip"];
    let tensors = siglip_parameters(&golden);
    let place = model(&folder.path().join("model"), &tensors, case, false);
    let beside = |name: &str| place.with_file_name(name);
    let open = || TextModel::open(&place, TextHints::default());
    let without = |name: &str| tensors.iter().filter(|(known, ..)| known != name).cloned().collect::<Vec<_>>();

    // No bias, but as it is given.
    if runtime() {
        save(&place, &without("logit_bias"));
        let head = |bias: Option<f32>| {
            let model = open().unwrap().with_logit_bias(bias);
            let encoder = TextEncoder::new(model, &EncoderOptions::default()).unwrap();
            encoder.head(&["cat".into()], &Prompts::new(["a {}"]).unwrap(), None, &|_| ())
        };
        let error = head(None).unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("--logit-bias"), "{error}");
        assert_eq!(head(Some(-2.5)).unwrap().bias(), [-2.5]);
        save(&place, &tensors);
    }
    let tokenizer = |case: &str| {
        let error = Tokenizer::beside(&place).unwrap_err();
        assert!(error.to_string().contains("tokenizer"), "{case}: {error}");
        error
    };
    std::fs::write(beside("tokenizer_config.json"), r#"{"pad_token": {"content": "<none>"}}"#).unwrap();
    assert!(tokenizer("padding").to_string().contains("`<none>` is not in the vocabulary"));
    std::fs::remove_file(beside("tokenizer_config.json")).unwrap();
    let error = tokenizer("no padding");
    assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("pad_token"), "{error}");
    std::fs::write(beside("tokenizer.json"), "{}").unwrap();
    assert_eq!(tokenizer("damaged").kind(), ErrorKind::Format);
    std::fs::remove_file(beside("tokenizer.json")).unwrap();
    let error = TextEncoder::new(open().unwrap(), &EncoderOptions::default()).unwrap_err();
    let said = error.to_string();
    assert!(
        error.kind() == ErrorKind::NotFound && said.contains("tokenizer.json") && said.contains("not beside"),
        "{said}"
    );

    // A configuration of CLIP's is another model's.
    write(&beside("config.json"), &json!({ "model_type": "clip", "text_config": { "num_attention_heads": 2 } }));
    let error = open().unwrap_err().to_string();
    assert!(error.contains("SigLIP's form") && error.contains("CLIP's form"), "{error}");
    std::fs::remove_file(beside("config.json")).unwrap();
    let hints = TextHints { heads: Some(2), ..TextHints::default() };
    let model = TextModel::open(&place, hints).unwrap();
    assert!(model.notes()[0].contains("GELU (tanh)"), "{:?}", model.notes());
}
