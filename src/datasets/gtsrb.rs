//! GTSRB, the German traffic signs: training images in a folder per class, test images in one folder, with a table.

use std::path::{Path, PathBuf};

use super::classes;
use super::source::{ImageSet, MAX_TEXT, SplitSource, Splits};
use super::split::{Images, Split};
use crate::error::{Error, Result};
use crate::mmap::read_small_text;

/// The places of the training images, below the folder that holds the data set: as the archives unpack, as torchvision
/// expects them, as Kaggle has them.
const TRAINING: [&str; 5] =
    ["Final_Training/Images", "Training", "GTSRB/Final_Training/Images", "GTSRB/Training", "Train"];
/// The places of the test images.
const TEST: [&str; 3] = ["Final_Test/Images", "GTSRB/Final_Test/Images", "Test"];
/// The tables that say what the test images show.
const TABLES: [&str; 2] = ["GT-final_test.csv", "Test.csv"];

/// The test images: their folder, and their table.
#[derive(Debug)]
struct TestTable {
    images: PathBuf,
    table: PathBuf,
}

/// The splits in `folder`; none unless the test images are there, with their table or beside the training images.
///
/// # Errors
/// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when the test images have no table.
pub(super) fn sets(folder: &Path) -> Result<Vec<ImageSet>> {
    let mut splits: Splits = Vec::new();
    let official = |name: &str| name.contains("Final") || name.contains("GTSRB");
    let mut is_gtsrb = false;
    if let Some(name) = TEST.iter().find(|name| folder.join(name).is_dir()) {
        let images = folder.join(name);
        // Beside the images, or in any folder above them.
        let places = images.ancestors().take_while(|place| place.starts_with(folder)).chain(folder.parent());
        let table = places.flat_map(|place| TABLES.map(|name| place.join(name))).find(|table| table.is_file());
        match table {
            Some(table) => splits.push(("test".to_owned(), Box::new(TestTable { images, table }))),
            None if official(name) => return Err(no_table(&images)),
            None => return Ok(Vec::new()),
        }
        is_gtsrb = true;
    }
    if let Some(name) = TRAINING.iter().find(|name| folder.join(name).is_dir())
        && (is_gtsrb || official(name))
        && let Some(training) = classes::folders(&folder.join(name))?
    {
        splits.push(("train".to_owned(), training));
    }
    Ok(ImageSet::of("gtsrb", splits).into_iter().collect())
}

fn no_table(images: &Path) -> Error {
    Error::not_found("the test images have no table of their classes")
        .at(images)
        .expected("GT-final_test.csv beside them or above them")
        .hint("It is in GTSRB_Final_Test_GT.zip; GT-final_test.test.csv does not name the classes")
}

impl SplitSource for TestTable {
    fn read(&self) -> Result<Split> {
        let text = read_small_text(&self.table, MAX_TEXT, "a table of classes")?;
        let (files, labels) = rows(&text, &self.images).map_err(|e| e.at(&self.table))?;
        Ok(Split::new(Images::Files(files), labels).at(&self.table))
    }
}

/// The images and classes that a table lists, its columns named in its first line and parted by `;` or `,`.
fn rows(text: &str, folder: &Path) -> Result<(Vec<PathBuf>, Vec<usize>)> {
    let mut lines = text.trim_start_matches('\u{feff}').lines().filter(|line| !line.trim().is_empty());
    // An empty table lacks its columns.
    let header = lines.next().unwrap_or("");
    let separator = if header.contains(';') { ';' } else { ',' };
    let column = |names: &[&str]| {
        let is = |cell: &str| names.iter().any(|name| cell.trim().trim_matches('"').eq_ignore_ascii_case(name));
        header.split(separator).position(is)
    };
    let (Some(file), Some(class)) = (column(&["Filename", "Path"]), column(&["ClassId"])) else {
        return Err(Error::format("the table lacks a column")
            .expected("Filename or Path, and ClassId")
            .got(header.chars().take(200).collect::<String>()));
    };
    let (mut files, mut labels) = (Vec::new(), Vec::new());
    for (number, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split(separator).map(|cell| cell.trim().trim_matches('"')).collect();
        // A path leads from the folder of the table; what counts of it is the file.
        let name = cells.get(file).and_then(|cell| cell.rsplit(['/', '\\']).next()).filter(|name| !name.is_empty());
        let label = cells.get(class).and_then(|cell| cell.parse().ok());
        let (Some(name), Some(label)) = (name, label) else {
            return Err(Error::format(format!("line {} of the table names no image and class", number + 2))
                .got(line.chars().take(200).collect::<String>()));
        };
        files.push(folder.join(name));
        labels.push(label);
    }
    Ok((files, labels))
}
