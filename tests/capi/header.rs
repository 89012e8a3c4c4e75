//! `include/taskbasis.h` says what `src/capi` does: it is generated here, and compared with the committed file.
//!
//! `TASKBASIS_BLESS=1 cargo test --test capi header` writes it anew.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cbindgen::{Builder, Config};

const HEADER: &str = "include/taskbasis.h";

/// The header's sections in order, each a file of `src/capi`: what a section uses is declared before it.
const SECTIONS: [(&str, &str); 18] = [
    ("error", "Statuses and errors"),
    ("library", "The library: version, and what it computes with"),
    ("logging", "Log messages"),
    ("basis", "A basis: the vectors, their tasks, and the base"),
    ("cache", "The cache of reconstructed weights, which belongs to a basis"),
    ("weights", "The weights of a task or of any arithmetic of tasks"),
    ("groups", "Coefficients by groups of parameters"),
    ("products", "How long it is what expressions add to the base, and how far it points apart"),
    ("pixels", "Images, and preprocessing alone"),
    ("tower", "What the shapes of an encoder's weights do not tell"),
    ("encoder", "The image encoder"),
    ("encode", "Images in, embeddings out"),
    ("device", "Weights where the encoder reads them: on a GPU, in its memory"),
    ("precision", "The types that matrices are multiplied in"),
    ("residency", "How much of a task's weights a run has in memory"),
    ("promotion", "Sessions of their own for tasks that run often"),
    ("head", "Classification heads"),
    ("router", "The task chosen by the image"),
];

#[test]
fn the_header_is_what_the_sources_say() {
    let path = root().join(HEADER);
    let generated = header();
    if std::env::var_os("TASKBASIS_BLESS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &generated).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    if let Some(line) = first_difference(&committed, &generated) {
        panic!(
            "{HEADER} differs from src/capi, first at line {line}. \
             If src/capi is right, `TASKBASIS_BLESS=1 cargo test --test capi header` writes the header anew; commit it."
        );
    }
}

#[test]
fn the_header_reads_like_c() {
    let header = header();
    for (number, line) in header.lines().enumerate() {
        assert!(line.is_ascii(), "line {}: compilers may not know its encoding: {line}", number + 1);
        assert!(line.len() <= 120, "line {} is too long: {line}", number + 1);
        for foreign in ["# Safety", "# Errors", "::", "[`", "Option<", "usize", "*mut"] {
            assert!(!line.contains(foreign), "line {}: `{foreign}` is not C: {line}", number + 1);
        }
    }
}

#[test]
fn every_file_of_the_abi_has_its_section() {
    let exported = |text: &str| text.matches("extern \"C\" fn tb_").count();
    let mut functions = 0;
    for entry in std::fs::read_dir(root().join("src/capi")).unwrap() {
        let path = entry.unwrap().path();
        let here = exported(&std::fs::read_to_string(&path).unwrap());
        let stem = path.file_stem().unwrap().to_str().unwrap();
        assert!(here == 0 || SECTIONS.iter().any(|(file, _)| *file == stem), "{stem}.rs is not in the header");
        functions += here;
    }
    let header = header();
    let declared = header
        .lines()
        .filter(|line| !line.starts_with([' ', '/', '#']) && line.contains(" tb_") || line.contains(" *tb_"));
    let declared = declared.filter(|line| line.contains('(') && !line.starts_with("typedef")).count();
    assert_eq!(declared, functions, "a function is missing from the header, or cbindgen writes it in another way");
}

/// A program compiled against this header and linked to this library sees one version, in each of its spellings.
#[test]
fn the_versions_agree() {
    let header = header();
    let value = |name: &str| {
        let define = format!("#define {name} ");
        header.lines().find_map(|line| line.strip_prefix(&define)).unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    assert_eq!(value("TB_VERSION_NUMBER"), taskbasis::capi::tb_version_number().to_string());
    // SAFETY: a text that lives as long as the process.
    let text = unsafe { std::ffi::CStr::from_ptr(taskbasis::capi::tb_version_string()) }.to_str().unwrap();
    assert_eq!(value("TB_VERSION_STRING"), format!("\"{text}\""));
    let parts = ["MAJOR", "MINOR", "PATCH"].map(|part| value(&format!("TB_VERSION_{part}")));
    assert_eq!(parts.join("."), text);
}

fn header() -> String {
    let config = Config::from_file(root().join("cbindgen.toml")).unwrap();
    let manual = config.header.clone().expect("cbindgen.toml has the manual");
    let mut text = format!("{}\n\n#ifndef TASKBASIS_H\n#define TASKBASIS_H\n\n", manual.trim());
    text += "#include <stddef.h>\n#include <stdint.h>\n\n";
    text += &version();
    text += "\n#ifdef __cplusplus\nextern \"C\" {\n#endif\n";
    for (file, title) in SECTIONS {
        let rule = "-".repeat(108 - title.len());
        write!(text, "\n/* ---- {title} {rule} */\n\n{}\n", section(file, &config)).unwrap();
    }
    text += "\n#ifdef __cplusplus\n} /* extern \"C\" */\n#endif\n\n#endif /* TASKBASIS_H */\n";
    text
}

/// The version that the header is of; compare it with tb_version_number() where the library may be another one.
fn version() -> String {
    let [major, minor, patch] =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")];
    let number = |part: &str| part.parse::<u32>().unwrap();
    format!(
        "/* The version of this header. tb_version_number() is that of the library, which may be another one. */\n\
         #define TB_VERSION_MAJOR {major}\n\
         #define TB_VERSION_MINOR {minor}\n\
         #define TB_VERSION_PATCH {patch}\n\
         #define TB_VERSION_STRING \"{}\"\n\
         /* major * 1000000 + minor * 1000 + patch */\n\
         #define TB_VERSION_NUMBER {}\n",
        env!("CARGO_PKG_VERSION"),
        number(major) * 1_000_000 + number(minor) * 1_000 + number(patch),
    )
}

/// What one source file declares. Types of other files are not known to cbindgen here and stay as they are named.
fn section(file: &str, config: &Config) -> String {
    let config = Config { header: None, ..config.clone() };
    let source = root().join(format!("src/capi/{file}.rs"));
    let bindings = Builder::new().with_config(config).with_src(source).generate().unwrap();
    let mut text = Vec::new();
    bindings.write(&mut text);
    let text = String::from_utf8(text).unwrap();
    // cbindgen says `struct tb_basis *` of types that it knows; with the typedefs, one spelling is enough.
    let text = text.replace("typedef struct ", "\0").replace("struct tb_", "tb_").replace('\0', "typedef struct ");
    let text = text.replace("typedef enum ", "\0").replace("enum tb_", "tb_").replace('\0', "typedef enum ");
    short_declarations(&short_comments(text.trim()))
}

/// Comments of one line, on one line.
fn short_comments(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    for line in text.lines() {
        if let [.., open, said] = &lines[..]
            && let (Some(indent), Some(said)) = (open.strip_suffix("/**"), said.trim_start().strip_prefix("* "))
            && line.trim() == "*/"
        {
            let short = format!("{indent}/** {said} */");
            lines.truncate(lines.len() - 2);
            lines.push(short);
        } else {
            lines.push(line.to_owned());
        }
    }
    lines.join("\n")
}

/// Functions that fit on a line, on one line: cbindgen measures them in its own way.
fn short_declarations(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut open: Option<usize> = None;
    for line in text.lines() {
        lines.push(line.to_owned());
        if line.starts_with("tb_") || line.starts_with("const ") || line.starts_with("void ") {
            open = Some(lines.len() - 1);
        }
        if let Some(first) = open.filter(|_| line.ends_with(");")) {
            let joined = lines[first..].iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
            if joined.len() <= 110 {
                lines.truncate(first);
                lines.push(joined);
            }
            open = None;
        }
    }
    lines.join("\n")
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}

/// Counted from 1.
fn first_difference(a: &str, b: &str) -> Option<usize> {
    if a == b {
        return None;
    }
    let same = a.lines().zip(b.lines()).take_while(|(a, b)| a == b).count();
    Some(same + 1)
}
