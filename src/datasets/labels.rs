//! The class of a head that each label means: by the classes' names, by numbers, never by chance.

use std::collections::HashMap;

use super::split::{ClassNaming, Split};
use crate::did_you_mean::{clipped, nearest};
use crate::error::{Error, Result};
use crate::heads::Head;

/// The most names that a message lists.
const MAX_LISTED: usize = 20;

/// The rule for class folders whose names are not the head's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OtherNames {
    /// Refuse them, by name.
    #[default]
    Refuse,
    /// Count all folders in the order of the alphabet, as torchvision's `ImageFolder` does, where they are as many as
    /// the head's classes.
    Alphabetical,
}

/// The labels of a split as a head counts its classes.
#[derive(Clone, Debug)]
pub struct HeadLabels {
    /// The class of each image.
    pub labels: Vec<usize>,
    /// Remarks for people on how they were found; empty where every name is the same.
    pub remarks: Vec<String>,
}

impl Split {
    /// The labels as `head` counts classes.
    ///
    /// Class folders are matched to the head's classes by their names, without regard to case, spaces, `_`, `-` and
    /// `/`; SUN397's `a_abbey` is `abbey`. Folders that are all numbers, where the head's names are not, count by their
    /// numbers, from 0, or from 1 where they are as many as the classes. Labels of data that is numbered are the head's
    /// numbers.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) when folders have names that are none of the head's, naming
    /// them, unless `other_names` allows it; [`ErrorKind::Mismatch`](crate::ErrorKind::Mismatch) when the numbers of
    /// classes differ and nothing tells which is which, or a label is no class of the head;
    /// [`ErrorKind::Format`](crate::ErrorKind::Format) when two folders or two classes have one name by these rules.
    pub fn labels_for(&self, head: &Head, other_names: OtherNames) -> Result<HeadLabels> {
        let mut matching = Matching::new(self, head);
        let places = match self.naming {
            ClassNaming::Numbers => None,
            ClassNaming::List => matching.of_list(other_names)?,
            ClassNaming::Folders => Some(matching.of_folders(other_names).map_err(|e| e.at(&self.path))?),
        };
        let labels = match places {
            None => head.check_labels(&self.labels).map_err(|e| e.at(&self.path))?.to_vec(),
            Some(places) => {
                let place = |&label: &usize| places.get(label).copied().flatten();
                let placed: Option<Vec<usize>> = self.labels.iter().map(place).collect();
                placed.ok_or_else(|| {
                    Error::new(crate::ErrorKind::Internal, "a class with images has no place").at(&self.path)
                })?
            }
        };
        Ok(HeadLabels { labels, remarks: matching.remarks })
    }
}

/// The names of both sides.
struct Matching<'a> {
    data: &'a [String],
    /// Whether each of the data's classes has images.
    used: Vec<bool>,
    head: &'a [String],
    /// The head's number of classes, also where they have no names.
    classes: usize,
    remarks: Vec<String>,
}

/// The place in the head of each of the data's classes, where it has one.
type Places = Vec<Option<usize>>;

impl<'a> Matching<'a> {
    fn new(split: &'a Split, head: &'a Head) -> Self {
        let mut used = vec![false; split.classes.len()];
        for &label in &split.labels {
            if let Some(used) = used.get_mut(label) {
                *used = true;
            }
        }
        Self {
            data: &split.classes,
            used,
            head: head.classes(),
            classes: head.num_classes(),
            remarks: split.remarks.clone(),
        }
    }

    /// Data that is numbered and says what its numbers mean: by names where all are the head's, else by numbers.
    fn of_list(&mut self, other_names: OtherNames) -> Result<Option<Places>> {
        if self.head.is_empty() {
            return Ok(None);
        }
        let places = self.by_name()?;
        let elsewhere = |(own, place): (usize, &Option<usize>)| place.is_some_and(|place| place != own);
        let unknown = self.unplaced(&places);
        if unknown.is_empty() {
            return Ok(Some(places));
        }
        let is_other_order = places.iter().enumerate().any(elsewhere) && other_names == OtherNames::Refuse;
        if is_other_order {
            return Err(self.no_such_class(&unknown));
        }
        if places.iter().all(Option::is_none) {
            let first = self.data.first().map_or("", String::as_str);
            self.remarks.push(format!(
                "no class of the data ({}) is one of the head's by name; labels count as numbers: 0, `{}`, is `{}`",
                listed(self.data.iter().map(String::as_str)),
                clipped(first),
                self.head_name(0)
            ));
        }
        Ok(None)
    }

    fn of_folders(&mut self, other_names: OtherNames) -> Result<Places> {
        let places = self.by_name()?;
        let unknown = self.unplaced(&places);
        if unknown.is_empty() && places.iter().any(Option::is_some) {
            self.remark_missing(&places);
            return Ok(places);
        }
        if places.iter().all(Option::is_none) {
            if let Some(places) = self.by_number()? {
                return Ok(places);
            }
            if self.head.is_empty() {
                return self.by_alphabet("the head's classes have no names");
            }
        }
        match other_names {
            OtherNames::Refuse => Err(self.no_such_class(&unknown)),
            OtherNames::Alphabetical => {
                self.by_alphabet(&format!("no class of the head is called {}", self.names_of(&unknown)))
            }
        }
    }

    /// The places by exact names, else by [`plain`] ones, in which neither side may say anything twice.
    fn by_name(&self) -> Result<Places> {
        let mut exact: HashMap<&str, Vec<usize>> = HashMap::new();
        let mut alike: HashMap<String, Vec<usize>> = HashMap::new();
        for (i, name) in self.head.iter().enumerate() {
            exact.entry(name).or_default().push(i);
            alike.entry(plain(name)).or_default().push(i);
        }
        let lettered = self.data.iter().all(|name| without_letter(name).is_some());
        let mut places = Vec::with_capacity(self.data.len());
        let mut taken: HashMap<usize, &str> = HashMap::new();
        for name in self.data {
            let bare = without_letter(name).filter(|_| lettered);
            let found = alike.get(&plain(name)).or_else(|| alike.get(&plain(bare?)));
            let place = match exact.get(name.as_str()).or(found).map(Vec::as_slice) {
                Some(&[place]) => Some(place),
                Some(several) => {
                    let names = listed(several.iter().map(|&i| self.head[i].as_str()));
                    return Err(Error::format(format!("class folder `{}` could be any of {names}", clipped(name)))
                        .hint(
                            "Case, spaces, `_`, `-` and `/` do not tell names apart, unless they are the same exactly",
                        ));
                }
                None => None,
            };
            if let Some(place) = place
                && let Some(other) = taken.insert(place, name)
            {
                return Err(two_alike(other, name));
            }
            places.push(place);
        }
        self.check_alike(&places)?;
        Ok(places)
    }

    /// Refuses two folders that nothing of the head tells apart.
    fn check_alike(&self, places: &Places) -> Result<()> {
        let mut seen: HashMap<String, &str> = HashMap::new();
        for (name, _) in self.data.iter().zip(places).filter(|(_, place)| place.is_none()) {
            if let Some(other) = seen.insert(plain(name), name) {
                return Err(two_alike(other, name));
            }
        }
        Ok(())
    }

    /// The places of folders that are all numbers; `None` where one is not.
    fn by_number(&mut self) -> Result<Option<Places>> {
        let number = |name: &String| -> Option<usize> {
            let is_number = !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit());
            if is_number { name.parse().ok() } else { None }
        };
        let numbers: Option<Vec<usize>> = self.data.iter().map(number).collect();
        let Some(numbers) = numbers.filter(|numbers| !numbers.is_empty()) else { return Ok(None) };
        let mut sorted = numbers.clone();
        sorted.sort_unstable();
        let (least, most) = (sorted[0], sorted[sorted.len() - 1]);
        if least == 0 && most < self.classes {
            let places: Places = numbers.into_iter().map(Some).collect();
            self.remark_missing(&places);
            return Ok(Some(places));
        }
        if numbers.len() != self.classes {
            return Err(Error::mismatch("class folders are numbers, and the head has other classes")
                .expected(format_args!("numbers from 0 to {}, or {} folders", self.classes - 1, self.classes))
                .got(format_args!("{} folders from {least} to {most}", numbers.len())));
        }
        let first = self.head_name(0);
        self.remarks.push(format!("class folders count in the order of their numbers: `{least}` is `{first}`"));
        Ok(Some(numbers.iter().map(|number| sorted.binary_search(number).ok()).collect()))
    }

    /// The places of folders in the order of their names, those without images left out where that makes the numbers
    /// fit.
    fn by_alphabet(&mut self, why: &str) -> Result<Places> {
        let with_images = self.used.iter().filter(|used| **used).count();
        let all = self.data.len();
        if all != self.classes && with_images != self.classes {
            return Err(Error::mismatch("data and head differ in their number of classes")
                .expected(self.classes)
                .got(format_args!("{all} folders, and {why}")));
        }
        let mut next = 0;
        let places: Places = self
            .used
            .iter()
            .map(|used| {
                let counts = all == self.classes || *used;
                next += usize::from(counts);
                counts.then(|| next - 1)
            })
            .collect();
        let ends = [0, self.classes - 1].map(|class| {
            let folder = places.iter().position(|place| *place == Some(class)).map_or("", |i| &self.data[i]);
            format!("`{}` is `{}`", clipped(folder), self.head_name(class))
        });
        let [first, last] = ends;
        self.remarks
            .push(format!("{why}: class folders count in the order of the alphabet, in which {first} and {last}"));
        Ok(places)
    }

    /// The classes with images that have no place; of folders without images, one is told.
    fn unplaced(&self, places: &Places) -> Vec<usize> {
        (0..places.len()).filter(|&i| places[i].is_none() && self.used[i]).collect()
    }

    /// Says which classes of the head have no images, and which folders are no classes and empty.
    fn remark_missing(&mut self, places: &Places) {
        let mut has = vec![false; self.classes];
        for (place, _) in places.iter().zip(&self.used).filter(|(_, used)| **used) {
            if let Some(has) = place.and_then(|place| has.get_mut(place)) {
                *has = true;
            }
        }
        let missing: Vec<String> = (0..self.classes).filter(|&i| !has[i]).map(|i| self.head_name(i)).collect();
        if !missing.is_empty() {
            let names = listed(missing.iter().map(String::as_str));
            let of = self.classes;
            self.remarks.push(format!("no images of {} of the head's {of} classes: {names}", missing.len()));
        }
        let empty: Vec<usize> = (0..places.len()).filter(|&i| places[i].is_none() && !self.used[i]).collect();
        if !empty.is_empty() {
            let names = self.names_of(&empty);
            self.remarks.push(format!("folders without images that are no class of the head: {names}"));
        }
    }

    fn no_such_class(&self, unknown: &[usize]) -> Error {
        let of_head = self.head.iter().map(String::as_str);
        let near = unknown.first().and_then(|&i| nearest(&self.data[i], of_head.clone()));
        let names = self.names_of(unknown);
        let error = Error::not_found(format!("the data have classes that the head has not: {names}"));
        let error = error.expected(listed(of_head)).got(format_args!("{} other names", unknown.len()));
        match near {
            Some(near) => error.hint(format!("Did you mean `{}`?", clipped(near))),
            None => error,
        }
    }

    fn names_of(&self, which: &[usize]) -> String {
        listed(which.iter().map(|&i| self.data[i].as_str()))
    }

    fn head_name(&self, class: usize) -> String {
        self.head.get(class).map_or_else(|| class.to_string(), |name| clipped(name).into_owned())
    }
}

fn two_alike(one: &str, other: &str) -> Error {
    Error::format(format!("two classes have the same name: `{}` and `{}`", clipped(one), clipped(other)))
        .hint("Case, spaces, `_`, `-` and `/` do not tell names apart: rename one, or put their images together")
}

/// `a`, `b` and 3 more.
fn listed<'a>(names: impl Iterator<Item = &'a str> + Clone) -> String {
    let list: Vec<String> = names.clone().take(MAX_LISTED).map(|name| format!("`{}`", clipped(name))).collect();
    match names.count().saturating_sub(MAX_LISTED) {
        0 => list.join(", "),
        more => format!("{} and {more} more", list.join(", ")),
    }
}

/// A name without what spellings differ in: lower case, no spaces, `_`, `-` and `/`; numbers without leading zeros.
fn plain(name: &str) -> String {
    let is_between = |c: char| c.is_whitespace() || matches!(c, '_' | '-' | '/');
    let plain: String = name.to_lowercase().chars().filter(|&c| !is_between(c)).collect();
    if !plain.is_empty() && plain.bytes().all(|b| b.is_ascii_digit()) {
        let digits = plain.trim_start_matches('0');
        return if digits.is_empty() { "0".to_owned() } else { digits.to_owned() };
    }
    plain
}

/// `abbey` of `a_abbey`: SUN397's classes with their first letter in front.
fn without_letter(name: &str) -> Option<&str> {
    let (letter, rest) = name.split_once('_')?;
    let is_first = letter.len() == 1 && rest.get(..1).is_some_and(|first| first.eq_ignore_ascii_case(letter));
    is_first.then_some(rest)
}
