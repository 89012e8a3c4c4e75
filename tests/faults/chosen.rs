//! Which calls are made to fail, and how.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::support::Random;

/// The calls of a scene that could fail, by kind: for each the hash of the way that leads to it.
pub(crate) type Calls = BTreeMap<String, Vec<u64>>;

/// One fault, as the shim reads it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Fault {
    pub call: String,
    pub number: usize,
    /// This call and all after it.
    pub is_lasting: bool,
    pub how: &'static str,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}{}:{}", self.call, self.number, if self.is_lasting { "+" } else { "" }, self.how)
    }
}

/// The ways in which a kind of call fails, the usual one first.
fn ways(call: &str) -> &'static [&'static str] {
    match call {
        "malloc" => &["ENOMEM"],
        "mmap" => &["ENOMEM", "ENODEV"],
        "open" => &["EIO", "EMFILE", "EACCES", "EINTR"],
        "read" | "pread" => &["EIO", "short", "EINTR"],
        "write" | "pwrite" => &["ENOSPC", "short", "EINTR", "EIO"],
        "fsync" => &["EIO", "ENOSPC", "EINTR"],
        "rename" => &["EIO", "ENOSPC"],
        "ftruncate" => &["ENOSPC", "EINTR"],
        "thread" => &["EAGAIN"],
        "random" => &["ENOSYS", "EINTR", "EPERM", "short"],
        "stat" => &["EIO", "ENOMEM", "EACCES"],
        "list" => &["EIO", "EMFILE"],
        "lock" => &["ENOLCK", "EINTR"],
        "mode" => &["EPERM", "EROFS"],
        "mkdir" => &["ENOSPC", "EACCES"],
        "connect" => &["ECONNREFUSED", "ETIMEDOUT"],
        "send" | "recv" => &["ECONNRESET", "short", "EINTR"],
        _ => panic!("the shim counts `{call}`, which is not known here"),
    }
}

/// What is asked for by the environment.
pub(crate) struct Plan {
    pub seed: u64,
    pub is_long: bool,
    only: Option<(String, Option<String>)>,
}

impl Plan {
    pub(crate) fn from_environment() -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let only = variable("FAULTS_ONLY").map(|only| match only.split_once(':') {
            Some((scene, call)) => (scene.to_owned(), Some(call.to_owned())),
            None => (only, None),
        });
        let seed = variable("FAULTS_SEED").map_or(18, |seed| seed.parse().expect("FAULTS_SEED is a number"));
        let is_long = match variable("FAULTS").as_deref() {
            None | Some("short") => false,
            Some("long") => true,
            Some(other) => panic!("FAULTS is `short` or `long`, not `{other}`"),
        };
        Self { seed, is_long, only }
    }

    pub(crate) fn wants_scene(&self, scene: &str) -> bool {
        self.only.as_ref().is_none_or(|(only, _)| only == scene)
    }

    fn wants_call(&self, call: &str) -> bool {
        self.only.as_ref().is_none_or(|(_, only)| only.as_ref().is_none_or(|only| only == call))
    }

    /// Of every kind of call: one of each way that leads there, the first ones, and a few others. In the long form all.
    /// `has_outside`: the scene uses parts of others that end the process where memory is refused.
    pub(crate) fn choose(&self, calls: &Calls, has_outside: bool) -> Vec<Fault> {
        let mut random = Random(self.seed);
        let mut faults = Vec::new();
        for (call, ways_there) in calls.iter().filter(|(call, _)| self.wants_call(call)) {
            let mut numbers = BTreeSet::new();
            let mut known = BTreeSet::new();
            for (i, hash) in ways_there.iter().enumerate() {
                if self.is_long || i < 3 || known.insert(hash) {
                    numbers.insert(i + 1);
                }
            }
            for _ in 0..2 {
                numbers.insert(1 + random.below(ways_there.len()));
            }
            for &number in &numbers {
                let is_varied = self.is_long || number <= 3 || random.below(3) == 0;
                for (i, how) in ways(call).iter().enumerate() {
                    let fault = |is_lasting| Fault { call: call.clone(), number, is_lasting, how };
                    // The usual way always; of the others, in the short form, now and then one in turn.
                    let is_its_turn = i == 1 + number % (ways(call).len() - 1).max(1);
                    if self.is_long || i == 0 || (is_varied && is_its_turn) {
                        faults.push(fault(false));
                    }
                    // What is interrupted for ever, or never gets more than a half, ends no sooner than it should.
                    // Where no memory is left at all, an abort cannot say whose it is.
                    let is_never = ["EINTR", "short"].contains(how) || (call == "malloc" && has_outside);
                    if !is_never && (self.is_long || (i == 0 && (number <= 2 || random.below(4) == 0))) {
                        faults.push(fault(true));
                    }
                }
            }
        }
        faults
    }
}
