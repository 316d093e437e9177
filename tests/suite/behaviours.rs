//! `docs/behaviours.md` and the comments of the tests agree on which test shows which behaviour.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The tests of each behaviour.
type Shown = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// `| C1 | what | why | `one`, `another` |`
fn promised() -> Shown {
    let page = fs::read_to_string(root().join("docs/behaviours.md")).expect("the page");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, id, _, _, tests, _] = cells[..] else { return None };
        let tests = tests.split(", ").map(|test| test.trim_matches('`').to_owned());
        is_id(id).then(|| (id.to_owned(), tests.collect()))
    };
    page.lines().filter_map(row).collect()
}

/// What the comments of functions name, in every file below `folder`.
fn find(folder: &Path, shown: &mut Shown) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            find(&path, shown);
        } else if path.extension().is_some_and(|end| end == "rs") {
            find_in(&fs::read_to_string(path).expect("a readable file"), shown);
        }
    }
}

fn find_in(text: &str, shown: &mut Shown) {
    let mut named: Vec<&str> = Vec::new();
    for line in text.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// Behaviour") {
            let words = comment.split(|c: char| !c.is_ascii_alphanumeric());
            named.extend(words.filter(|word| is_id(word)));
        } else if let Some((_, function)) = line.split_once("fn ") {
            let name = function.split('(').next().unwrap_or_default();
            for id in named.drain(..) {
                shown.entry(id.to_owned()).or_default().insert(name.to_owned());
            }
        }
    }
    assert!(named.is_empty(), "{named:?} stand before no function");
}

fn is_id(word: &str) -> bool {
    let number = word.strip_prefix(['C', 'L', 'S']).unwrap_or_default();
    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
}

#[test]
fn each_behaviour_is_shown_by_the_tests_that_name_it() {
    let promised = promised();
    let mut shown = Shown::new();
    for folder in ["crates", "tests", "examples"] {
        find(&root().join(folder), &mut shown);
    }
    assert!(promised.len() > 50, "only {} rows were seen", promised.len());
    for id in promised.keys().chain(shown.keys()) {
        assert_eq!(promised.get(id), shown.get(id), "{id}: the page, and the tests' comments");
    }
}
