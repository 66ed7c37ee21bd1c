//! Which module may use which: every use between modules is one of the arrows in ARCHITECTURE.md, and no files use each
//! other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ARCHITECTURE: &str = include_str!("../../ARCHITECTURE.md");

/// The arrows between the folders (and files) at the top of each crate. ARCHITECTURE.md shows the same lines.
const ARROWS: &str = "
core: activation -> choice entry kernel
core: balance -> choice kernel
core: choice -> setting
core: compute -> kernel par
core: config -> activation balance choice decoder error freeze gate loss row_norm setting source
core: cuda -> device error
core: decoder -> choice
core: device -> compute entry error gate kernel rng rows source
core: format -> activation compute config decoder error gate heads kernel model par row_norm row_rule rows source
core: freeze -> choice
core: gate -> choice entry kernel
core: heads -> error kernel model
core: kernel -> compute
core: loss -> choice entry gate kernel
core: metrics -> compute error gate kernel model par rng
core: model -> activation compute config cuda decoder device entry error gate kernel par row_norm rows source
core: normalise -> config error kernel model row_norm row_rule
core: order -> rng
core: row_norm -> choice error
core: row_rule -> kernel
core: rows -> error
core: setting -> error
core: source -> choice entry kernel
core: synth -> gate rng
core: train -> activation balance compute config cuda device entry error freeze gate kernel loss model normalise par rng rows source
cli: ablate -> ablation args checkpoint console control dump eval files ranks report run settings train
cli: args -> addend device settings
cli: capture -> console corpus dump files lm
cli: checkpoint -> files
cli: commands -> ablate args capture console convert corpus demo device dump encode eval export files inspect lm probe ranks report run settings shell sources synth train
cli: console -> escape files
cli: contexts -> escape eval
cli: control -> files run settings
cli: convert -> args console files run
cli: corpus -> files
cli: demo -> args capture console contexts control corpus dump eval files lm report run settings train
cli: device -> console
cli: dump -> console escape files nearest texts
cli: encode -> console dump files ranks run
cli: eval -> console control dump escape feed files health lm probe ranks row_filter run settings splice texts truth
cli: export -> addend args console dump encode eval files lm row_filter run
cli: feed -> dump row_filter
cli: health -> dump heldout
cli: heldout -> dump ranks row_filter run
cli: inspect -> dump escape health report
cli: lm -> console dump files memory panics texts
cli: memory -> files
cli: probe -> console dump escape eval files row_filter run
cli: ranks -> checkpoint console escape files
cli: report -> ablation eval files lm run settings
cli: row_filter -> dump
cli: run -> checkpoint dump files pickle
cli: settings -> files
cli: shell -> args files
cli: sources -> args console dump files run
cli: splice -> dump lm
cli: synth -> args console dump files truth
cli: texts -> files
cli: train -> checkpoint console control dump feed files health heldout memory ranks row_filter run settings sources usage
cli: truth -> dump files
ffi: bare -> failure params status
ffi: boundary -> bare caught failure message params status
ffi: calls_dump -> boundary dump failure params pointers rows status
ffi: calls_watch -> boundary codes dump failure handle params pointers probe rows status watch
ffi: caught -> failure status
ffi: codes -> failure params status
ffi: device -> failure
ffi: dump -> boundary failure params rows status
ffi: failure -> status
ffi: files -> failure status
ffi: handle -> bare boundary codes device failure memory message model_files params pool rows status
ffi: memory -> failure status
ffi: message -> failure params
ffi: model_files -> failure files memory status
ffi: params -> failure status
ffi: pointers -> boundary failure handle params status
ffi: pool -> failure status
ffi: probe -> boundary failure files handle memory params status
ffi: rows -> failure params status
ffi: watch -> failure handle memory params
ffi/python: codes -> failure
ffi/python: command -> failure pool
ffi/python: dump -> arrays failure
ffi/python: model -> arrays codes failure pool
ffi/python: pool -> failure
ffi/python: probe -> arrays failure model pool
ffi/python: watch -> codes failure model
";

/// What each file of a crate uses of it: module path to module paths. The crate's root is the empty path.
type Uses = BTreeMap<String, BTreeSet<String>>;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Returns the module path and the text of every source file below `folder`.
fn sources(folder: &Path) -> BTreeMap<String, String> {
    fn walk(folder: &Path, prefix: &[String], into: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).expect("a folder of sources") {
            let path = entry.expect("an entry").path();
            let stem = path.file_stem().expect("a name").to_string_lossy().into_owned();
            if path.is_dir() {
                walk(&path, &[prefix, &[stem]].concat(), into);
            } else if path.extension().is_some_and(|e| e == "rs") && !(prefix.is_empty() && stem == "main") {
                let is_parent = stem == "mod" || (prefix.is_empty() && stem == "lib");
                let module = if is_parent { prefix.join("::") } else { [prefix, &[stem]].concat().join("::") };
                into.insert(module, fs::read_to_string(&path).expect("a source file"));
            }
        }
    }
    let mut into = BTreeMap::new();
    walk(folder, &[], &mut into);
    into
}

/// Returns the code without comments, the contents of strings, and the unit tests at the end of a file.
fn code_of(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    let mut code = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '/' if chars.peek() == Some(&'/') => {
                chars.by_ref().find(|c| *c == '\n');
                code.push('\n');
            }
            // The character literal of a quote does not begin a string.
            '\'' if chars.peek() == Some(&'"') => {}
            '"' => {
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '"' => break,
                        _ => {}
                    }
                }
                code.push_str("\"\"");
            }
            c => code.push(c),
        }
    }
    code
}

/// Appends every path of a `use` tree, as in `a::{b, c::{d, e}}`.
fn expand(tree: &str, prefix: &str, into: &mut Vec<String>) {
    let tree = tree.trim();
    match tree.find('{') {
        None => into.push(format!("{prefix}{}", tree.split(" as ").next().unwrap_or(tree).trim())),
        Some(open) => {
            let prefix = format!("{prefix}{}", tree[..open].trim());
            let inner = &tree[open + 1..tree.rfind('}').unwrap_or(tree.len())];
            let (mut depth, mut from) = (0, 0);
            for (at, c) in inner.char_indices().chain([(inner.len(), ',')]) {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {
                        if !inner[from..at].trim().is_empty() {
                            expand(&inner[from..at], &prefix, into);
                        }
                        from = at + 1;
                    }
                    _ => {}
                }
            }
        }
    }
}

/// Returns the module that defines what `path` names, as seen from `module`; `None` if that is another crate.
fn resolve(path: &str, module: &str, modules: &BTreeMap<String, String>) -> Option<String> {
    let mut parts: Vec<&str> = path.split("::").map(str::trim).filter(|p| !p.is_empty() && *p != "*").collect();
    let mut at: Vec<&str> = module.split("::").filter(|p| !p.is_empty()).collect();
    match *parts.first()? {
        "crate" => {
            at.clear();
            parts.remove(0);
        }
        "self" => drop(parts.remove(0)),
        "super" => {
            while parts.first() == Some(&"super") {
                at.pop();
                parts.remove(0);
            }
        }
        child => {
            if !modules.contains_key(&[&at[..], &[child]].concat().join("::")) {
                return None;
            }
        }
    }
    let mut best = at.join("::");
    for part in parts {
        at.push(part);
        let longer = at.join("::");
        if modules.contains_key(&longer) {
            best = longer;
        }
    }
    Some(best)
}

/// Returns the modules that each file of `modules` uses. A parent's `mod` and `pub use` of its children are
/// declarations and do not count.
fn uses(modules: &BTreeMap<String, String>) -> Uses {
    let mut uses = Uses::new();
    for (module, text) in modules {
        let code = code_of(text);
        let mut paths = Vec::new();
        let mut rest = String::new();
        for statement in code.split_inclusive(';') {
            let at = statement.rfind("use ").filter(|at| {
                let before = statement[..*at].trim_end();
                before.is_empty() || before.ends_with([';', '}', '{', ')', ']']) || before.ends_with("pub")
            });
            match at {
                Some(at) if statement.ends_with(';') => {
                    let before = statement[..at].trim_end();
                    let is_public = before.ends_with("pub") || before.ends_with("pub(crate)");
                    let mut named = Vec::new();
                    expand(statement[at + 4..].trim_end_matches(';'), "", &mut named);
                    let is_declared = |path: &String| {
                        let found = resolve(path, module, modules);
                        is_public && found.is_some_and(|f| module.is_empty() || f.starts_with(&format!("{module}::")))
                    };
                    paths.extend(named.into_iter().filter(|path| !is_declared(path)));
                    rest.push_str(&statement[..at]);
                }
                _ => rest.push_str(statement),
            }
        }
        // Full paths in the code: words joined by `::` that begin at the crate, a parent or a child.
        let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
        let words = rest.split(|c: char| !is_path(c)).filter(|w| w.contains("::"));
        paths.extend(words.map(|w| w.trim_matches(':').to_owned()));
        let found = paths.iter().filter_map(|path| resolve(path, module, modules));
        uses.insert(module.clone(), found.filter(|f| f != module && !f.is_empty()).collect());
    }
    uses
}

/// Returns the circles: sets of files in which each file uses every other one, directly or through others of the set.
fn circles(uses: &Uses) -> Vec<BTreeSet<String>> {
    let reached = |from: &String| {
        let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
        while let Some(file) = left.pop() {
            for next in uses.get(file).into_iter().flatten() {
                if seen.insert(next.clone()) {
                    left.push(next);
                }
            }
        }
        seen
    };
    let reach: BTreeMap<&String, BTreeSet<String>> = uses.keys().map(|file| (file, reached(file))).collect();
    let circle = |file: &String| -> BTreeSet<String> {
        reach[file].iter().filter(|other| reach.get(other).is_some_and(|r| r.contains(file))).cloned().collect()
    };
    uses.keys().map(circle).filter(|c| !c.is_empty()).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Returns the arrows between the modules at the top of a crate.
fn arrows(uses: &Uses) -> Uses {
    let top = |module: &str| module.split("::").next().unwrap_or_default().to_owned();
    let mut arrows = Uses::new();
    for (module, used) in uses.iter().filter(|(module, _)| !module.is_empty()) {
        let from = top(module);
        let to = used.iter().map(|m| top(m)).filter(|to| *to != from);
        arrows.entry(from.clone()).or_default().extend(to.collect::<Vec<_>>());
    }
    arrows.retain(|_, to| !to.is_empty());
    arrows
}

fn of_crate(name: &str) -> Uses {
    uses(&sources(&root().join(name).join("src")))
}

/// The lines of [`ARROWS`], as `crate: from -> to to`.
fn allowed() -> BTreeMap<(String, String), BTreeSet<String>> {
    let of_line = |line: &str| {
        let (from, to) = line.split_once(" -> ").unwrap_or_else(|| panic!("an arrow: {line}"));
        let (package, from) = from.split_once(": ").unwrap_or_else(|| panic!("a crate: {line}"));
        ((package.trim().to_owned(), from.trim().to_owned()), to.split_whitespace().map(str::to_owned).collect())
    };
    ARROWS.trim().lines().map(of_line).collect()
}

#[test]
fn every_arrow_between_modules_is_allowed() {
    let allowed = allowed();
    let mut problems = Vec::new();
    for package in ["core", "cli", "ffi", "ffi/python"] {
        for (from, to) in arrows(&of_crate(package)) {
            let known = allowed.get(&(package.to_owned(), from.clone()));
            for to in to.iter().filter(|to| !known.is_some_and(|known| known.contains(*to))) {
                problems.push(format!("{package}: {from} -> {to}"));
            }
        }
    }
    let list = problems.join("\n");
    assert!(
        problems.is_empty(),
        "arrows that are not in ARROWS: mend the use, or add the arrow here and in ARCHITECTURE.md\n{list}"
    );
}

#[test]
fn the_architecture_page_shows_the_allowed_arrows() {
    let (_, after) = ARCHITECTURE.split_once("```arrows\n").expect("a block of arrows in ARCHITECTURE.md");
    let (shown, _) = after.split_once("```").expect("the end of the block");
    assert_eq!(shown.trim(), ARROWS.trim(), "ARCHITECTURE.md shows other arrows than tests/suite/arrows.rs allows");
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let mut problems = Vec::new();
    for package in ["core", "cli", "ffi", "ffi/python"] {
        for circle in circles(&of_crate(package)) {
            problems.push(format!("{package}: {}", circle.into_iter().collect::<Vec<_>>().join(", ")));
        }
    }
    assert!(problems.is_empty(), "files that use each other in a circle:\n{}", problems.join("\n"));
}

#[test]
fn uses_are_found_in_trees_full_paths_and_macros_and_circles_in_them() {
    let files = [
        ("", "mod a;\nmod b;\npub use a::A;\n"),
        ("a", "mod inner;\npub use inner::X;\nuse crate::{b::{self, B}, c as d};\n// use crate::e::E;\n"),
        ("a::inner", "fn f() { super::super::b::g(\"crate::e::E\") }\n"),
        ("b", "use std::fmt;\nfn g() { crate::c::h() }\n"),
        ("c", "pub fn h() -> super::e::E { $crate::e::E }\n"),
        ("e", "#[cfg(test)]\nmod tests { use crate::a::A; }\n"),
    ];
    let modules = files.map(|(module, text)| (module.to_owned(), text.to_owned())).into();
    let found = uses(&modules);
    let of = |module: &str| found[module].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(of("a"), ["b", "c"]);
    assert_eq!(of("a::inner"), ["b"]);
    assert_eq!(of("b"), ["c"]);
    assert_eq!(of("c"), ["e"]);
    assert_eq!((of(""), of("e")), (vec![], vec![]));
    assert_eq!(circles(&found), Vec::<BTreeSet<String>>::new());
    let more: BTreeMap<String, String> = modules
        .into_iter()
        .map(|(m, text)| if m == "e" { (m, "use crate::b::B;\n".into()) } else { (m, text) })
        .collect();
    assert_eq!(circles(&uses(&more)), [["b", "c", "e"].map(str::to_owned).into()]);
    assert_eq!(arrows(&found)["a"], ["b", "c"].map(str::to_owned).into());
}

/// Returns the names in all tables of dependencies of a Cargo.toml, with `_` in place of `-`.
fn dependencies(toml: &str) -> Vec<String> {
    let mut section = "";
    let mut names = Vec::new();
    for line in toml.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        } else if section.ends_with("dependencies]") && !section.starts_with("[workspace") {
            let end = line.find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_')).unwrap_or(0);
            if end > 0 {
                names.push(line[..end].replace('-', "_"));
            }
        }
    }
    names
}

/// The dependencies that cli names for their features alone, so that builds of it and of the workspace share all others:
/// .ci/features checks that.
const FOR_THEIR_FEATURES: [&str; 6] = ["getrandom", "matrixmultiply", "num_complex", "num_integer", "rand", "syn"];

#[test]
fn every_declared_dependency_is_used() {
    let mut unused = Vec::new();
    for package in ["core", "cli", "ffi", "ffi/python", "tests", "benches", "cli/live", "tests/fuzz", "tests/no_std"] {
        let folder = root().join(package);
        let toml = fs::read_to_string(folder.join("Cargo.toml")).expect("a Cargo.toml");
        let code: Vec<String> = ["src", "suite", "benches", "targets"]
            .into_iter()
            .map(|sub| folder.join(sub))
            // Tests of what a page computes are made of its sources.
            .chain((package == "tests").then(|| root().join("cli/live/src")))
            .filter(|sub| sub.is_dir())
            .flat_map(|sub| sources(&sub).into_values().map(|text| text.replace("#[cfg(test)]", "")))
            .map(|text| code_of(&text))
            .collect();
        assert!(!code.is_empty() && !dependencies(&toml).is_empty(), "{package} has neither sources nor dependencies");
        for name in dependencies(&toml) {
            // The library of strata-sae-ffi has the name that C links.
            let name = if name == "strata_ffi" { "strata".to_owned() } else { name };
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let is_used = code.iter().any(|code| code.split(|c| !is_word(c)).any(|word| word == name));
            let is_for_features = package == "cli" && FOR_THEIR_FEATURES.contains(&name.as_str());
            if !is_used && !is_for_features {
                unused.push(format!("{package}: {name}"));
            }
        }
    }
    assert!(unused.is_empty(), "dependencies that are declared and not used: {unused:?}");
}

#[test]
fn dependencies_are_read_from_every_table_of_a_cargo_toml() {
    let toml = "[package]\nname = \"x\"\n[dependencies]\n# a comment\na-b.workspace = true\nc = { version = \"1\" }\n\n\
                [target.'cfg(unix)'.dev-dependencies]\nd = \"1\"\n[features]\ne = []\n[workspace.dependencies]\nf = \"1\"\n";
    assert_eq!(dependencies(toml), ["a_b", "c", "d"]);
}
