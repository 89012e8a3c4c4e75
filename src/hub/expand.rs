//! Paths in variables of the environment, as `huggingface_hub` reads them: `expandvars(expanduser(value))` of Python.
//! A program and its Python neighbour have to find the same cache.

use std::env;
use std::path::PathBuf;

/// The path that `value` means. A home or a variable that is not known stays as it is written, as in Python.
pub(super) fn expand(value: &str) -> PathBuf {
    PathBuf::from(expand_variables(&expand_home(value, home_of), |name| env::var(name).ok()))
}

/// The home of this user (an empty name) or of another.
fn home_of(user: &str) -> Option<String> {
    let home = match user {
        "" => env::home_dir(),
        #[cfg(unix)]
        user => uzers::os::unix::UserExt::home_dir(&uzers::get_user_by_name(user)?).to_path_buf().into(),
        // Where the homes of others lie is not for a program to guess.
        #[cfg(not(unix))]
        _ => None,
    };
    home?.into_os_string().into_string().ok()
}

/// `~` and `~user` at the beginning, alone or before a slash.
fn expand_home(value: &str, home_of: impl Fn(&str) -> Option<String>) -> String {
    let Some(rest) = value.strip_prefix('~') else { return value.to_owned() };
    let is_slash = |c: char| c == '/' || cfg!(windows) && c == '\\';
    let (user, rest) = rest.split_at(rest.find(is_slash).unwrap_or(rest.len()));
    let Some(home) = home_of(user) else { return value.to_owned() };
    match home.trim_end_matches(is_slash).to_owned() + rest {
        root if root.is_empty() => "/".to_owned(),
        path => path,
    }
}

/// `$NAME` and `${NAME}` (on Windows `%NAME%` too); what a variable holds is not expanded again.
fn expand_variables(value: &str, variable: impl Fn(&str) -> Option<String>) -> String {
    let mut expanded = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find(|c| c == '$' || cfg!(windows) && c == '%') {
        expanded.push_str(&rest[..at]);
        rest = &rest[at..];
        let (written, name) = first_variable(rest);
        match variable(name).filter(|_| !name.is_empty()) {
            Some(found) => expanded.push_str(&found),
            None => expanded.push_str(written),
        }
        rest = &rest[written.len()..];
    }
    expanded + rest
}

/// The variable at the beginning of `text`: as it is written, and its name. The sign alone where there is none.
fn first_variable(text: &str) -> (&str, &str) {
    let (sign, after) = text.split_at(1);
    let in_brackets = match (sign, after.strip_prefix('{')) {
        ("%", _) => after.find('%').map(|end| (1, end, 1)),
        (_, Some(inner)) => inner.find('}').map(|end| (2, end, 1)),
        _ => None,
    };
    let plain = || after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(after.len());
    let (before, name, behind) = match in_brackets {
        Some(found) => found,
        None if sign == "$" => (1, plain(), 0),
        None => (1, 0, 0),
    };
    (&text[..before + name + behind], &text[before..before + name])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each right side is what Python 3.11's `os.path` gives on Linux for the left one.
    #[test]
    fn variables_are_those_of_python() {
        let variable = |name: &str| match name {
            "HOME" => Some("/home/me".to_owned()),
            "TWICE" => Some("$HOME".to_owned()),
            "EMPTY" => Some(String::new()),
            "odd name" => Some("odd".to_owned()),
            _ => None,
        };
        for (written, meant) in [
            ("$HOME/x", "/home/me/x"),
            ("${HOME}/x", "/home/me/x"),
            ("/a$HOME", "/a/home/me"),
            ("$HOMEx/y", "$HOMEx/y"),
            ("${HOME}x", "/home/mex"),
            ("$UNSET/x", "$UNSET/x"),
            ("${UNSET}/$HOME", "${UNSET}//home/me"),
            ("$TWICE", "$HOME"),
            ("a${EMPTY}b", "ab"),
            ("${odd name}", "odd"),
            ("$", "$"),
            ("$$HOME", "$/home/me"),
            ("${}", "${}"),
            ("${HOME", "${HOME"),
            ("$-x", "$-x"),
            ("$HOMEü", "/home/meü"),
            ("ü$HOME", "ü/home/me"),
            ("plain", "plain"),
        ] {
            assert_eq!(expand_variables(written, variable), meant, "{written}");
        }
    }

    #[test]
    fn homes_are_those_of_python() {
        let home_of = |user: &str| match user {
            "" => Some("/home/me/".to_owned()),
            "you" => Some("/home/you".to_owned()),
            "root" => Some("/".to_owned()),
            _ => None,
        };
        for (written, meant) in [
            ("~", "/home/me"),
            ("~/x", "/home/me/x"),
            ("~you/x", "/home/you/x"),
            ("~nowhere/x", "~nowhere/x"),
            ("~root", "/"),
            ("~root/x", "/x"),
            ("a~", "a~"),
            ("/~/x", "/~/x"),
        ] {
            assert_eq!(expand_home(written, home_of), meant, "{written}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn the_home_of_a_user_of_this_machine() {
        assert_eq!(home_of("root").as_deref().map(|home| home.starts_with('/')), Some(true));
        assert_eq!(home_of("no such user here"), None);
    }
}
