//! Task expressions on the command line: as such, or kept in a JSON file.

use std::io::Read;
use std::path::Path;

use serde_json::Value;
use taskbasis::{Error, Result, TaskExpr};

/// Bytes of a file with an expression, at most: far more than any has.
const MOST: u64 = 16 << 20;

/// `EXPR`, or `@FILE.json`: the expression in the file's field `expression`, as `fit` writes it.
pub fn expression(text: &str) -> Result<TaskExpr> {
    match text.strip_prefix('@') {
        Some(path) => read(Path::new(path)),
        None => text.parse(),
    }
}

fn read(path: &Path) -> Result<TaskExpr> {
    let failed = |e| Error::io("cannot read", path, e);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(failed)?.take(MOST + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > MOST {
        return Err(Error::format("too large for a file with a task expression").at(path));
    }
    let json: Value = serde_json::from_slice(&bytes).map_err(|e| Error::format("no JSON").at(path).because(e))?;
    let text = json.get("expression").and_then(Value::as_str).ok_or_else(|| {
        Error::format("no task expression in it").at(path).expected("{\"expression\": \"MNIST@0.3 + SVHN@0.3\", …}")
    })?;
    text.parse().map_err(|e: Error| e.at(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_in_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fit.json");
        let given = format!("@{}", file.display());
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write(r#"{"expression": "A@{attn: 0.4, *: 0.3}", "curve": []}"#);
        assert_eq!(expression(&given).unwrap(), "A@{attn: 0.4, *: 0.3}".parse().unwrap());
        assert_eq!(expression("A@2").unwrap(), "A@2".parse().unwrap());
        for (text, part) in [("{}", "no task expression"), ("[", "no JSON"), (r#"{"expression": "A@"}"#, "number")] {
            write(text);
            let error = expression(&given).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("fit.json"), "{error}");
        }
        assert!(expression("@nowhere.json").unwrap_err().to_string().contains("nowhere.json"));
    }
}
