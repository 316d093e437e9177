//! The README says what is true.

use std::fs;
use std::path::Path;

/// The forty lines that it shows are the example that is compiled.
#[test]
fn the_forty_lines_are_the_quickstart() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let readme = fs::read_to_string(root.join("README.md")).unwrap();
    let quickstart = fs::read_to_string(root.join("examples/quickstart/src/main.rs")).unwrap();
    // Without the line that says what file it is.
    let code = quickstart.split_once("\n\n").unwrap().1;
    assert!(readme.contains(code), "README.md and examples/quickstart differ");
}
