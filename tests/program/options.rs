//! Options that could have no effect, with what else is given, are refused as clap refuses, before anything is opened.
#![cfg(feature = "cli")]

use crate::support::program::run;

/// Paths that are not there: a command that is understood fails at them.
fn command(words: &str) -> (Option<i32>, String) {
    let model = "--basis no/basis --base no/base.pt";
    let usual = match words.split(' ').next().unwrap() {
        "build" => "--base no/base.pt --tasks-dir no/tasks",
        "pack" => "--basis no/basis --base no/base.pt -o no/out.taskbasis",
        "eval" => "--basis no/basis --base no/base.pt --data no/images.safetensors",
        "embed" => "--basis no/basis --base no/base.pt --weights base -i no/image.png -o no/out.safetensors",
        "classify" => "--basis no/basis --base no/base.pt --task A --heads no/heads no/image.png",
        "export" => "--basis no/basis --base no/base.pt --weights base -o no/out.onnx",
        "heads" => "--text-model no/clip --classes no/classes.json -o no/heads.safetensors",
        "bind" => model,
        "reconstruct" => "--basis no/basis --weights base -o no/out.safetensors",
        "add-task" => "--task A=no/a.pt",
        "merge" => "--base no/base.pt --tasks-dir no/tasks -o no/out.safetensors",
        "analyze" => "--base no/base.pt --tasks-dir no/tasks",
        "serve" => "no/model.taskbasis",
        other => panic!("{other}"),
    };
    let output = run(&words.split(' ').chain(usual.split_terminator(' ')).collect::<Vec<_>>());
    assert!(output.stdout.is_empty());
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn refused(words: &str, parts: &[&str]) {
    let (code, text) = command(words);
    assert_eq!(code, Some(2), "{words}: {text}");
    assert!(text.starts_with("error: ") && text.contains("Usage: taskbasis"), "{words}: {text}");
    parts.iter().for_each(|part| assert!(text.contains(part), "{words}: `{part}` is not in: {text}"));
}

#[track_caller]
fn understood(words: &str) {
    let (code, text) = command(words);
    assert_eq!(code, Some(1), "{words}: {text}");
}

#[test]
fn a_folder_and_a_bundle_take_what_they_can_hold() {
    let of_bundles = [
        "--activation gelu",
        "--heads-count 3",
        "--format q4",
        "--base-format f16",
        "--batch 8",
        "--heads no/heads",
        "--classes no/classes.json",
        "--suggest task=1",
        "--residual q2",
        "--onnxruntime no/library.so",
        "--provider cuda",
        "--device 0",
        "--graph no/graph.onnx",
        "--optimise-graph",
    ];
    for option in of_bundles {
        let name = option.split(' ').next().unwrap();
        refused(
            &format!("build -o no/folder {option}"),
            &[&format!("the argument '{name}"), "a folder", "`model.taskbasis`"],
        );
    }
    for option in ["--activation gelu", "--heads-count 3", "--format q4", "--base-format f16"] {
        understood(&format!("build -o no/out.taskbasis {option}"));
    }
    refused("build -o no/out.taskbasis --model ViT-B-32", &["'--model <NAME>'", "bundle", "method_info.json"]);
    for option in ["--merge x=ties", "--merge x=ties --merge-format q8"] {
        refused(&format!("build -o no/folder {option}"), &["'--merge <", "a folder", "'taskbasis merge'"]);
        understood(&format!("build -o no/out.taskbasis {option}"));
    }
    refused("build -o no/out.taskbasis --merge-format q8", &["--merge <"]);
    let (code, text) = command("merge --method tyes");
    assert!(code == Some(2) && text.contains("'tyes'") && text.contains("Did you mean `ties`?"), "{text}");
    understood("merge --method ties:keep=0.1 --lambda -0.5");
    for understands in ["--threads 2", "--model ViT-B-32", "--seed 3", "--keep 0.9", "--method random-sample --seed 3"]
    {
        understood(&format!("build -o no/folder {understands}"));
    }
    for output in ["no/folder", "no/out.taskbasis"] {
        refused(&format!("build -o {output} --vectors 4 --keep 0.9"), &["'--keep <SHARE>'", "'--vectors auto'"]);
        refused(&format!("build -o {output} --method pca --seed 3"), &["'--seed <SEED>'", "'--method pca'"]);
    }
    refused("analyze --method pca --seed 3", &["'--seed <SEED>'", "'--method pca'"]);
    understood("analyze --seed 3");
    refused("add-task no/model.taskbasis --classes no/classes.json", &["'--classes <C.json>'", "'--heads'"]);
    refused("reconstruct --vector --base no/base.pt", &["--vector", "--base"]);
    understood("reconstruct --vector");
}

#[test]
fn what_is_to_be_run_with_needs_something_to_run() {
    for command in ["pack", "build -o no/out.taskbasis"] {
        for option in ["--provider cuda", "--onnxruntime no/library.so", "--weights-on host", "--device 0"] {
            let name = option.split(' ').next().unwrap();
            // The golden embedding is computed by the CPU, with whichever ONNX Runtime is given.
            let golden = if name == "--onnxruntime" { " --no-golden" } else { "" };
            refused(&format!("{command} {option}{golden}"), &[name, "'--data' or '--optimise-graph'"]);
            understood(&format!("{command} {option} --data no/images.safetensors"));
            understood(&format!("{command} {option} --graph no/graph.onnx --optimise-graph"));
        }
        refused(&format!("{command} --batch 8"), &["'--batch <BATCH>'", "'--data'"]);
        refused(&format!("{command} --split val"), &["--data"]);
        refused(&format!("{command} --precision int8"), &["'--precision <f32|bf16|int8|auto>'", "'--data'"]);
        understood(&format!("{command} --precision int8 --data no/images.safetensors"));
        understood(&format!(
            "{command} --precision auto --gate-cosine 0.9 --batch 8 --no-golden --onnxruntime no/x.so"
        ));
        understood(&format!("{command} --precision auto --gate-drop 1 --data no/images.safetensors"));
        refused(&format!("{command} --gate-cosine 0.9"), &["'--gate-cosine <X>'", "'--precision auto'"]);
        refused(&format!("{command} --precision auto --gate-drop 1"), &["--data"]);
        refused(&format!("{command} --precision auto --graph no/graph.onnx"), &["'--graph", "'--precision auto'"]);
        refused(&format!("{command} --classes no/classes.json"), &["'--classes <C.json>'", "'--heads'"]);
        understood(&format!("{command} --classes no/classes.json --heads no/heads"));
        understood(&format!("{command} --batch 8 --split val --data no/images.safetensors"));
    }
    understood("pack --onnxruntime no/library.so");
    refused("add-task no/model.taskbasis --seed 3", &["'--seed <SEED>'", "'--refit'"]);
    refused("add-task no/model.taskbasis --vectors 3", &["--refit"]);
    refused("add-task no/model.taskbasis --refit --residual q4", &["'--residual <FORMAT>'", "'--refit'"]);
    understood("add-task no/model.taskbasis --refit --vectors 3 --seed 3");
    refused("add-task no/model.taskbasis --gate-cosine 0.9", &["'--gate-cosine <X>'", "'--precision auto'"]);
    understood("add-task no/model.taskbasis --precision auto --gate-cosine 0.9");
    for command in ["embed", "pack", "export", "build -o no/out.taskbasis"] {
        refused(&format!("{command} --self-test on"), &["'--self-test <SELF_TEST>'", "of runs over a bundle"]);
    }
    refused("export --batch 8", &["'--batch <BATCH>'", "'export'"]);
    refused("export --provider cuda --graph no/graph.onnx", &["--provider", "'--optimise-graph'"]);
    understood("export --provider cuda --graph no/graph.onnx --optimise-graph");
    refused("bind no/graph.onnx --provider cuda", &["--provider", "'--measure'"]);
    understood("bind no/graph.onnx --provider cuda --measure");
}

#[test]
fn options_of_a_gpu_need_one() {
    for command in ["embed", "eval", "pack --data no/images.safetensors", "bind no/graph.onnx --measure"] {
        for option in ["--device-budget 100", "--cuda-graphs"] {
            let name = option.split(' ').next().unwrap();
            refused(&format!("{command} {option}"), &[name, "'--provider cpu'"]);
            refused(&format!("{command} {option} --provider cuda --weights-on host"), &[name, "'--weights-on host'"]);
        }
        refused(&format!("{command} --cuda-graphs --provider tensorrt"), &["'--cuda-graphs'", "'--provider tensorrt'"]);
        for option in ["--tensorrt-cache no/cache", "--tensorrt-fp16"] {
            let name = option.split(' ').next().unwrap();
            for provider in ["cpu", "cuda", "auto"] {
                refused(&format!("{command} {option} --provider {provider}"), &[name, "'--provider tensorrt'"]);
            }
        }
    }
    for understands in [
        "--device-budget 100 --provider auto",
        "--device-budget 100 --provider tensorrt --tensorrt-cache no/cache --tensorrt-fp16 --tensorrt-cosine 0.9",
        "--cuda-graphs --provider cuda --weights-on device",
        "--weights-on host",
        "--device 0",
    ] {
        understood(&format!("embed {understands}"));
    }
    // Text encoders, and those that stream, get their weights from the host.
    for option in ["--weights-on host", "--device-budget 100", "--cuda-graphs"] {
        let name = option.split(' ').next().unwrap();
        refused(&format!("heads {option} --provider cuda"), &[name]);
        refused(&format!("embed {option} --provider cuda --streamed"), &[name, "--streamed"]);
    }
    refused("heads --tensorrt-cache no/cache", &["--tensorrt-cache"]);
    understood("heads --tensorrt-cache no/cache --provider tensorrt");
    refused("embed --streamed --optimise-graph", &["--optimise-graph", "--streamed"]);
    refused("embed --residency blockwise --optimise-graph", &["--optimise-graph", "'--residency blockwise'"]);
    refused("classify --residency blockwise --streamed", &["--residency", "--streamed"]);
    understood("embed --residency whole --optimise-graph");
}

#[test]
fn what_is_of_scaling_coefficients_needs_them() {
    let of_lambdas =
        ["--val-split val", "--finetuned no/accuracies.json", "--finetuned-dir no/tasks", "--image-cache 10"];
    for option in of_lambdas {
        refused(&format!("eval {option}"), &["--sweep"]);
        understood(&format!("eval {option} --sweep"));
        understood(&format!("eval {option} --sweep=0:1:3 --negate --control A"));
        understood(&format!("eval {option} --negate --control A"));
    }
    refused("eval --keep 0.9 --sweep", &["--negate"]);
    understood("eval --keep 0.9 --negate --control A");
}

#[test]
fn what_the_reference_has_beside_its_methods() {
    refused("build -o no/basis --method random", &["--method", "'--vectors M'"]);
    understood("build -o no/basis --method random --vectors 2 --seed 3");
    for option in ["--encoder linear", "--w-activation softmax"] {
        refused(&format!("build -o no/basis --method pca {option}"), &["'--method ae'"]);
        understood(&format!("build -o no/basis {option}"));
    }
    refused("eval --subsample", &["--sweep"]);
    refused("eval --subsample 3 --sweep --negate --control A", &["--subsample"]);
    understood("eval --subsample --sweep");
    refused("eval --tasks-dir no/tasks", &["--tasks-dir", "--basis"]);
    refused("eval --accuracies no", &["--tasks-dir"]);
    refused("analyze --basis no/basis", &["--basis", "--base"]);
    refused("analyze --weights A", &["--basis"]);
    for line in ["analyze", "analyze --base no/base.pt"] {
        let output = run(&line.split(' ').collect::<Vec<_>>());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains("--task <NAME=FILE>"), "{line}: {text}");
    }
    assert_eq!(run(&["analyze", "--basis", "no/basis"]).status.code(), Some(1));
    refused("heads --dataset Cars", &["--dataset", "--classes"]);
    refused("heads --plain-names", &["--dataset"]);
}

/// A script whose variable is not set: nothing is computed that then has no place to go.
#[test]
fn an_empty_path_is_refused_at_once() {
    let embed =
        ["embed", "--base", "no/base.pt", "--weights", "base", "-i", "no/image.png", "-o", "no/out.safetensors"];
    for option in ["--base", "-i", "-o"] {
        let mut words = embed;
        words[embed.iter().position(|word| *word == option).unwrap() + 1] = "";
        let output = run(&words);
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains("a value is required"), "{option}: {text}");
    }
}

#[cfg(feature = "serve")]
#[test]
fn a_server_takes_the_options_of_runs() {
    refused("serve --device-budget 8", &["'--device-budget <MIB>'", "'--provider cpu'"]);
    refused("serve --insecure --token-file no/tokens", &["'--insecure'", "'--token-file <FILE>'"]);
    for option in ["--wait-ms 60001", "--queue 0", "--workers 0", "--max-body 0", "--timeout-ms 0", "--pin A@"] {
        let (code, text) = command(&format!("serve {option}"));
        assert!(code == Some(2) && text.contains(option.split(' ').next().unwrap()), "{option}: {text}");
    }
    understood("serve --bind 127.0.0.1:0 --threads 2 --batch 8 --budget 100 --pin A --pin A@0.5 --prefetch -B@0.1");
}
