//! The shape of the code, held by tests: which module may use which, and what the pure rooms may depend on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every Rust file below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("testdata") {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The top module that a file of a crate belongs to: `plan` for `plan.rs` and for `plan/tests.rs`.
fn module_of(source: &Path, src: &Path) -> String {
    let relative = source.strip_prefix(src).unwrap();
    let first = relative.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules of its own crate that a source file uses, by `crate::name`.
fn used_modules(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut used = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        // `$crate::` and `other_crate::` are something else.
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names: Vec<String> = match rest.strip_prefix('{') {
            None => vec![word(rest)],
            Some(group) => {
                let group = &group[..group.find("};").unwrap_or(group.len())];
                let mut depth = 0;
                let mut top = String::new();
                for c in group.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' => depth -= 1,
                        c if depth == 0 => top.push(c),
                        _ => {}
                    }
                }
                top.split(',').map(|name| word(name.trim())).collect()
            }
        };
        used.extend(names.into_iter().filter(|name| !name.is_empty()));
    }
    used
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The modules of a crate in the order in which `lib.rs` declares them.
fn declared(lib: &str) -> Vec<String> {
    let declaration = |line: &str| {
        let name = line.trim().strip_prefix("pub mod ").or(line.trim().strip_prefix("mod "))?;
        name.strip_suffix(';').map(str::to_owned)
    };
    lib.lines().filter_map(declaration).collect()
}

/// For each module of a crate: the other modules that it uses.
fn uses(src: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let mut uses: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources(src) {
        let module = module_of(&source, src);
        let used = used_modules(&std::fs::read_to_string(&source).unwrap());
        uses.entry(module.clone()).or_default().extend(used.into_iter().filter(|name| *name != module));
    }
    uses
}

#[test]
fn a_room_uses_only_rooms_above_it() {
    let src = root().join("agent/core/src");
    let order = declared(&std::fs::read_to_string(src.join("lib.rs")).unwrap());
    let uses = uses(&src);
    let mut wrong = Vec::new();
    for (place, module) in order.iter().enumerate() {
        for used in uses.get(module).into_iter().flatten() {
            match order.iter().position(|name| name == used) {
                Some(other) if other < place => {}
                _ => wrong.push(format!("{module} uses {used}, which is not above it")),
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(uses["plan"].contains("inventory"), "the test itself sees who uses whom");
}

#[test]
fn doors_and_flows_do_not_use_each_other() {
    const DOORS: [&str; 6] = ["alerts", "cluster", "disk", "registry", "repo", "web"];
    const FLOWS: [&str; 7] = ["agent", "bump", "cut", "ledger", "releases", "rollback", "sync"];
    let uses = uses(&root().join("agent/src"));
    let mut wrong = Vec::new();
    for door in DOORS {
        for used in uses.get(door).into_iter().flatten() {
            if DOORS.contains(&used.as_str()) || FLOWS.contains(&used.as_str()) {
                wrong.push(format!("the door {door} uses {used}"));
            }
        }
    }
    // The agent drives the others; nothing else joins them.
    for flow in FLOWS.into_iter().filter(|flow| *flow != "agent") {
        for used in uses.get(flow).into_iter().flatten() {
            if FLOWS.contains(&used.as_str()) || used == "web" {
                wrong.push(format!("the flow {flow} uses {used}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(uses["sync"].contains("cluster"), "the test itself sees who uses whom");
}

#[test]
fn the_pure_rooms_depend_on_nothing_that_touches_the_world() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--locked",
            "--offline",
            "-p",
            "towpath-core",
            "-e",
            "normal,build",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let crates: BTreeSet<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert!(crates.contains("handlebars"), "{crates:?}");
    for forbidden in
        ["kube", "kube-client", "kube-runtime", "git2", "libgit2-sys", "tokio", "axum", "hyper", "reqwest", "notify"]
    {
        assert!(!crates.contains(forbidden), "towpath-core depends on {forbidden}");
    }
}

#[test]
fn the_tree_has_one_tls_stack() {
    let lock = std::fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for forbidden in ["openssl-sys", "native-tls", "aws-lc-sys", "libssh2-sys"] {
        assert!(!lock.contains(&format!("name = \"{forbidden}\"")), "{forbidden} is in Cargo.lock");
    }
}

#[test]
fn every_source_file_says_what_it_is_for() {
    let silent: Vec<PathBuf> = ["agent", "tests"]
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
        .filter(|path| !std::fs::read_to_string(path).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "{silent:#?}");
}
