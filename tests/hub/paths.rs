//! `hf://` paths in the place of any other: of the program and of the C ABI, and which file of a folder is the
//! checkpoint.
#![cfg(feature = "cli")]

use crate::support;
use std::fs;
use std::process::Command;

use crate::support::hub::{REPO, Server, complaint, large, server};
use taskbasis::{TextHints, TextModel};

const BASIS: &str = "ViT-D-8_AE_M4_8task";

#[test]
fn a_base_is_the_checkpoint_of_its_repository() {
    let server = Server::start();
    server.put("timm/vit", "model.safetensors", &large(2_000));
    server.put("timm/vit", "open_clip_model.safetensors", &large(3_000));
    server.put("timm/vit", "open_clip_pytorch_model.bin", &large(4_000));
    let local = server.succeed(&["pull", "--base", "timm/vit"]);
    assert!(local.ends_with("/open_clip_model.safetensors"), "{local}");
    assert_eq!(server.blobs("timm/vit").len(), 1);
    assert_eq!(server.succeed(&["pull", "--base", "timm/vit", "--offline"]), local);
    assert!(server.succeed(&["pull", "--base", "timm/vit/model.safetensors"]).ends_with("/model.safetensors"));
    server.put("o/parts", "a.safetensors", &large(2_000));
    server.put("o/parts", "b.safetensors", &large(2_000));
    let error = server.fail(&["pull", "--base", "o/parts"]);
    assert!(error.contains("several checkpoints: a.safetensors, b.safetensors"), "{error}");
    assert!(error.contains("hf://o/parts/a.safetensors"), "{error}");
}

/// What is read together comes together: the parts of an index, the configuration of an adapter; nothing else.
#[test]
fn an_index_brings_its_parts_and_an_adapter_its_configuration() {
    let server = Server::start();
    let index = r#"{"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}"#;
    server.put("o/parts", "model.safetensors.index.json", index.as_bytes());
    for (part, name) in [(1, "a"), (2, "b")] {
        let path = server.home.path().join("part.safetensors");
        taskbasis::save_arrays(&path, &[(name, &[1], &[part as f32])], &[], &[]).unwrap();
        server.put("o/parts", &format!("model-0000{part}-of-00002.safetensors"), &fs::read(path).unwrap());
    }
    server.put("o/parts", "README.md", b"more");
    let local = server.succeed(&["pull", "--base", "o/parts"]);
    assert!(local.ends_with("/model.safetensors.index.json"), "{local}");
    assert_eq!(server.blobs("o/parts").len(), 3);
    server.succeed(&["inspect", &local]);
    server.requests();
    let inspected = server.succeed(&["pull", "--base", "o/parts", "--offline", "--json"]);
    assert!(inspected.contains("model-00002-of-00002.safetensors"), "{inspected}");
    assert!(server.requests().is_empty());

    let fails = |base: &str, wanted: &str| {
        let error = server.fail(&["embed", "--base", base, "--weights", "base", "-i", "x.png", "-o", "x.safetensors"]);
        assert!(error.contains(wanted), "{error}");
    };
    fails("hf://o/parts/model-00002-of-00002.safetensors", "part 2 of 2 of a checkpoint. Name the index");
    server.put("o/fresh", "a/model-00002-of-00002.safetensors", &large(2_000));
    fails(
        "hf://o/fresh/a/model-00002-of-00002.safetensors",
        "part 2 of 2 of a checkpoint. Name the index, through which all parts are read: \
         hf://o/fresh/a/model.safetensors.index.json",
    );
    assert!(server.blobs("o/fresh").is_empty(), "nothing comes for nothing");
    // All of it is there, and is no image tower.
    fails("hf://o/parts", "model.safetensors.index.json");

    server.put("o/lora", "adapter_model.safetensors", &fs::read(server.home.path().join("part.safetensors")).unwrap());
    server.put("o/lora", "adapter_config.json", br#"{"peft_type": "IA3"}"#);
    fails("hf://o/lora", "an adapter of a kind that is not read: IA3");
    assert_eq!(server.blobs("o/lora").len(), 2);
}

/// However a folder comes to be read, the same file of it is the checkpoint, and the same ties are errors.
#[test]
fn a_folder_has_the_same_checkpoint_on_the_hub_and_on_the_disk() {
    for (files, meant) in [
        (&["model.safetensors", "open_clip_pytorch_model.bin", "config.json"][..], Ok("open_clip_pytorch_model.bin")),
        (&["model.safetensors", "pytorch_model.bin", "open_clip_model.safetensors"], Ok("open_clip_model.safetensors")),
        (&["adapter.safetensors", "pytorch_model.bin", "training_args.bin"], Ok("pytorch_model.bin")),
        (&["zeroshot.pth", "notes.txt"], Ok("zeroshot.pth")),
        (&["zeroshot.safetensors", "zeroshot.pt"], Ok("zeroshot.safetensors")),
        (&["b.safetensors", "a.safetensors", "c.bin"], Err("several checkpoints: a.safetensors, b.safetensors, c.bin")),
        (&["b.bin", "a.pt"], Err("several checkpoints: a.pt, b.bin")),
        (&["README.md"], Err("no checkpoint: no .safetensors, .bin, .pt, .pth or .ckpt")),
    ] {
        let server = Server::start();
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            server.put("o/r", &format!("clip/{file}"), b"{}");
            fs::write(folder.path().join(file), "{}").unwrap();
        }
        let pull = ["pull", "--base", "o/r/clip"];
        // What is not even a checkpoint is refused by its name, once it is chosen.
        let local = TextModel::open(folder.path(), TextHints::default()).unwrap_err();
        match meant {
            Ok(meant) => {
                assert_eq!(server.succeed(&pull).rsplit('/').next(), Some(meant));
                assert_eq!(local.path(), Some(&*folder.path().join(meant)), "{local}");
            }
            Err(meant) => {
                for (said, place) in [(server.fail(&pull), "hf://o/r/clip: "), (local.to_string(), "")] {
                    assert!(said.contains(place) && said.contains(meant), "{said}");
                }
                assert_eq!(local.path(), Some(folder.path()), "{local}");
            }
        }
    }
}

/// The configurations beside a base come with it, those of the same commit; what is known to be absent is not asked for
/// again, and Python's client knows it too.
#[test]
fn a_base_comes_with_its_configurations() {
    let Some(base) = support::digits("base/open_clip_names.safetensors") else { return };
    let server = Server::start();
    let config = br#"{"model_type":"clip","vision_config":{"hidden_act":"gelu","num_attention_heads":2}}"#;
    server.put("owner/base", "model.safetensors", &fs::read(&base).unwrap());
    server.put("owner/base", "config.json", config);
    let out = server.home.path().join("r.safetensors");
    let export = |more: &[&str]| {
        let base = "hf://owner/base/model.safetensors";
        let common = ["export", "--base", base, "--weights", "base", "-o", out.to_str().unwrap()];
        server.run(&[&common[..], more].concat())
    };
    let first = export(&[]);
    let said = String::from_utf8_lossy(&first.stderr).into_owned();
    assert!(first.status.success() && !said.contains("assumed"), "{said}");
    let commit = server.commit("owner/base");
    let cache = server.cache("owner/base");
    assert_eq!(fs::read(cache.join("snapshots").join(&commit).join("config.json")).unwrap(), config);
    for absent in ["open_clip_config.json", "preprocessor_config.json"] {
        assert!(cache.join(".no_exist").join(&commit).join(absent).is_file(), "{absent}");
    }
    server.requests();
    assert!(export(&[]).status.success() && server.requests().is_empty(), "what is known costs no request");
    // An option that contradicts it is used, and that is said.
    let said = String::from_utf8_lossy(&export(&["--activation", "quick_gelu"]).stderr).into_owned();
    assert!(said.contains("config.json says activation GELU; QuickGELU is used"), "{said}");
    server.put("owner/other", "model.safetensors", &large(2_000));
    server.put("owner/other", "open_clip_config.json", b"{}");
    let local = server.succeed(&["pull", "--base", "owner/other"]);
    assert!(std::path::Path::new(local.trim()).with_file_name("open_clip_config.json").is_file(), "{local}");
}

#[test]
fn paths_of_the_hub_are_paths() {
    let Some(basis) = support::digits(&format!("bases/{BASIS}")) else { return };
    let Some(base) = support::digits("base/pickled_module.pt") else { return };
    let server = Server::start();
    server.put_folder(REPO, BASIS, &basis);
    server.put("owner/base", "zeroshot.pt", &fs::read(&base).unwrap());
    let out = |name: &str| server.home.path().join(name).to_str().unwrap().to_owned();
    let reconstruct = |basis: &str, base: &str, name: &str| {
        let to = out(name);
        server.succeed(&["reconstruct", "--basis", basis, "--base", base, "--weights", "MNIST", "-o", &to]);
        fs::read(to).unwrap()
    };
    let local = reconstruct(basis.to_str().unwrap(), base.to_str().unwrap(), "local.safetensors");
    let (basis, base) = (format!("hf://{REPO}/{BASIS}"), "hf://owner/base/zeroshot.pt");
    assert!(local == reconstruct(&basis, base, "downloaded.safetensors"));
    server.requests();
    assert!(local == reconstruct(&basis, base, "cached.safetensors"));
    assert!(server.requests().is_empty(), "the cached copy costs no request");
    // A repository stands for its checkpoint.
    assert!(local == reconstruct(&basis, "hf://owner/base", "chosen.safetensors"));

    let shown = server.succeed(&["inspect", "--json", &basis]);
    assert!(shown.contains("MNIST"));
    let error = server.fail(&["inspect", &format!("hf://{REPO}/ViT-D-8_AE_M4_9task")]);
    assert!(error.contains(&format!("Did you mean `{BASIS}`?")), "{error}");
    let error =
        server.fail(&["reconstruct", "--basis", &basis, "--base", base, "--weights", "MNIST", "-o", "hf://o/r/x"]);
    assert!(error.contains("nothing can be written to the Hub"), "{error}");
    let error = server.fail(&["add-task", "hf://o/r/b.taskbasis", "--task", "New=hf://o/r/new.pt"]);
    assert!(error.contains("nothing can be written to the Hub") && error.contains("-o"), "{error}");
    let offline = server.program(&["inspect", "hf://owner/other/x"]).env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert!(complaint(offline).contains("hf://owner/other/x: nothing of it is in the cache"));
}

#[test]
fn part_of_a_folder_is_not_the_folder() {
    let (server, content) = server();
    // Another client has taken one file of it.
    server.succeed(&["pull", REPO, "folder/inner/small.json"]);
    let error = server.fail(&["inspect", &format!("hf://{REPO}/folder")]);
    assert!(!error.contains("hf://"), "it is no basis: {error}");
    let snapshot = server.cache(REPO).join("snapshots").join(server.commit(REPO));
    assert!(fs::read(snapshot.join("folder/large.bin")).unwrap() == content, "what was missing has come");
}

#[test]
fn the_c_abi_opens_paths_of_the_hub() {
    let Some(basis) = support::digits(&format!("bases/{BASIS}")) else { return };
    let Some(base) = support::digits("base/pickled_module.pt") else { return };
    let Some(heads) = support::digits("heads.safetensors") else { return };
    let server = Server::start();
    server.put_folder(REPO, BASIS, &basis);
    server.put(REPO, "heads.safetensors", &fs::read(&heads).unwrap());
    server.put("owner/base", "zeroshot.pt", &fs::read(&base).unwrap());
    // The environment is the process's: another one has the server's.
    let mut command = Command::new(std::env::current_exe().unwrap());
    server.environment(&mut command);
    let output =
        command.args(["--exact", "paths::opened_through_the_c_abi", "--ignored", "--nocapture"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert_eq!(server.blobs("owner/base").len(), 1);
}

#[test]
#[ignore = "the process of `the_c_abi_opens_paths_of_the_hub`"]
#[allow(clippy::undocumented_unsafe_blocks)] // As a C program would.
fn opened_through_the_c_abi() {
    use std::ptr::{null, null_mut};
    use taskbasis::capi::*;

    let text = |text: &str| std::ffi::CString::new(text).unwrap();
    let (path, base) = (text(&format!("hf://{REPO}/{BASIS}")), text("hf://owner/base"));
    let heads = text(&format!("hf://{REPO}/heads.safetensors"));
    let missing = text(&format!("hf://{REPO}/nothing"));
    unsafe {
        let mut options: tb_basis_options = std::mem::zeroed();
        (options.struct_size, options.base) = (size_of::<tb_basis_options>(), base.as_ptr());
        let (mut basis, mut head, mut error) = (null_mut(), null_mut(), null_mut());
        assert_eq!(tb_basis_open(path.as_ptr(), &options, &mut basis, &mut error), tb_status::TB_OK);
        tb_basis_free(basis);
        let task = text("MNIST");
        assert_eq!(tb_head_open(heads.as_ptr(), task.as_ptr(), null(), &mut head, &mut error), tb_status::TB_OK);
        tb_head_free(head);
        let status = tb_basis_open(missing.as_ptr(), &options, &mut basis, &mut error);
        assert_eq!(status, tb_status::TB_ERR_NOT_FOUND);
        let message = std::ffi::CStr::from_ptr(tb_error_message(error)).to_str().unwrap();
        assert!(message.contains("no folder `nothing`"), "{message}");
        tb_error_free(error);
    }
}
