//! What the faults happen to: commands of the program, and a program in C, on the digits family.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::c::{compilers, root, run, source};
use crate::support::hub::{REPO, Server, large};
use crate::support::text::{golden, parameters, save};
use crate::support::{digits, onnxruntime};
use serde_json::json;

/// Who runs: it decides what an end with an error has to look like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Program,
    /// `work.c`, which tries again whatever fails.
    C,
}

type Arguments<'a> = Box<dyn Fn(&Path) -> Vec<String> + Sync + 'a>;
type Environment<'a> = Box<dyn Fn(&mut Command, &Path) + Sync + 'a>;

pub(crate) struct Scene<'a> {
    pub name: String,
    pub kind: Kind,
    pub program: PathBuf,
    /// Its arguments in a run's folder, which it is started in.
    pub arguments: Arguments<'a>,
    pub environment: Environment<'a>,
    /// Fills a run's folder.
    pub prepare: Box<dyn Fn(&Path) + Sync + 'a>,
    /// Whether a file of the folder is a result.
    pub counts: fn(&Path) -> bool,
}

impl Scene<'_> {
    /// Whether more than one error may be told.
    pub(crate) fn says_several(&self) -> bool {
        self.kind == Kind::C || self.name == "verify"
    }
}

/// The shim, compiled; `None`, said aloud, without a compiler.
pub(crate) fn build_shim() -> Option<PathBuf> {
    let compiler = compilers().into_iter().next()?;
    let shim = Path::new(env!("CARGO_TARGET_TMPDIR")).join("fault_shim.so");
    let mut compile = Command::new(compiler.c);
    compile.args(["-std=gnu11", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]);
    run(compile.arg(source("tests/faults/shim.c")).arg("-o").arg(&shim).args(["-ldl", "-pthread"]));
    Some(shim)
}

/// The files that scenes read, and the server that one asks.
pub(crate) struct Stage {
    folder: tempfile::TempDir,
    basis: String,
    base: String,
    heads: String,
    classes: String,
    image: String,
    work: PathBuf,
    server: Server,
}

impl Stage {
    /// `None`, said aloud, where something is missing.
    pub(crate) fn new() -> Option<Self> {
        onnxruntime()?;
        let text = |path: &str| Some(digits(path)?.canonicalize().unwrap().to_str().unwrap().to_owned());
        let folder = tempfile::tempdir().unwrap();
        let work = work(folder.path());
        let stage = Self {
            basis: text("bases/ViT-D-8_AE_M4_8task")?,
            base: text("base/pickled_module.pt")?,
            heads: text("heads.safetensors")?,
            classes: text("classes.json")?,
            image: text("eight.png")?,
            folder,
            work,
            server: Server::start(),
        };
        stage.server.put(REPO, "folder/large.bin", &large(1_000_000));
        stage.server.put(REPO, "folder/inner/small.json", b"{}");
        for (name, weights) in [("T0", "MNIST"), ("T1", "Inverted"), ("T2", "Rotated"), ("T3", "MNIST - Inverted@0.5")]
        {
            let path = stage.at(&format!("{name}.safetensors"));
            stage.make(&[
                "reconstruct",
                "--basis",
                &stage.basis,
                "--base",
                &stage.base,
                "--weights",
                weights,
                "-o",
                &path,
            ]);
        }
        let bundle = stage.at("x.taskbasis");
        stage.make(
            &[&["pack", "--heads", &stage.heads, "--classes", &stage.classes, "-o", &bundle][..], &stage.model()[..]]
                .concat(),
        );
        fs::create_dir(stage.at("clip")).unwrap();
        save(Path::new(&stage.at("clip/open_clip_model.safetensors")), &parameters());
        let config = json!({ "model_cfg": { "quick_gelu": true, "text_cfg": { "heads": 2 } } });
        fs::write(stage.at("clip/open_clip_config.json"), config.to_string()).unwrap();
        fs::write(stage.at("pets.json"), json!({ "Pets": golden()["classes"] }).to_string()).unwrap();
        fs::write(stage.at("templates.json"), json!({ "Pets": golden()["templates"] }).to_string()).unwrap();
        Some(stage)
    }

    fn at(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    fn model(&self) -> [&str; 4] {
        ["--basis", &self.basis, "--base", &self.base]
    }

    fn make(&self, arguments: &[&str]) {
        run(Command::new(env!("CARGO_BIN_EXE_taskbasis")).args(arguments));
    }

    pub(crate) fn scenes(&self) -> Vec<Scene<'_>> {
        let at = |name: &str| self.at(name);
        let words = |text: &str, files: &[&str]| {
            let mut files = files.iter();
            text.split(' ').map(|word| if word == "?" { files.next().unwrap() } else { word }.to_owned()).collect()
        };
        let model =
            |text: &str, more: &[&str]| -> Vec<String> { words(text, &[&[&*self.basis, &self.base], more].concat()) };
        let overwriting = |name: &'static str, arguments: Vec<String>| {
            self.scene(name, arguments, |folder| fs::write(folder.join("out"), "the old file").unwrap())
        };
        let bundle = at("x.taskbasis");
        let copied = |folder: &Path| {
            fs::copy(self.at("x.taskbasis"), folder.join("x.taskbasis")).unwrap();
        };
        let tuned: Vec<String> = (0..4).map(|t| format!("T{t}={}", at(&format!("T{t}.safetensors")))).collect();
        let t = |t: usize| &*tuned[t];
        let mut scenes = vec![
            self.work(),
            overwriting("embed", model("embed --basis ? --base ? --weights MNIST -i ? -o out", &[&self.image])),
            overwriting(
                "streamed",
                words("embed --basis ? --weights MNIST --streamed -i ? -o out", &[&bundle, &self.image]),
            ),
            overwriting(
                "reconstruct",
                model("reconstruct --basis ? --base ? --weights MNIST@0.3+Rotated@0.3 -o out", &[]),
            ),
            overwriting(
                "pack",
                model(
                    "pack --basis ? --base ? --heads ? --classes ? --format q4 -o out",
                    &[&self.heads, &self.classes],
                ),
            ),
            self.scene("add-task", words("add-task x.taskbasis --task ? --residual q8", &[t(3)]), copied),
            self.scene(
                "build",
                words(
                    "build --base ? --task ? --task ? --task ? --task ? --vectors 2 -o made",
                    &[&self.base, t(0), t(1), t(2), t(3)],
                ),
                |_| (),
            ),
            overwriting(
                "heads",
                words(
                    "heads --text-model ? --classes ? --templates ? -o out",
                    &[&at("clip"), &at("pets.json"), &at("templates.json")],
                ),
            ),
            self.scene("verify", words("verify ?", &[&bundle]), |_| ()),
        ];
        let mut pull = self.scene("pull", words("pull ? folder", &[REPO]), |_| ());
        pull.counts = |path| path.components().any(|part| part.as_os_str() == "snapshots");
        pull.environment = Box::new(|command, folder| {
            self.server.environment(command);
            command.env("HF_HOME", folder);
            // What is asked is of no interest here, and would be kept.
            self.server.requests();
        });
        scenes.push(pull);
        scenes
    }

    fn scene<'a>(&'a self, name: &str, arguments: Vec<String>, prepare: impl Fn(&Path) + Sync + 'a) -> Scene<'a> {
        Scene {
            name: name.to_owned(),
            kind: Kind::Program,
            program: env!("CARGO_BIN_EXE_taskbasis").into(),
            arguments: Box::new(move |_| arguments.clone()),
            environment: Box::new(|_, _| ()),
            prepare: Box::new(prepare),
            counts: |_| true,
        }
    }

    fn work(&self) -> Scene<'_> {
        let arguments = vec![self.at("x.taskbasis"), self.basis.clone(), self.base.clone(), self.heads.clone()];
        Scene { kind: Kind::C, program: self.work.clone(), ..self.scene("c", arguments, |_| ()) }
    }
}

/// The program in C, linked to the library that this test was built with.
fn work(folder: &Path) -> PathBuf {
    let compiler = compilers().into_iter().next().unwrap();
    let library = std::env::current_exe().unwrap().with_file_name("libtaskbasis.so");
    // The name that the library has for the loader.
    let version = [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR")].join(".");
    std::os::unix::fs::symlink(&library, folder.join(format!("libtaskbasis.so.{version}"))).unwrap();
    let program = folder.join("work");
    let mut compile = compiler.c99();
    compile.arg(format!("-I{}", root().join("include").display())).arg(source("tests/faults/work.c")).arg(library);
    compile.arg(format!("-Wl,-rpath,{}", folder.display())).args(["-lm", "-o"]);
    run(compile.arg(&program));
    program
}
