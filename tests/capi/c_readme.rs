//! README's code is cut from programs that are compiled and run.

use std::path::Path;

/// What stands between the lines that hold `[quickstart]` and `[/quickstart]`, moved to the left margin.
fn marked(program: &str) -> Option<String> {
    let lines = program.lines().skip_while(|line| !line.contains("[quickstart]")).skip(1);
    let lines: Vec<_> = lines.take_while(|line| !line.contains("[/quickstart]")).collect();
    let margin = |line: &&str| line.len() - line.trim_start().len();
    let indent = lines.iter().filter(|line| !line.trim().is_empty()).map(margin).min()?;
    Some(lines.iter().map(|line| line.get(indent..).unwrap_or_default()).collect::<Vec<_>>().join("\n"))
}

/// The blocks of code that follow a comment with a program's path: `<!-- examples/c/quickstart.c -->`.
fn blocks(readme: &str) -> Vec<(String, String)> {
    let mut lines = readme.lines().filter(|line| !line.is_empty()).peekable();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(path) = line.strip_prefix("<!-- examples/").and_then(|rest| rest.strip_suffix(" -->")) else {
            continue;
        };
        if lines.next_if(|line| line.starts_with("```")).is_some() {
            let code: Vec<_> = lines.by_ref().take_while(|line| *line != "```").collect();
            found.push((format!("examples/{path}"), code.join("\n")));
        }
    }
    found
}

fn without_empty_lines(code: &str) -> String {
    code.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

#[test]
fn blocks_are_what_the_programs_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let blocks = blocks(&readme);
    for (path, code) in &blocks {
        let program = std::fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        let marked = marked(&program).unwrap_or_else(|| panic!("{path} has no [quickstart]"));
        assert_eq!(code, &without_empty_lines(&marked), "README.md and {path} differ");
    }
    for path in ["examples/c/quickstart.c", "examples/cpp/quickstart.cpp", "examples/python/quickstart.py"] {
        assert!(blocks.iter().any(|(found, _)| found == path), "README.md shows nothing of {path}");
    }
}

#[test]
fn marks_and_blocks_are_found() {
    let program = "int a;\n/* [quickstart] */\n    f();\n\n        g();\n/* [/quickstart] */\nint b;\n";
    assert_eq!(marked(program).unwrap(), "f();\n\n    g();");
    assert_eq!(marked("int a;\n"), None);
    let readme = "# A\n\n<!-- examples/c/a.c -->\n\n```c\nf();\n\n    g();\n```\n\n```sh\nls\n```\n";
    assert_eq!(blocks(readme), [("examples/c/a.c".into(), "f();\n    g();".into())]);
}
