//! Every rule of the format is broken once, with checksums that fit; and every byte of a bundle is changed once.

use crate::support::bundle::{Parts, faults, tiny_files};
use serde_json::{Value, json};
use taskbasis::{BaseFormat, BlockFormat, Checkpoint, ErrorKind, Method};

/// A bundle with everything: mean, residual, heads, class names, graph, suggested λ.
fn everything() -> Vec<u8> {
    let family = tiny_files(Method::Pca);
    let path = family.pack_with("all.taskbasis", "q4", BaseFormat::F16, |packer| {
        packer.graph(&family.graph()).unwrap();
        packer.lambdas(taskbasis::bundle::Lambdas { merged: Some(0.3), ..Default::default() });
        packer.residual("Task1", Checkpoint::open(&family.base).unwrap(), BlockFormat::Q2.into(), 0.0).unwrap();
    });
    std::fs::read(path).unwrap()
}

#[track_caller]
fn refused(what: &str, bytes: Vec<u8>, parts: &[&str]) {
    let errors = faults(bytes);
    let text = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert!(!errors.is_empty(), "{what}: nothing was found");
    assert!(text.starts_with("x.taskbasis: ") || text.starts_with('['), "{what}: the file is not named: {text}");
    for part in parts {
        assert!(text.contains(part), "{what}: `{part}` is not in: {text}");
    }
}

/// After `change`, everything else still fits.
#[track_caller]
fn broken(what: &str, change: impl FnOnce(&mut Parts), parts: &[&str]) {
    let mut taken = Parts::of(&everything());
    change(&mut taken);
    refused(what, taken.join(true), parts);
}

#[test]
fn it_is_sound_to_begin_with() {
    let bytes = everything();
    assert!(faults(bytes.clone()).is_empty());
    assert_eq!(Parts::of(&bytes).join(true), bytes, "taking apart and putting together changes nothing");
}

#[test]
fn whatever_is_cut_off_is_missed() {
    let bytes = everything();
    for length in (0..bytes.len()).step_by(509).chain([1, 7, 8, 9, bytes.len() - 1]) {
        refused("cut off", bytes[..length].to_vec(), &[]);
    }
    refused("longer", [&bytes[..], &[0]].concat(), &["do not cover the file exactly"]);
}

#[test]
fn every_changed_byte_is_found() {
    let family = tiny_files(Method::Autoencoder);
    let bytes = std::fs::read(family.pack("tiny.taskbasis", "q4", BaseFormat::F32)).unwrap();
    assert!(faults(bytes.clone()).is_empty());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let bytes = &bytes;
            scope.spawn(move || {
                for i in (thread..bytes.len()).step_by(threads) {
                    let mut changed = bytes.clone();
                    changed[i] ^= 1 << (i % 8);
                    assert!(!faults(changed).is_empty(), "byte {i} of {} was changed unseen", bytes.len());
                }
            });
        }
    });
}

#[test]
fn metadata() {
    for key in ["arch", "base", "basis", "blocks", "classes", "lambda", "preprocess"] {
        let key = format!("taskbasis.{key}");
        let drop = |parts: &mut Parts| drop(parts.header["__metadata__"].as_object_mut().unwrap().shift_remove(&key));
        broken("left out", drop, &[&format!("the metadata lack `{key}`")]);
        broken("no JSON", |parts| parts.header["__metadata__"][&key] = json!("{"), &[&format!("`{key}` is broken")]);
    }
    let mut taken = Parts::of(&everything());
    taken.header["__metadata__"]["taskbasis.version"] = json!("3");
    let errors = faults(taken.join(true));
    assert_eq!(errors[0].kind(), ErrorKind::Unsupported);
    assert!(errors[0].to_string().contains("expected version 1 or 2, got `3`"), "{}", errors[0]);
    taken.header["__metadata__"]["taskbasis.version"] = json!("2");
    assert!(faults(taken.join(true)).is_empty(), "all that version 1 has, version 2 has too");

    let set = |key: &'static str, field: &'static str, value: Value| {
        move |parts: &mut Parts| {
            let mut all = parts.metadata(key);
            all[field] = value;
            parts.set_metadata(key, &all);
        }
    };
    broken("unknown key", |p| p.header["__metadata__"]["taskbasis.more"] = json!(""), &["`taskbasis.more`"]);
    broken("no heads", set("taskbasis.arch", "heads", json!(0)), &["out of range: the architecture's heads"]);
    broken("another width", set("taskbasis.arch", "width", json!(16)), &["has another shape than it must have"]);
    broken(
        "many layers",
        set("taskbasis.arch", "layers", json!(u64::MAX)),
        &["out of range: the architecture's layers"],
    );
    broken("fewer layers", set("taskbasis.arch", "layers", json!(2)), &["missing", "resblocks.1"]);
    broken("fingerprint", set("taskbasis.base", "fingerprint", json!("0")), &["not a fingerprint"]);
    broken("base said to be out", set("taskbasis.base", "stored", json!(false)), &["the base is left out"]);
    broken("method", set("taskbasis.basis", "method", json!("Mine")), &["an unknown method"]);
    broken("no mean", set("taskbasis.basis", "mean", json!(false)), &["a PCA basis has a mean"]);
    broken("other method", set("taskbasis.basis", "method", json!("RandomBasisMethod")), &["has not a mean"]);
    broken("no tasks", set("taskbasis.basis", "tasks", json!([])), &["at least one task"]);
    broken("a task twice", set("taskbasis.basis", "tasks", json!(["A", "A", "B"])), &["task `A` is named twice"]);
    broken("no vector", set("taskbasis.basis", "vectors", json!(0)), &["at least one task and one vector"]);
    broken("more vectors", set("taskbasis.basis", "vectors", json!(3)), &["another shape", "vectors/visual."]);
    broken("a vast number", set("taskbasis.basis", "vectors", json!(u64::MAX)), &["another shape"]);
    broken("no residual", set("taskbasis.basis", "residuals", json!([])), &["the metadata tell of no such vector"]);
    broken("whose residual", set("taskbasis.basis", "residuals", json!(["Nobody"])), &["a residual for `Nobody`"]);
    broken(
        "more residuals",
        set("taskbasis.basis", "residuals", json!(["Task1", "Task0"])),
        &["missing", "residuals/1/"],
    );
    broken("classes of no task", set("taskbasis.classes", "Nobody", json!(["a"])), &["has no head"]);
    broken("class names", set("taskbasis.classes", "Task1", json!(["a"])), &["another number of class names"]);
    broken("λ", set("taskbasis.lambda", "merged", json!("x")), &["`taskbasis.lambda` is broken"]);
    broken("image size", set("taskbasis.preprocess", "image_size", json!(224)), &["another image size"]);
    broken("deviation", set("taskbasis.preprocess", "std", json!([1.0, 0.0, 1.0])), &["cannot be used"]);
    broken("unknown field", set("taskbasis.basis", "more", json!(1)), &["`taskbasis.basis` is broken"]);
    let blocks = |parts: &mut Parts, change: &dyn Fn(&mut Value)| {
        let mut all = parts.metadata("taskbasis.blocks");
        change(&mut all["vectors/visual.proj"]);
        parts.set_metadata("taskbasis.blocks", &all);
    };
    broken("block format", |p| blocks(p, &|b| b["format"] = json!("q5")), &["unknown block format `q5`"]);
    broken("another format", |p| blocks(p, &|b| b["format"] = json!("f16")), &["unknown block format"]);
    broken("block shape", |p| blocks(p, &|b| b["shape"] = json!([4, 8])), &["another shape than the architecture"]);
    let unsaid = |parts: &mut Parts| {
        let mut all = parts.metadata("taskbasis.blocks");
        all.as_object_mut().unwrap().shift_remove("vectors/visual.proj");
        parts.set_metadata("taskbasis.blocks", &all);
    };
    broken("blocks unsaid", unsaid, &["vectors/visual.proj", "another shape"]);
    broken(
        "blocks of nothing",
        set("taskbasis.blocks", "vectors/x", json!({"format": "q4", "shape": []})),
        &["`vectors/x`"],
    );
}

#[test]
fn tensors() {
    let rename = |from: &'static str, to: &'static str| {
        move |parts: &mut Parts| {
            let text = parts.header.to_string().replace(&format!("\"{from}\""), &format!("\"{to}\""));
            parts.header = serde_json::from_str(&text).unwrap();
        }
    };
    let retype = |tensor: &'static str, dtype: &'static str| {
        move |parts: &mut Parts| parts.header[tensor]["dtype"] = json!(dtype)
    };
    broken("unknown name", rename("recovery", "recoveries"), &["`recoveries`", "does not know"]);
    broken("unknown parameter", rename("base/visual.proj", "base/visual.more"), &["no such parameter"]);
    broken("base lacks one", rename("base/visual.proj", "padding/99"), &["`padding/99`"]);
    broken("vectors lack one", rename("vectors/visual.class_embedding", "padding/99"), &["padding/99"]);
    broken("integers", retype("base/visual.proj", "I16"), &["`base/visual.proj`", "expected f32, f16 or bf16"]);
    broken("recovery f32", |p| p.header["recovery"]["dtype"] = json!("I64"), &["`recovery`", "expected f64"]);
    broken("bias without weight", rename("heads/Task1/weight", "heads/Task2/weight"), &["heads/Task1/weight"]);
    broken("head of integers", retype("heads/Task1/weight", "I32"), &["expected f32"]);
    let matrix = |p: &mut Parts| p.header["graph"]["shape"] = json!([1, p.range("graph").len()]);
    broken("the graph a matrix", matrix, &["a row of bytes"]);
    broken(
        "checksums lack one",
        |p| {
            let range = p.range("checksums");
            p.header["checksums"]["data_offsets"] = json!([range.start, range.end - 8]);
            p.header["checksums"]["shape"] = json!([range.len() / 8 - 1]);
            p.data.truncate(range.end - 8);
        },
        &["a checksum of the header and one per tensor"],
    );
    broken("no checksums", rename("checksums", "padding/99"), &["padding"]);
    broken("shape lies", |p| p.header["base/visual.proj"]["shape"] = json!([8, 5]), &["places or shapes"]);
    broken(
        "vast shape",
        |p| p.header["base/visual.proj"]["shape"] = json!([u64::MAX, u64::MAX]),
        &["places or shapes"],
    );
    broken(
        "overlapping",
        |p| {
            let range = p.range("base/visual.proj");
            p.header["base/visual.proj"]["data_offsets"] = json!([range.start - 64, range.end]);
        },
        &["places or shapes"],
    );
    broken(
        "outside",
        |p| {
            let range = p.range("checksums");
            p.header["checksums"]["data_offsets"] = json!([range.start, range.end + (1 << 40)]);
        },
        &["places or shapes"],
    );
    broken(
        "padding of numbers",
        |p| {
            let bytes = p.header["padding/0"]["shape"][0].as_u64().unwrap();
            p.header["padding/0"] =
                json!({"dtype": "F32", "shape": [bytes / 4], "data_offsets": p.header["padding/0"]["data_offsets"]});
        },
        &["`padding/0`", "padding must be bytes"],
    );
    broken(
        "padding of a page",
        |p| {
            // Everything after it moves by whole pages.
            let range = p.range("padding/0");
            p.data.splice(range.end..range.end, [0; 4096]);
            for (name, entry) in p.header.as_object_mut().unwrap() {
                let Some(offsets) = entry.get_mut("data_offsets") else { continue };
                for (i, offset) in offsets.as_array_mut().unwrap().iter_mut().enumerate() {
                    let at = offset.as_u64().unwrap();
                    if at > range.start as u64 && (i == 1 || name != "padding/0") {
                        *offset = json!(at + 4096);
                    }
                }
            }
            p.header["padding/0"]["shape"] = json!([range.len() + 4096]);
        },
        &["less than a page"],
    );
    broken(
        "padding that says something",
        |p| {
            let at = p.range("padding/0").start;
            p.data[at] = 1;
        },
        &["`padding/0`", "must be zero"],
    );
    broken(
        "behind the blocks",
        |p| {
            let at = p.range("vectors/visual.proj").end - 1;
            p.data[at] = 1;
        },
        &["`vectors/visual.proj`", "behind its blocks must be zero"],
    );
}

#[test]
fn places() {
    let bytes = everything();
    let taken = Parts::of(&bytes);
    refused("a header of its own length", taken.join(false), &["does not end at a page"]);
    broken(
        "sections out of order",
        |p| {
            let (heads, recovery) = (p.header["heads/Task1/weight"].clone(), p.header["recovery"].clone());
            // Both begin at pages; names and shapes change places.
            p.header["recovery"] =
                json!({"dtype": "F32", "shape": heads["shape"], "data_offsets": recovery["data_offsets"]});
            p.header["heads/Task1/weight"] =
                json!({"dtype": "F64", "shape": recovery["shape"], "data_offsets": heads["data_offsets"]});
        },
        &["x.taskbasis"],
    );
    broken(
        "not aligned",
        |p| {
            // Padding gives a byte to the tensor behind it.
            let (pad, tensor) = (
                "padding/0",
                p.header.as_object().unwrap().iter().skip_while(|(n, _)| *n != "padding/0").nth(1).unwrap().0.clone(),
            );
            let (a, b) = (p.range(pad), p.range(&tensor));
            p.header[pad]["data_offsets"] = json!([a.start, a.end - 2]);
            p.header[pad]["shape"] = json!([a.len() - 2]);
            p.header[&tensor]["data_offsets"] = json!([b.start - 2, b.end]);
            p.header[&tensor]["shape"] = json!([b.len() / 2 + 1]);
        },
        &["not aligned", "a multiple of 256"],
    );

    let mut changed = bytes.clone();
    changed[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    refused("a vast header", changed, &["the header is too long"]);
    let mut changed = bytes.clone();
    changed[..8].copy_from_slice(&(90_000_000u64).to_le_bytes());
    refused("a header beyond the file", changed, &["too short for its header"]);
    let mut changed = bytes.clone();
    let at = changed.windows(9).position(|w| w == b"\"bicubic\"").unwrap_or(60);
    changed[at] ^= 1;
    refused("the header was changed", changed, &[]);
    refused("no bundle", b"\x10\0\0\0\0\0\0\0{\"a\":1}         ".to_vec(), &["not a bundle"]);
}

#[test]
fn numbers() {
    let write = |tensor: &'static str, at: usize, bytes: &'static [u8]| {
        move |parts: &mut Parts| {
            let start = parts.range(tensor).start + at;
            parts.data[start..start + bytes.len()].copy_from_slice(bytes);
        }
    };
    const NAN16: &[u8] = &[0, 0x7e];
    const INF_BF16: &[u8] = &[0x80, 0x7f];
    broken("base", write("base/visual.proj", 6, NAN16), &["`base/visual.proj`", "not finite", "element 3"]);
    broken("scale", write("vectors/visual.proj", 0, INF_BF16), &["`vectors/visual.proj`", "the scale of a block"]);
    broken("second vector", write("vectors/visual.proj", 256, INF_BF16), &["the scale of a block"]);
    broken("mean", write("mean/visual.proj", 0, INF_BF16), &["`mean/visual.proj`", "the scale of a block"]);
    broken("residual", write("residuals/0/visual.proj", 0, INF_BF16), &["`residuals/0/visual.proj`"]);
    broken("small", write("vectors/visual.ln_post.bias", 0, NAN16), &["`vectors/visual.ln_post.bias`", "not finite"]);
    broken("head", write("heads/Task1/bias", 0, &[0, 0, 0xc0, 0x7f]), &["`heads/Task1/bias`", "not finite"]);
    broken("coefficient", write("recovery", 0, &[0, 0, 0, 0, 0, 0, 0xf8, 0x7f]), &["task `Task0` is not finite"]);

    let mut bytes = everything();
    let parts = Parts::of(&bytes);
    let at = bytes.len() - parts.data.len() + parts.range("mean/visual.proj").start + 3;
    bytes[at] ^= 0x10;
    refused("a changed tensor", bytes, &["`mean/visual.proj`", "another checksum", "Copy or download"]);
}
