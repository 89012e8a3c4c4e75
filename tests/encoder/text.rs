//! CLIP's text encoder, its tokens, and heads made from class names, against what open_clip computes
//! (`text_support/golden.py`).

use crate::support;
use crate::support::runtime;
use std::path::Path;

use crate::support::program::{json, run};
use crate::support::relative_l2;
use crate::support::text::{E, floats, golden, parameters, save, strings, theirs};
use serde_json::{Value, json};
use taskbasis::heads::Tokenizer;
use taskbasis::{Activation, EncoderOptions, ErrorKind, Head, Prompts, TextEncoder, TextHints, TextModel};

const HEADS: usize = 2;

fn encoder(path: &Path, activation: Activation) -> Option<TextEncoder> {
    if !runtime() {
        return None;
    }
    let hints = TextHints { heads: Some(HEADS), activation: Some(activation), ..TextHints::default() };
    Some(TextEncoder::new(TextModel::open(path, hints).unwrap(), &EncoderOptions::default()).unwrap())
}

#[test]
fn tokens_are_the_references() {
    let golden = golden();
    let tokenizer = Tokenizer::new();
    for (text, expected) in strings(&golden["texts"]).iter().zip(golden["tokens"].as_array().unwrap()) {
        let expected: Vec<i64> = expected.as_array().unwrap().iter().map(|t| t.as_i64().unwrap()).collect();
        assert_eq!(tokenizer.tokens(text, 77).unwrap(), expected, "{text}");
    }
}

#[test]
fn embeddings_are_the_references_under_every_naming() {
    let golden = golden();
    let texts = strings(&golden["texts"]);
    let folder = tempfile::tempdir().unwrap();
    let in_module: Vec<_> =
        parameters().into_iter().map(|(name, shape, values)| (format!("text.{name}"), shape, values)).collect();
    for (naming, tensors) in [("open_clip", parameters()), ("module", in_module), ("transformers", theirs(&golden))] {
        let path = folder.path().join(format!("{naming}.safetensors"));
        save(&path, &tensors);
        for (activation, key) in [(Activation::QuickGelu, "quick_gelu"), (Activation::Gelu, "gelu")] {
            let Some(encoder) = encoder(&path, activation) else { return };
            let expected = floats(&golden[key]["embeds"]);
            let embeds = encoder.encode(&texts).unwrap();
            let difference = relative_l2(&embeds, &expected);
            assert!(difference < 1e-5, "{naming}, {key}: {difference}");
            // One by one, no other text decides how long the sequence is.
            for (text, expected) in texts.iter().zip(expected.chunks_exact(E)) {
                assert!(relative_l2(&encoder.encode(&[text]).unwrap(), expected) < 1e-5, "{text}");
            }
        }
    }
}

#[test]
fn the_activation_and_the_order_of_words_count() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save(&path, &parameters());
    let Some(mut quick) = encoder(&path, Activation::QuickGelu) else { return };
    let Some(mut exact) = encoder(&path, Activation::Gelu) else { return };
    let of = |encoder: &TextEncoder, text: &str| encoder.encode(&[text]).unwrap();
    let cat = of(&mut quick, "a cat on a mat");
    assert!(relative_l2(&of(&mut exact, "a cat on a mat"), &cat) > 1e-4);
    assert!(relative_l2(&of(&mut quick, "a mat on a cat"), &cat) > 1e-4);
}

#[test]
fn a_head_is_the_references() {
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    save(&path, &parameters());
    let (classes, prompts) = (strings(&golden["classes"]), Prompts::new(strings(&golden["templates"])).unwrap());
    for (activation, key) in [(Activation::QuickGelu, "quick_gelu"), (Activation::Gelu, "gelu")] {
        let Some(encoder) = encoder(&path, activation) else { return };
        let done = std::cell::Cell::new(0);
        let head = encoder.head(&classes, &prompts, None, &|prompts| done.set(prompts)).unwrap();
        let difference = relative_l2(head.weight(), &floats(&golden[key]["head"]));
        assert!(difference < 1e-5, "{key}: {difference}");
        assert_eq!((done.get(), head.classes(), head.bias()), (9, &classes[..], &[0.0; 3][..]));
        let doubled = encoder.head(&classes, &prompts, Some(200f32.ln()), &|_| ()).unwrap();
        assert!((doubled.weight()[0] / head.weight()[0] - 2.0).abs() < 1e-5);
        assert_eq!(encoder.head(&[], &prompts, None, &|_| ()).unwrap_err().kind(), ErrorKind::Format);
    }
}

#[test]
fn the_program_makes_heads() {
    if !runtime() {
        return;
    }
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let write = |name: &str, value: &Value| std::fs::write(at(name), value.to_string()).unwrap();
    // A folder as the Hub keeps one, whose configuration says what the shapes do not.
    std::fs::create_dir(at("clip")).unwrap();
    save(Path::new(&at("clip/open_clip_model.safetensors")), &parameters());
    write(
        "clip/open_clip_config.json",
        &json!({ "model_cfg": { "quick_gelu": true, "text_cfg": { "heads": HEADS } } }),
    );
    write("classes.json", &json!({ "Pets": golden["classes"], "MNIST": ["0", "1"] }));
    write("templates.json", &json!({ "Pets": golden["templates"] }));
    let arguments = |extra: &[&str]| {
        let common =
            ["heads", "--text-model", &at("clip"), "--classes", &at("classes.json"), "-o", &at("heads.safetensors")];
        common.iter().chain(extra).map(|argument| (*argument).to_owned()).collect::<Vec<_>>()
    };
    let said = |extra: &[&str]| {
        let arguments = arguments(extra);
        let output = run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };

    let given = arguments(&["--task", "Pets", "--templates", &at("templates.json")]);
    let made = json(&given.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(made["heads"], json!([{ "task": "Pets", "classes": 3, "prompts": 3 }]));
    let head = Head::open(at("heads.safetensors"), Some("Pets")).unwrap();
    assert!(relative_l2(head.weight(), &floats(&golden["quick_gelu"]["head"])) < 1e-5);

    // Without templates of the user's, CLIP's own; a task that has none is named before anything is computed.
    assert!(said(&["--task", "MNIST"]).0);
    let (done, error) = said(&[]);
    assert!(!done && error.contains("no prompt templates for `Pets`"), "{error}");
    let (done, error) = said(&["--task", "Pet", "--templates", &at("templates.json")]);
    assert!(!done && error.contains("Did you mean `Pets`?"), "{error}");
    // One list needs a name for its head.
    write("classes.json", &golden["classes"]);
    let (done, error) = said(&["--templates", &at("templates.json")]);
    assert!(!done && error.contains("Give one --task"), "{error}");
    assert!(said(&["--task", "Pets", "--templates", &at("templates.json")]).0);
    // The reference's datasets need no file of names; FER2013's go into its prompts as Python writes lists.
    let known = |extra: &[&str], out: &str| {
        let (model, out) = (at("clip"), at(out));
        json(&[&["heads", "--text-model", &model, "--dataset", "FER2013", "-o", &out], extra].concat())
    };
    let names = at("names.json");
    let made = known(&["--dataset", "MNIST", "--write-classes", &names], "known.safetensors");
    let counts =
        |task: &str, classes: u32, prompts: u32| json!({ "task": task, "classes": classes, "prompts": prompts });
    assert_eq!(made["heads"], json!([counts("FER2013", 7, 6), counts("MNIST", 10, 1)]));
    let written: Value = serde_json::from_slice(&std::fs::read(&names).unwrap()).unwrap();
    assert!(written["FER2013"][3] == "['happy', 'smiling']" && written["MNIST"][9] == "9", "{written}");
    known(&["--plain-names"], "plain.safetensors");
    let of = |file: &str, task| Head::open(at(file), Some(task)).unwrap().weight().to_vec();
    assert!(of("known.safetensors", "FER2013") != of("plain.safetensors", "FER2013"));
    let from_file = ["heads", "--text-model", &at("clip"), "--classes", &names, "-o", &at("named.safetensors")];
    json(&from_file);
    for task in ["FER2013", "MNIST"] {
        assert!(of("known.safetensors", task) == of("named.safetensors", task), "{task}");
    }
    let noted = run(&["heads", "--text-model", &at("clip"), "--dataset", "FER2013", "-o", &at("again.safetensors")]);
    assert!(String::from_utf8_lossy(&noted.stderr).contains("['happy', 'smiling']; --plain-names gives words"));
    let unknown = run(&["heads", "--text-model", &at("clip"), "--dataset", "Car", "-o", &at("again.safetensors")]);
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("Did you mean `Cars`?"));
    // The classes are an input.
    let (done, error) = said(&["--task", "Pets", "-o", &at("classes.json")]);
    assert!(
        !done && error.contains("would overwrite the input") || error.contains("cannot be used multiple times"),
        "{error}"
    );
}

/// A repository of the Hub stands for the checkpoint in it, and what its configuration says is not lost.
#[test]
fn a_model_on_the_hub_comes_with_its_configuration() {
    if !runtime() {
        return;
    }
    let golden = golden();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    save(Path::new(&at("model")), &parameters());
    std::fs::write(at("classes.json"), golden["classes"].to_string()).unwrap();
    std::fs::write(at("templates.json"), golden["templates"].to_string()).unwrap();
    let server = support::hub::Server::start();
    let model = std::fs::read(at("model")).unwrap();
    let config = json!({ "model_cfg": { "text_cfg": { "heads": HEADS } } }).to_string();
    for place in ["", "inner/"] {
        server.put("owner/clip", &format!("{place}open_clip_model.safetensors"), &model);
        server.put("owner/clip", &format!("{place}open_clip_config.json"), config.as_bytes());
    }
    server.put("owner/clip", "large.bin", &[1; 5000]);
    server.put("owner/bare", "open_clip_model.safetensors", &model);
    let run = |text_model: &str, extra: &[&str]| {
        let (classes, templates, output) = (at("classes.json"), at("templates.json"), at("heads.safetensors"));
        let common = ["heads", "--text-model", text_model, "--classes", &classes, "--templates", &templates];
        server.run(&[&common[..], &["--task", "Pets", "-o", &output], extra].concat())
    };
    for text_model in ["hf://owner/clip", "hf://owner/clip/open_clip_model.safetensors", "hf://owner/clip/inner"] {
        let output = run(text_model, &[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let head = Head::open(at("heads.safetensors"), Some("Pets")).unwrap();
        // The configuration says GELU by saying nothing of OpenAI's.
        assert!(relative_l2(head.weight(), &floats(&golden["gelu"]["head"])) < 1e-5, "{text_model}");
    }
    assert_eq!(server.blobs("owner/clip").len(), 2, "nothing else came");

    let output = run("hf://owner/bare", &["--heads-count", "2"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("assumed: activation QuickGELU (--activation)"), "{said}");
    let head = Head::open(at("heads.safetensors"), Some("Pets")).unwrap();
    assert!(relative_l2(head.weight(), &floats(&golden["quick_gelu"]["head"])) < 1e-5);
}

#[test]
fn what_is_no_text_encoder_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let open = |tensors: &[(String, Vec<usize>, Vec<f32>)]| {
        save(&path, tensors);
        TextModel::open(&path, TextHints { heads: Some(HEADS), ..TextHints::default() }).map(drop)
    };
    let error = |tensors: &[(String, Vec<usize>, Vec<f32>)]| open(tensors).unwrap_err().to_string();
    open(&parameters()).unwrap();

    let image = [("visual.proj".to_owned(), vec![2, 2], vec![0.0; 4])];
    assert!(error(&image).contains("holds no text encoder"), "{}", error(&image));
    let without = |name: &str| parameters().into_iter().filter(|(known, ..)| known != name).collect::<Vec<_>>();
    for name in ["positional_embedding", "transformer.resblocks.1.mlp.c_proj.bias", "text_projection"] {
        assert!(error(&without(name)).contains(&format!("tensor `{name}`: the text encoder lacks this parameter")));
    }
    let mut more = parameters();
    more.push(("cls_emb".into(), vec![2], vec![0.0; 2]));
    assert!(error(&more).contains("tensor `cls_emb`: a parameter that this text encoder would not use"));

    // A vocabulary of another size would be read as other words.
    let mut small = parameters();
    let (_, shape, values) = small.iter_mut().find(|(name, ..)| name == "token_embedding.weight").unwrap();
    shape[0] -= 1;
    values.truncate(shape[0] * shape[1]);
    open(&small).unwrap();
    let model = TextModel::open(&path, TextHints { heads: Some(HEADS), ..TextHints::default() }).unwrap();
    let error = TextEncoder::new(model, &EncoderOptions::default()).unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("another vocabulary"), "{error}");

    // No scale, and nothing to say which of two files is the model.
    save(&path, &without("logit_scale"));
    if let Some(encoder) = encoder(&path, Activation::QuickGelu) {
        let prompts = Prompts::new(["a {}"]).unwrap();
        let error = encoder.head(&["cat".into()], &prompts, None, &|_| ()).unwrap_err();
        assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("4.6052"), "{error}");
    }
    std::fs::rename(&path, folder.path().join("a.safetensors")).unwrap();
    std::fs::write(folder.path().join("b.safetensors"), "").unwrap();
    let error = TextModel::open(folder.path(), TextHints::default()).unwrap_err().to_string();
    assert!(error.contains("several checkpoints: a.safetensors, b.safetensors"), "{error}");
}

#[test]
fn a_stub_of_a_text_tower_is_not_taken_for_one() {
    let Some(base) = support::digits("base/state_dict.pt") else { return };
    let base = taskbasis::Checkpoint::open(base).unwrap();
    let error = TextModel::of(&base, taskbasis::ArchHints::default()).unwrap_err().to_string();
    assert!(error.contains("text encoder"), "{error}");
}
