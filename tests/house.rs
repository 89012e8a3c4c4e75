//! The architecture: which floor may use which, and no circle of files. `cargo test --test house` names every import
//! that runs against it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// From low to high. A floor uses those before it, never one after it, and never another of its own line.
const FLOORS: [&[&str]; 25] = [
    &["visible"],
    &["error", "sync"],
    &["present"],
    &["did_you_mean"],
    &["descent", "random"],
    &["mmap", "atomic_file"],
    &["tensor"],
    &["checkpoint", "linalg"],
    &["hub"],
    &["kernel"],
    &["basis"],
    &["background"],
    &["weights"],
    &["onnx"],
    &["preprocess"],
    &["tower"],
    &["heads"],
    &["datasets"],
    &["encoder"],
    &["bundle"],
    &["build"],
    &["open"],
    &["fit", "router"],
    &["capi"],
    &["bin"],
];

/// The modules of `src/` by their path, without those of tests.
struct House(BTreeMap<Vec<String>, Module>);

struct Module {
    path: PathBuf,
    /// Paths in its code, with what they were written relative to.
    uses: Vec<Vec<String>>,
    /// Names that it hands on from others: what a path through it really names.
    handed_on: Vec<(String, Vec<String>)>,
}

/// What a file mentions.
#[derive(Default)]
struct Mentions {
    uses: Vec<Vec<String>>,
    handed_on: Vec<(String, Vec<String>)>,
}

impl Mentions {
    fn tree(&mut self, tree: &syn::UseTree, before: &[String], is_public: bool) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        let mut add = |name: String, path: Vec<String>| {
            if is_public { self.handed_on.push((name, path)) } else { self.uses.push(path) }
        };
        match tree {
            syn::UseTree::Path(path) => self.tree(&path.tree, &with(&path.ident), is_public),
            syn::UseTree::Group(group) => group.items.iter().for_each(|tree| self.tree(tree, before, is_public)),
            syn::UseTree::Name(name) if name.ident == "self" => {
                add(before.last().cloned().unwrap_or_default(), before.to_vec());
            }
            syn::UseTree::Name(name) => add(name.ident.to_string(), with(&name.ident)),
            syn::UseTree::Rename(name) => add(name.rename.to_string(), with(&name.ident)),
            syn::UseTree::Glob(_) => add("*".into(), before.to_vec()),
        }
    }
}

fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && attribute
                .meta
                .require_list()
                .is_ok_and(|list| list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|t| t == "test"))
    })
}

impl<'ast> Visit<'ast> for Mentions {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&item.tree, &[], !matches!(item.vis, syn::Visibility::Inherited));
    }

    /// How far something may be seen is no use of what it may be seen from.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.uses.push(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        }
        visit::visit_path(self, path);
    }
}

impl House {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut modules = BTreeMap::new();
        let mut folders = vec![root.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() && path.file_name().unwrap() != "tests" {
                    folders.push(path);
                } else if path.extension().is_some_and(|end| end == "rs") && path.file_stem().unwrap() != "tests" {
                    let (name, module) = module(&root, path);
                    modules.insert(name, module);
                }
            }
        }
        assert!(modules.len() > 100, "the sources were not found");
        Self(modules)
    }

    /// The module whose file defines what `path`, written in `from`, names; `None` for other crates' and for locals.
    fn definer(&self, from: &[String], path: &[String], depth: usize) -> Option<Vec<String>> {
        let mut at: Vec<String> = from.to_vec();
        let mut rest = path;
        match rest.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &rest[1..]),
            "taskbasis" if from.first().is_some_and(|room| room == "bin") => (at, rest) = (Vec::new(), &rest[1..]),
            "self" => rest = &rest[1..],
            "super" => {
                while rest.first().is_some_and(|first| first == "super") {
                    at.pop();
                    rest = &rest[1..];
                }
            }
            child if self.0.contains_key(&[from, &[child.to_owned()]].concat()) => {}
            _ => return None,
        }
        while let Some(name) = rest.first() {
            let child = [&at[..], std::slice::from_ref(name)].concat();
            if !self.0.contains_key(&child) {
                break;
            }
            (at, rest) = (child, &rest[1..]);
        }
        let module = self.0.get(&at)?;
        if let Some(item) = rest.first().filter(|_| depth < 8) {
            let handed = module.handed_on.iter().find(|(name, _)| name == item);
            if let Some(found) = handed.and_then(|(_, path)| self.definer(&at, path, depth + 1)) {
                return Some(found);
            }
        }
        Some(at)
    }

    /// Every use of one module by another, by their paths.
    fn edges(&self) -> BTreeSet<(Vec<String>, Vec<String>)> {
        let of = |(from, module): (&Vec<String>, &Module)| -> Vec<_> {
            let definers = module.uses.iter().filter_map(|path| self.definer(from, path, 0));
            definers.filter(|to| to != from).map(|to| (from.clone(), to)).collect()
        };
        self.0.iter().flat_map(of).collect()
    }
}

/// The module in the file at `path`, and its path in the crate; a module of the program lies below `bin`.
fn module(root: &Path, path: PathBuf) -> (Vec<String>, Module) {
    let relative = path.strip_prefix(root).unwrap().with_extension("");
    let mut name: Vec<String> = relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    name.pop_if(|last| ["mod", "main", "lib"].contains(&last.as_str()));
    if name.starts_with(&["bin".into(), "taskbasis".into()]) {
        name.remove(1);
    }
    let file =
        syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut mentions = Mentions::default();
    mentions.visit_file(&file);
    (name, Module { path, uses: mentions.uses, handed_on: mentions.handed_on })
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn no_import_runs_up() {
    let house = House::read();
    assert!(house.edges().len() > 500, "the imports were not understood");
    for (name, module) in house.0.iter().filter(|(name, _)| !name.is_empty()) {
        assert!(floor(&name[0]).is_some(), "{} is on no floor", module.path.display());
    }
    let mut against = Vec::new();
    for (from, to) in house.edges() {
        let (Some(user), Some(used)) = (from.first(), to.first()) else { continue };
        if user != used && floor(user) <= floor(used) {
            against.push(format!("{} uses {}", from.join("::"), to.join("::")));
        }
    }
    assert!(against.is_empty(), "{} imports against the floors:\n{}", against.len(), against.join("\n"));
}

#[test]
fn no_circle_of_files() {
    let house = House::read();
    let mut uses: BTreeMap<Vec<String>, BTreeSet<Vec<String>>> = BTreeMap::new();
    for (from, to) in house.edges() {
        uses.entry(from).or_default().insert(to);
    }
    let reached = |start: &Vec<String>| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(at) = open.pop() {
            for next in uses.get(&at).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        seen
    };
    let reach: BTreeMap<_, _> = house.0.keys().map(|name| (name.clone(), reached(name))).collect();
    let mut circles = BTreeSet::new();
    for (name, seen) in reach.iter().filter(|(name, seen)| seen.contains(*name)) {
        let mut circle: Vec<_> =
            seen.iter().filter(|other| reach[*other].contains(name)).map(|m| m.join("::")).collect();
        circle.sort();
        circles.insert(circle.join(", "));
    }
    let circles: Vec<_> = circles.into_iter().collect();
    assert!(circles.is_empty(), "{} circles:\n{}", circles.len(), circles.join("\n"));
}

#[test]
fn the_page_about_it_names_what_there_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/architecture.md")).unwrap();
    let named =
        page.split('`').skip(1).step_by(2).filter(|text| text.starts_with("src/") || text.starts_with("bench/"));
    let missing: Vec<_> = named.filter(|path| !root.join(path).exists()).collect();
    assert!(missing.is_empty(), "{missing:?}");
    for room in FLOORS.concat().iter().filter(|room| **room != "bin") {
        assert!(page.contains(&format!("`src/{room}/`")) || page.contains(&format!("`src/{room}.rs`")), "{room}");
    }
}
