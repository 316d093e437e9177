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
    let mut promised = Shown::new();
    let is_row = |line: &&str| line.starts_with("| ") && !line.starts_with("| |");
    for line in page.lines().filter(is_row) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, id, what, source, tests, _] = cells[..] else { panic!("no row: {line}") };
        assert!(is_id(id) && !what.is_empty() && !source.is_empty(), "no row: {line}");
        let tests = tests.split(", ").map(|test| test.trim_matches('`').to_owned());
        let before = promised.insert(id.to_owned(), tests.collect());
        assert_eq!(before, None, "{id} stands twice");
    }
    promised
}

/// What the comments of tests name, in every file below `folder`.
fn find(folder: &Path, shown: &mut Shown) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("target") {
            find(&path, shown);
        } else if path.extension().is_some_and(|end| end == "rs") {
            find_in(&path, &fs::read_to_string(&path).expect("a readable file"), shown);
        }
    }
}

/// A comment that begins with "Behaviour", to its colon, its stop or its end, and the test that it stands at.
fn find_in(path: &Path, text: &str, shown: &mut Shown) {
    let mut comment = String::new();
    let mut is_test = false;
    for line in text.lines().map(str::trim) {
        if let Some(more) = line.strip_prefix("///") {
            comment += more;
        } else if line.starts_with("#[") {
            is_test |= line.starts_with("#[test") || line.starts_with("#[tokio::test");
        } else {
            let ids = named(&comment);
            let name = line.split_once("fn ").map(|(_, function)| function);
            let name = name.and_then(|function| function.split('(').next()).unwrap_or_default();
            for id in ids {
                let is_property = !name.is_empty() && text.contains("proptest! {");
                assert!(is_test || is_property, "{path:?}: {id} stands at no test: {line}");
                shown.entry(id).or_default().insert(name.to_owned());
            }
            comment.clear();
            is_test = false;
        }
    }
}

/// The numbers in a comment such as " Behaviours C1, C2 and C3: what is shown of them".
fn named(comment: &str) -> Vec<String> {
    let Some(rest) = comment.trim_start().strip_prefix("Behaviour") else {
        assert!(!comment.contains("Behaviour "), "not at the beginning: {comment}");
        return Vec::new();
    };
    let end = rest.find([':', '.', ';', '(']).unwrap_or(rest.len());
    let words = rest[..end].split(|c: char| !c.is_ascii_alphanumeric());
    let ids: Vec<String> = words.filter(|word| is_id(word)).map(str::to_owned).collect();
    assert!(!ids.is_empty(), "no number: {comment}");
    ids
}

/// A letter and a number.
fn is_id(word: &str) -> bool {
    let number = word.strip_prefix(|c: char| c.is_ascii_uppercase()).unwrap_or_default();
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
