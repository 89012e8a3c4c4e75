//! With programs in the place of Python that speak its part, which needs none of the packages.

use std::os::unix::fs::PermissionsExt;

use clap::Parser;
use taskbasis::Precision;

use super::super::encode;
use super::super::family::{Family, basis_of, recoverable};
use super::super::{Bench, growth, machine};
use super::*;

#[derive(Parser)]
struct Alone {
    #[command(flatten)]
    bench: Bench,
}

/// A Python, with `body` as its program; `None` where there is no Python 3.
fn speaks(folder: &Path, body: &str) -> Option<PathBuf> {
    if !Command::new("python3").arg("--version").output().is_ok_and(|output| output.status.success()) {
        crate::need::skip(crate::need::Need::Python, "there is no python3");
        return None;
    }
    let path = folder.join("python");
    let begin = "#!/usr/bin/env python3\nimport json, sys, time\n\
                 def say(value): print(json.dumps(value), flush=True)\n";
    std::fs::write(&path, format!("{begin}{body}")).expect("a script is written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("a script may be run");
    Some(path)
}

/// Measures the small family beside what that program runs.
fn beside(python: &Path) -> Result<encode::Encode> {
    let family = Family::synthetic(&growth::small(4, 3), "small", None)?;
    let Alone { bench } = Alone::parse_from(["bench", "--batch", "3", "--threads", "2"]);
    let about = family.about(&bench.encoder)?;
    encode::measure(&Setup {
        family: &family,
        about: &about,
        threads: machine::processors().min(2),
        quick: true,
        batches: vec![1, 3],
        precisions: vec![Precision::F32.into(), Precision::Int8.into()],
        peers: Some(python),
        encoder: bench.encoder.options(),
        args: &bench.encoder,
    })
}

/// One peer gives the right embeddings, one others, and one there is not.
#[test]
fn what_runs_beside_is_compared_before_it_is_timed() {
    if !crate::need::runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // What is right does not depend on the folder that the family lies in.
    let right = {
        let family = Family::synthetic(&growth::small(4, 3), "small", None).unwrap();
        let Alone { bench } = Alone::parse_from(["bench"]);
        let about = family.about(&bench.encoder).unwrap();
        let model = family.open(1, 0).unwrap();
        let task = recoverable(basis_of(&model).unwrap()).unwrap().swap_remove(0);
        let pixels = super::super::family::Dice::new(2).pixels(3 * about.arch.pixels());
        let encoder = taskbasis::Encoder::new(&about.arch, &bench.encoder.options()).unwrap();
        encoder.encode_task(&model.weights(&task).unwrap(), &pixels, 3).unwrap()
    };
    let each = right.len() / 3;
    let asked = folder.path().join("asked");
    let body = format!(
        r#"
config = json.loads(sys.stdin.readline())
assert sys.argv[2] == "serve" and open(config["onnx"], "rb").read() and open(config["weights"], "rb").read()
assert config["image"][0] == 3 and config["arch"]["width"] > 0
assert len(open(config["pixels"], "rb").read()) == 3 * 4 * 3 * config["image"][1] ** 2
right = {right:?}
about = dict(package="p", version="1.2")
say(dict(there=[dict(about, peer="a", ready_ms=5.0), dict(about, peer="b", ready_ms=6.0)],
         left_out=[dict(peer="c", package="q", version=None, why="not installed")]))
with open({asked:?}, "w") as asked:
    for line in sys.stdin:
        line = json.loads(line)
        asked.write(line["peer"] + ("e" if line["embeds"] else ""))
        asked.flush()
        embeds = [v if line["peer"] == "a" else -v for v in right[: line["batch"] * {each}]]
        say(dict(ms=1000.0 * line["batch"], embeds=embeds if line["embeds"] else None))
"#
    );
    let Some(python) = speaks(folder.path(), &body) else { return };
    let measured = beside(&python).unwrap();
    let names: Vec<_> = measured.ways.iter().map(|way| way.name.as_str()).collect();
    assert_eq!(names, ["f32", "int8", "a"]);
    assert!(measured.ways[2].cosine > 0.999_999 && measured.ways[2].difference < 1e-5);
    for batch in &measured.batches {
        let runs: Vec<_> = batch.runs.iter().map(|runs| runs.name.as_str()).collect();
        assert_eq!(runs, ["f32", "int8", "a", "frozen"]);
        assert_eq!(batch.runs[2].ms.median, 1000.0 * batch.batch as f64, "as the other process measured it");
        let ratio = measured.ratio("a", "frozen", batch.batch).unwrap();
        assert!(ratio.median > 1.0 && ratio.rounds == batch.runs[2].ms.runs);
        assert!(measured.ratio("int8", "a", batch.batch).unwrap().median < 1.0);
        assert!(measured.ratio("int8", "b", batch.batch).is_none());
    }
    let peers = measured.peers.as_ref().unwrap();
    assert_eq!(peers.there.iter().map(|peer| &*peer.peer).collect::<Vec<_>>(), ["a"]);
    let left_out: Vec<_> = peers.left_out.iter().map(LeftOut::text).collect();
    assert_eq!(left_out[0], "c is not measured: q: not installed");
    assert_eq!(left_out[1], "b is not measured: p 1.2: it computes something else (cosine -1.0000)");
    let asked = std::fs::read_to_string(asked).unwrap();
    assert!(asked.starts_with("aebea") && asked.matches('b').count() == 1, "compared, then never run: {asked}");
    assert_eq!(asked.matches('e').count(), 3, "a for two batch sizes, b for one");
}

#[test]
fn what_goes_wrong_beside_is_told_with_its_version() {
    if !crate::need::runtime() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let begin = "config = json.loads(sys.stdin.readline())\n\
                 say(dict(there=[dict(peer='a', package='p', version='1.2', ready_ms=1)], left_out=[]))\n";
    let cases = [
        ("sys.stdin.readline(); say(dict(error='no kernel'))", ErrorKind::Runtime, "a (p 1.2) failed, batch 1"),
        ("sys.stdin.readline(); print('hello', flush=True)", ErrorKind::Runtime, "answers something else"),
        ("print('out of memory', file=sys.stderr); sys.exit(3)", ErrorKind::Runtime, "exit status: 3"),
    ];
    for (then, kind, told) in cases {
        let Some(python) = speaks(folder.path(), &format!("{begin}{then}\n")) else { return };
        let error = beside(&python).err().expect("an error");
        let text = error.to_string();
        assert!(error.kind() == kind && text.contains(told), "{then}: {text}");
        let cause = ["no kernel", "hello", "out of memory"];
        assert!(cause.iter().any(|cause| format!("{error:?} {text}").contains(cause)), "{then}: {text}");
    }
}
