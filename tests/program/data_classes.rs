//! Class folders and a head's classes: matched by name or by number, and otherwise never by chance.
#![cfg(feature = "images")]

use std::path::Path;

use crate::support::data::{grey, write};
use taskbasis::{Dataset, Error, ErrorKind, Head, HeadLabels, OtherNames, Split};

/// A head of classes with these names.
fn head(names: &[&str]) -> Head {
    unnamed(names.len()).with_classes(names.iter().map(|&name| name.to_owned()).collect()).unwrap()
}

fn unnamed(classes: usize) -> Head {
    Head::new(vec![1.0; classes], vec![0.0; classes]).unwrap()
}

/// A split of one image in each of these folders.
fn folders(root: &Path, names: &[&str]) -> Split {
    names.iter().for_each(|name| grey(root.join("test").join(name).join("a.png"), 0));
    Dataset::of_task("T", root).unwrap().split("T", "test").unwrap()
}

/// By the order of the folders' names.
fn matched(names: &[&str], head: &Head, other_names: OtherNames) -> Result<HeadLabels, Error> {
    let root = tempfile::tempdir().unwrap();
    folders(root.path(), names).labels_for(head, other_names)
}

#[track_caller]
fn labels(names: &[&str], head: &Head) -> Vec<usize> {
    let found = matched(names, head, OtherNames::Refuse).unwrap();
    assert!(found.remarks.is_empty(), "{:?}", found.remarks);
    found.labels
}

#[track_caller]
fn refused(names: &[&str], head: &Head, kind: ErrorKind, parts: &[&str]) {
    let error = matched(names, head, OtherNames::Refuse).unwrap_err();
    assert_eq!(error.kind(), kind, "{error}");
    parts.iter().for_each(|part| assert!(error.to_string().contains(part), "`{part}` is not in: {error}"));
}

#[test]
fn names_match_whatever_their_case_and_what_parts_their_words() {
    assert_eq!(labels(&["One", "Three", "Two", "Zero"], &head(&["zero", "one", "two", "three"])), [1, 3, 2, 0]);
    let terrain = head(&["sea or lake", "annual crop", "herbaceous-vegetation"]);
    assert_eq!(labels(&["AnnualCrop", "Herbaceous_Vegetation", "SEA-or_lake"], &terrain), [1, 2, 0]);
    // SUN397's folders.
    assert_eq!(labels(&["a_abbey", "b_balcony_exterior"], &head(&["balcony exterior", "abbey"])), [1, 0]);
    assert_eq!(labels(&["hiver", "Été"], &head(&["été", "hiver"])), [1, 0]);
    // Exact names tell apart what would be the same by these rules.
    assert_eq!(labels(&["A", "a"], &head(&["a", "A"])), [1, 0]);
    assert_eq!(labels(&["a b", "a_b", "c"], &head(&["c", "a_b", "a b"])), [2, 1, 0]);
}

#[test]
fn names_that_are_the_same_by_these_rules_are_listed() {
    refused(&["Cat", "cat"], &head(&["dog", "CAT"]), ErrorKind::Format, &["`Cat`", "`cat`"]);
    refused(&["a-b", "a_b"], &head(&["x", "y"]), ErrorKind::Format, &["`a-b`", "`a_b`"]);
    refused(&["a-b", "c"], &head(&["a b", "a_b", "c"]), ErrorKind::Format, &["`a-b`", "`a b`", "`a_b`"]);
    // ImageNet has the crane twice.
    refused(&["crane"], &head(&["crane", "crane"]), ErrorKind::Format, &["`crane`, `crane`"]);
    refused(&["01", "1"], &head(&["x", "y"]), ErrorKind::Format, &["`01`", "`1`"]);
}

#[test]
fn numbers_count_as_numbers() {
    let names: Vec<String> = (0..12).map(|i| format!("sign {i}")).collect();
    let signs = head(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let plain: Vec<String> = (0..12).map(|i| i.to_string()).collect();
    let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
    let padded: Vec<String> = (0..12).map(|i| format!("{i:05}")).collect();
    let padded: Vec<&str> = padded.iter().map(String::as_str).collect();
    // In the order of the names: 0, 1, 10, 11, 2, ….
    let by_name = [0, 1, 10, 11, 2, 3, 4, 5, 6, 7, 8, 9];
    for head in [&signs, &unnamed(12), &head(&plain), &head(&padded)] {
        assert_eq!(labels(&plain, head), by_name);
        assert_eq!(labels(&padded, head), (0..12).collect::<Vec<_>>());
    }
    // Oxford's flowers count from 1: told, as nothing else says so.
    let from_one: Vec<String> = (1..=12).map(|i| i.to_string()).collect();
    let from_one: Vec<&str> = from_one.iter().map(String::as_str).collect();
    let found = matched(&from_one, &signs, OtherNames::Refuse).unwrap();
    assert_eq!(found.labels, [0, 9, 10, 11, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(found.remarks[0].contains("`1` is `sign 0`"), "{:?}", found.remarks);
    // Some of them: only with the 0 it is known from where they count.
    let found = matched(&["0", "10", "2"], &signs, OtherNames::Refuse).unwrap();
    assert!(
        found.labels == [0, 10, 2] && found.remarks[0].contains("9 of the head's 12 classes: `sign 1`"),
        "{found:?}"
    );
    refused(&["1", "10", "2"], &signs, ErrorKind::Mismatch, &["0 to 11", "3 folders from 1 to 10"]);
    refused(&["0", "12"], &signs, ErrorKind::Mismatch, &["0 to 11", "2 folders from 0 to 12"]);
}

#[test]
fn other_names_are_refused_or_by_word_of_their_reader_taken_in_order() {
    let animals = head(&["horse", "lion"]);
    refused(&["Löwe", "Pferd"], &animals, ErrorKind::NotFound, &["`Löwe`, `Pferd`", "expected `horse`, `lion`"]);
    refused(&["lion", "hrose"], &animals, ErrorKind::NotFound, &["has not: `hrose`", "Did you mean `horse`?"]);
    let found = matched(&["Löwe", "Pferd"], &animals, OtherNames::Alphabetical).unwrap();
    assert_eq!(found.labels, [0, 1]);
    assert!(found.remarks[0].contains("`Löwe` is `horse` and `Pferd` is `lion`"), "{:?}", found.remarks);
    // Names that match count by name all the same.
    assert_eq!(matched(&["lion", "horse"], &animals, OtherNames::Alphabetical).unwrap().labels, [0, 1]);
    let error = matched(&["a", "b", "c"], &animals, OtherNames::Alphabetical).unwrap_err();
    assert!(error.to_string().contains("expected 2, got 3 folders"), "{error}");
    // A head without names has the order of the alphabet alone, which is said.
    let found = matched(&["b", "a"], &unnamed(2), OtherNames::Refuse).unwrap();
    assert!(found.labels == [0, 1] && found.remarks[0].contains("`a` is `0` and `b` is `1`"), "{found:?}");
    refused(&["a", "b", "c"], &unnamed(2), ErrorKind::Mismatch, &["expected 2", "3 folders"]);
}

#[test]
fn missing_and_empty_folders_are_told_by_name() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    grey(root.join("test/cat/a.png"), 0);
    write(root.join("test/annotations/a.xml"), "");
    write(root.join("test/cat/._a.png"), "AppleDouble");
    write(root.join("test/.cache/x.png"), "");
    grey(root.join("test/loose.png"), 0);
    grey(root.join("test/cat/more/b.png"), 0);
    grey(root.join("train/cat/a.png"), 0);
    grey(root.join("unlabelled/a.png"), 0);
    let split = Dataset::of_task("T", root).unwrap().split("T", "test").unwrap();
    let found = split.labels_for(&head(&["dog", "cat"]), OtherNames::Refuse).unwrap();
    assert_eq!(found.labels, [1, 1]);
    let remarks = found.remarks.join("\n");
    for part in [
        "no images of 1 of the head's 2 classes: `dog`",
        "folders without images that are no class of the head: `annotations`",
        "1 images beside the class folders",
        "1 images in subfolders of class folders",
        "1 files in class folders were not read, as their names are no images': a.xml",
        "unlabelled: not read",
    ] {
        assert!(remarks.contains(part), "`{part}` is not in: {remarks}");
    }
    // Without images a folder is none of the classes that are counted in order.
    let found = split.labels_for(&unnamed(1), OtherNames::Refuse).unwrap();
    assert_eq!(found.labels, [0, 0]);
}

#[test]
fn layouts_that_people_have() {
    let root = tempfile::tempdir().unwrap();
    let root = root.path();
    // SUN397: below letters, some classes in two parts.
    for class in ["a/abbey", "a/airport_terminal", "b/balcony/exterior", "b/balcony/interior"] {
        grey(root.join("SUN397").join(class).join("sun_1.png"), 0);
    }
    let split = Dataset::of_task("SUN397", root.join("SUN397")).unwrap().split("SUN397", "test").unwrap();
    assert_eq!(split.classes(), ["abbey", "airport_terminal", "balcony/exterior", "balcony/interior"]);
    let scenes = head(&["balcony interior", "balcony exterior", "airport terminal", "abbey"]);
    assert_eq!(split.labels_for(&scenes, OtherNames::Refuse).unwrap().labels, [3, 2, 1, 0]);
    // A class whose images lie deeper, beside one whose images do not: classes, not splits.
    grey(root.join("mixed/airport/a.png"), 0);
    grey(root.join("mixed/balcony/outside/a.png"), 0);
    let split = Dataset::of_task("T", root.join("mixed")).unwrap().split("T", "test").unwrap();
    assert_eq!((split.classes().len(), split.labels()), (2, &[0, 1][..]));
    // EuroSAT's archive: one folder above the classes.
    grey(root.join("EuroSAT/2750/AnnualCrop/a.png"), 0);
    assert_eq!(Dataset::of_task("T", root.join("EuroSAT")).unwrap().splits("T").unwrap(), ["2750"]);
}
