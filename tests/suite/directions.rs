//! Imports run one way: what each crate may name, as `cargo tree` sees it.

use std::collections::BTreeSet;
use std::process::Command;

/// The whole vocabulary of a layer crate, beside farrier's own crates below it.
const LAYER: [&str; 9] = [
    "axum-core",
    "bytes",
    "http",
    "http-body",
    "pin-project",
    "tokio",
    "tower-layer",
    "tower-service",
    "tracing",
];

/// The direct dependencies of `package`, with every feature on.
fn dependencies(package: &str) -> BTreeSet<String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["tree", "--locked", "--offline", "--edges=normal", "--depth=1", "--prefix=none"])
        .args(["--all-features", "--format={p}", "--package", package])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{output:?}");
    let tree = String::from_utf8(output.stdout).expect("package names");
    let names = tree.lines().skip(1).filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

#[track_caller]
fn names_only(package: &str, allowed: &[&str]) {
    let strangers: Vec<String> = dependencies(package)
        .into_iter()
        .filter(|name| !allowed.contains(&name.as_str()))
        .collect();
    assert!(strangers.is_empty(), "{package} must not name {strangers:?}");
}

/// Farrier's own crates that `package` names.
fn house(package: &str) -> Vec<String> {
    let own = |name: &String| name.starts_with("farrier");
    dependencies(package).into_iter().filter(own).collect()
}

#[test]
fn layers_name_no_framework_and_no_driver() {
    names_only("farrier-exchange", &LAYER);
    for layer in ["farrier-hooks", "farrier-heartbeat", "farrier-connection"] {
        let mut allowed = LAYER.to_vec();
        allowed.push("farrier-exchange");
        names_only(layer, &allowed);
    }
}

#[test]
fn farriers_crates_import_one_way() {
    assert_eq!(house("farrier-exchange"), [""; 0]);
    for layer in ["farrier-hooks", "farrier-heartbeat", "farrier-connection"] {
        assert_eq!(house(layer), ["farrier-exchange"], "{layer}");
    }
    assert_eq!(house("farrier-serve"), [""; 0]);
    assert_eq!(house("farrier-shared"), [""; 0]);
    for backend in ["farrier-mysql", "farrier-sqlx"] {
        assert_eq!(house(backend), ["farrier-connection"], "{backend}");
    }
    let below = ["farrier-exchange", "farrier-heartbeat", "farrier-serve", "farrier-shared"];
    assert_eq!(house("farrier-prefork"), below);
    assert_eq!(house("farrierctl"), [""; 0]);
    for user in ["quickstart", "guestbook", "farrier-tests", "farrier-bench"] {
        let house = house(user).into_iter().filter(|name| name != "farrier-test-servers");
        assert_eq!(house.collect::<Vec<_>>(), ["farrier"], "{user}");
    }
}

#[test]
fn drivers_and_system_calls_have_their_doors() {
    let packages = [
        "farrier-exchange",
        "farrier-hooks",
        "farrier-heartbeat",
        "farrier-connection",
        "farrier-mysql",
        "farrier-sqlx",
        "farrier-serve",
        "farrier-shared",
        "farrier-prefork",
        "farrier",
        "farrierctl",
    ];
    let doors: [(&str, &[&str]); 3] = [
        ("mysql_async", &["farrier-mysql"]),
        ("sqlx", &["farrier-sqlx"]),
        ("nix", &["farrier-prefork", "farrier-shared"]),
    ];
    for (driver, doors) in doors {
        for package in packages {
            let named = dependencies(package).contains(driver);
            assert_eq!(named, doors.contains(&package), "{package} and {driver}");
        }
    }
}
