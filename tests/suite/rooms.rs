//! Within a crate too imports run one way: no file imports, by whatever way, one that imports it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};
use syn::{Attribute, Item, UseTree};

/// No file of a crate's `src` is longer, in lines.
const LONGEST: usize = 460;

/// A path of names from the crate's root, as `a::b` is.
type Names = Vec<String>;

/// The files of a crate, by the modules that they are.
struct Rooms(BTreeMap<Names, Imports>);

/// What a file imports, from the root, and by which name it has it.
#[derive(Default)]
struct Imports(Vec<(Names, String)>);

/// Looks through a file's items.
struct Reader<'a> {
    module: Names,
    children: &'a BTreeSet<Names>,
    imports: Imports,
}

fn is_test(attributes: &[Attribute]) -> bool {
    let is_cfg_test = |attribute: &Attribute| {
        attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Ident>().is_ok_and(|name| name == "test")
    };
    attributes.iter().any(is_cfg_test)
}

impl Reader<'_> {
    /// The names from the root of a path that is written in this module.
    fn absolute(&self, path: &[String]) -> Option<Names> {
        let mut from = self.module.clone();
        let mut rest = path;
        match path.first()?.as_str() {
            "crate" => (from, rest) = (Vec::new(), &path[1..]),
            "self" => rest = &path[1..],
            "super" => {
                while rest.first().is_some_and(|name| name == "super") {
                    from.pop()?;
                    rest = &rest[1..];
                }
            }
            name => {
                from.push(name.to_owned());
                let is_child = self.children.contains(&from);
                from.pop();
                if !is_child {
                    return None;
                }
            }
        }
        from.extend_from_slice(rest);
        Some(from)
    }

    fn take(&mut self, path: &[String], name: &str) {
        if let Some(path) = self.absolute(path) {
            self.imports.0.push((path, name.to_owned()));
        }
    }

    fn take_tree(&mut self, before: &[String], tree: &UseTree) {
        let with = |name: String| [before, &[name]].concat();
        match tree {
            UseTree::Path(path) => self.take_tree(&with(path.ident.to_string()), &path.tree),
            UseTree::Name(name) if name.ident == "self" => {
                self.take(before, before.last().map_or("", String::as_str));
            }
            UseTree::Name(name) => {
                self.take(&with(name.ident.to_string()), &name.ident.to_string());
            }
            UseTree::Rename(name) => {
                self.take(&with(name.ident.to_string()), &name.rename.to_string());
            }
            UseTree::Glob(_) => self.take(before, "*"),
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.take_tree(before, tree));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Mod(module) if is_test(&module.attrs) => {}
            Item::Use(import) if is_test(&import.attrs) => {}
            Item::Use(import) => self.take_tree(&[], &import.tree),
            _ => visit::visit_item(self, item),
        }
    }

    // Who may see an item is no import of it.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Names = path.segments.iter().map(|part| part.ident.to_string()).collect();
        self.take(&names, "");
        visit::visit_path(self, path);
    }
}

impl Rooms {
    fn of(src: &Path) -> Self {
        let files: BTreeMap<Names, PathBuf> =
            rust_files(src).into_iter().map(|file| (module(src, &file), file)).collect();
        let files: BTreeMap<Names, PathBuf> =
            files.into_iter().filter(|(module, _)| !module.contains(&"tests".to_owned())).collect();
        let children: BTreeSet<Names> = files.keys().cloned().collect();
        let rooms = files.iter().map(|(module, file)| {
            let text = fs::read_to_string(file).expect("a readable file");
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
            let mut reader =
                Reader { module: module.clone(), children: &children, imports: Imports::default() };
            reader.visit_file(&parsed);
            (module.clone(), reader.imports)
        });
        Self(rooms.collect())
    }

    /// The file that a path leads to, through the re-exports of others.
    fn file(&self, path: &[String]) -> Names {
        let length = (0..=path.len()).rev().find(|length| self.0.contains_key(&path[..*length]));
        let (file, rest) = path.split_at(length.expect("the root is a file"));
        let Some(item) = rest.first() else { return file.to_vec() };
        let reexport = self.0[file].0.iter().find(|(_, name)| name == item);
        match reexport {
            Some((from, _)) if from != path => self.file(from),
            _ => file.to_vec(),
        }
    }

    fn arrows(&self, from: &Names) -> BTreeSet<Names> {
        let to = self.0[from].0.iter().map(|(path, _)| self.file(path));
        to.filter(|to| to != from).collect()
    }

    /// The files that `start` imports, by whatever way.
    fn reach(&self, start: &Names) -> BTreeSet<Names> {
        let mut found = BTreeSet::new();
        let mut open = vec![start.clone()];
        while let Some(next) = open.pop() {
            open.extend(self.arrows(&next).into_iter().filter(|to| found.insert(to.clone())));
        }
        found
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries =
        fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let files = files.into_iter().filter(|file| file.extension().is_some_and(|end| end == "rs"));
    files.chain(folders.iter().flat_map(|folder| rust_files(folder))).collect()
}

fn module(src: &Path, file: &Path) -> Names {
    let path = file.strip_prefix(src).expect("a file of it").with_extension("");
    let names: Names = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if names == ["lib"] || names == ["main"] { Vec::new() } else { names }
}

/// The `src` of each crate of the house.
fn sources() -> Vec<PathBuf> {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates");
    let crates =
        fs::read_dir(crates).expect("a folder").map(|entry| entry.expect("an entry").path());
    let sources: Vec<_> = crates.map(|of| of.join("src")).filter(|src| src.is_dir()).collect();
    assert!(sources.len() >= 10, "{sources:?}");
    sources
}

#[test]
fn files_import_one_way() {
    let mut arrows = 0;
    for src in sources() {
        let rooms = Rooms::of(&src);
        for file in rooms.0.keys() {
            arrows += rooms.arrows(file).len();
            let back = |to: &&Names| rooms.reach(to).contains(file);
            let arrow = rooms.arrows(file);
            assert_eq!(arrow.iter().find(back), None, "{src:?}: {file:?} is imported by it");
        }
    }
    assert!(arrows > 200, "only {arrows} imports were seen");
}

#[test]
fn files_are_short() {
    for src in sources() {
        for file in rust_files(&src) {
            let lines = fs::read_to_string(&file).expect("a readable file").lines().count();
            let is_test = module(&src, &file).contains(&"tests".to_owned());
            assert!(is_test || lines <= LONGEST, "{file:?} has {lines} lines");
        }
    }
}
