//! The shape of the house: arrows point down only, `rules/` stays pure, files stay readable. The sources are read
//! as text, so that a wrong arrow fails here with its file and line instead of being argued about later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// From the bottom to the top. Modules of one row know nothing of each other.
const ROWS: [&[&str]; 13] = [
    &["os"],
    &["rules"],
    &["config"],
    &["store"],
    &["process"],
    &["probe", "shim"],
    &["command"],
    &["release", "instance", "worker", "front"],
    &["engine"],
    &["api"],
    &["daemon"],
    &["cli"],
    &["main", "lib", "promises"],
];
/// They stand above `store` and must not know it all the same.
const WITHOUT_RECORD: [&str; 5] = ["process", "command", "probe", "shim", "front"];
/// What a decision must not touch: time and the world come in as events.
const IMPURE: [&str; 11] = [
    "tokio",
    "std::fs",
    "std::net",
    "std::env",
    "std::process",
    "std::thread",
    "SystemTime",
    "Instant",
    "rand",
    "nix",
    "libc",
];
/// Folders whose files must not need each other in a circle. `mod.rs` and its children may.
const WITHOUT_CIRCLES: [&str; 3] = ["api", "cli", "store"];
/// Lines without the tests; beyond this a file is split.
const LONGEST: usize = 600;

/// The fronts that are other people's programs: the folder that knows one by name, and the other files that may.
const FOREIGN_FRONTS: [(&str, &str, &[&str]); 2] = [
    (
        "haproxy",
        "front/haproxy",
        &[
            // Declares the file of its table.
            "config/tables/mod.rs",
            // Lists the kinds, each with its keys.
            "config/tables/front.rs",
            "config/tables/front_haproxy.rs",
            // Makes a front of its settings.
            "front/mod.rs",
        ],
    ),
    (
        "nginx",
        "front/nginx",
        &[
            // Its type is the example for `front = "nginx"`, which is not a table.
            "config/read.rs",
            "config/tables/mod.rs",
            "config/tables/front.rs",
            // Names the kind that has certificates to who wants port 443.
            "config/tables/front_builtin.rs",
            "config/tables/front_nginx.rs",
            "front/mod.rs",
        ],
    ),
];

struct Source {
    /// Relative to `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The first part of its path: `front` of `front/nginx/mod.rs`, `daemon` of `daemon.rs`.
    fn module(&self) -> &str {
        let first = self.path.components().next().unwrap().as_os_str().to_str().unwrap();
        first.strip_suffix(".rs").unwrap_or(first)
    }

    /// The text with comments blanked and lines kept.
    fn code(&self) -> String {
        let lines = self.text.lines().map(|line| match line.find("//") {
            // A URL in a string is no comment.
            Some(at) if !line[..at].ends_with(':') => &line[..at],
            _ => line,
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Source {
    /// Whether product code, which comments and tests are not, has the word in it, in whatever case.
    fn names(&self, word: &str) -> bool {
        let in_tests = self.path.iter().any(|part| part == "tests" || part == "tests.rs");
        let code = self.code().to_ascii_lowercase();
        let product = code.split("\n#[cfg(test)]").next().unwrap_or_default();
        !in_tests && product.contains(word)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut waiting = vec![root.clone()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push(Source { path: path.strip_prefix(&root).unwrap().to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(found.len() > 50, "only {} sources below {}", found.len(), root.display());
    found
}

fn row(module: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.contains(&module))
}

fn word_ends(text: &str) -> usize {
    text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len())
}

/// The top-level modules named by `crate::…` in `code`, each with its line: `crate::a::b`, and every branch of
/// `crate::{a::b, c::{d, e}}`.
fn arrows(code: &str) -> Vec<(usize, String)> {
    named_below("crate::", code)
}

/// The modules right below `root` that `code` names.
fn named_below(root: &str, code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, matched) in code.match_indices(root) {
        let line = 1 + code[..at].matches('\n').count();
        let rest = &code[at + matched.len()..];
        match rest.strip_prefix('{') {
            Some(group) => {
                found.extend(branches(group).into_iter().map(|(down, name)| (line + down, name)));
            }
            None => found.push((line, rest[..word_ends(rest)].to_owned())),
        }
    }
    found
}

/// The first word of each branch of a group whose opening brace is behind us; with the lines below the brace.
fn branches(group: &str) -> Vec<(usize, String)> {
    let (mut depth, mut begins, mut found) = (0, true, Vec::new());
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => begins = true,
            c if begins && (c.is_alphabetic() || c == '_') => {
                let name = group[at..at + word_ends(&group[at..])].to_owned();
                found.push((group[..at].matches('\n').count(), name));
                begins = false;
            }
            _ => {}
        }
    }
    found
}

/// Why `from` must not name `to`.
fn objection(from: &str, to: &str) -> Option<String> {
    if from == to {
        return None;
    }
    let (Some(above), Some(below)) = (row(from), row(to)) else {
        return Some(format!("{from} → {to}: no row is known; add it to ROWS and to the picture in lib.rs"));
    };
    if WITHOUT_RECORD.contains(&from) && to == "store" {
        return Some(format!("{from} → {to}: what acts on the host knows no record"));
    }
    (below >= above).then(|| format!("{from} → {to}: upwards"))
}

fn assert_none(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn arrows_between_modules_point_down_only() {
    let mut broken = Vec::new();
    for source in sources() {
        for (line, to) in arrows(&source.code()) {
            if let Some(why) = objection(source.module(), &to) {
                broken.push(format!("src/{}:{line}: {why}", source.path.display()));
            }
        }
    }
    assert_none("arrows point down only", &broken);
}

/// Which of its neighbours each file of a folder names, tests left out; a folder in it counts as its `mod.rs`.
fn neighbours(folder: &str, sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for source in sources.iter().filter(|source| source.path.starts_with(folder)) {
        let below = source.path.strip_prefix(folder).unwrap().with_extension("");
        let name = below.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        let code = source.code();
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        let from_root = format!("crate::{}::", folder.replace('/', "::"));
        let mut named = named_below(&from_root, code);
        if below.components().count() == 1 && name != "mod" {
            named.extend(named_below("super::", code));
        }
        let others: Vec<String> =
            named.into_iter().map(|(_, named)| named).filter(|named| *named != name).collect();
        found.entry(name).or_insert_with(BTreeSet::new).extend(others);
    }
    found.remove("mod");
    found
}

/// What is left when files that need none of the others are taken away, again and again.
fn circle(mut needs: BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    loop {
        let known: BTreeSet<String> = needs.keys().cloned().collect();
        let before = known.len();
        needs.retain(|_, needed| !needed.is_disjoint(&known));
        if needs.len() == before {
            return needs.into_keys().collect();
        }
    }
}

#[test]
fn files_of_a_folder_do_not_need_each_other_in_a_circle() {
    let sources = sources();
    for folder in WITHOUT_CIRCLES {
        let needs = neighbours(folder, &sources);
        assert!(needs.values().any(|needed| !needed.is_empty()), "{folder}: {needs:?}");
        assert_none(&format!("src/{folder}: a circle among"), &circle(needs));
    }
    let needs = |pairs: &[(&str, &str)]| {
        let pair = |(from, to): &(&str, &str)| ((*from).to_owned(), BTreeSet::from([(*to).to_owned()]));
        circle(pairs.iter().map(pair).collect())
    };
    assert_eq!(needs(&[("a", "b"), ("b", "c"), ("c", "d")]), [""; 0]);
    assert_eq!(needs(&[("a", "b"), ("b", "c"), ("c", "b"), ("d", "e")]), ["a", "b", "c"]);
}

#[test]
fn every_module_of_the_crate_has_its_row() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let modules: BTreeSet<&str> =
        lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let unknown: Vec<String> =
        modules.iter().filter(|module| row(module).is_none()).map(|module| (*module).to_owned()).collect();
    assert_none("a module without a row; add it to ROWS and to the picture in lib.rs", &unknown);
    assert!(modules.contains("rules") && modules.contains("cli"), "{modules:?}");
}

/// The law of the order in which things happen is as pure as what it orders: the simulator drives it too.
const LEDGER: &str = "engine/ledger.rs";

#[test]
fn the_rules_and_the_ledger_are_pure() {
    let mut broken = Vec::new();
    let is_pure = |source: &&Source| source.module() == "rules" || source.path == Path::new(LEDGER);
    for source in sources().iter().filter(is_pure) {
        for (number, line) in source.code().lines().enumerate() {
            let words = IMPURE.iter().filter(|word| mentions(line, word));
            broken.extend(words.map(|word| format!("src/{}:{}: {word}", source.path.display(), number + 1)));
            if mentions(line, "os") && !line.contains("os::hash") {
                broken.push(format!("src/{}:{}: os", source.path.display(), number + 1));
            }
        }
        let others = arrows(&source.code()).into_iter().filter(|(_, to)| to != "rules" && to != "os");
        broken.extend(others.map(|(line, to)| format!("src/{}:{line}: {to}", source.path.display())));
    }
    assert!(sources().iter().any(|source| source.path == Path::new(LEDGER)), "{LEDGER} is gone");
    assert_none(
        "rules/ and the ledger know no runtime, file, network, clock, chance or upper floor, and of os/ only hash",
        &broken,
    );
}

/// Whether `line` has `word` as a whole word.
fn mentions(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back().is_some_and(part);
        let after = line[at + word.len()..].chars().next().is_some_and(part);
        !before && !after
    })
}

#[test]
fn a_front_is_known_by_name_in_its_folder_alone() {
    let sources = sources();
    for (name, folder, others) in FOREIGN_FRONTS {
        let named = |source: &&Source| !source.path.starts_with(folder) && source.names(name);
        let found: Vec<String> =
            sources.iter().filter(named).map(|source| source.path.display().to_string()).collect();
        assert_eq!(
            BTreeSet::from_iter(found.iter().map(String::as_str)),
            BTreeSet::from_iter(others.iter().copied()),
            "{name}"
        );
    }
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    let broken: Vec<String> = sources()
        .iter()
        .filter(|source| !source.text.starts_with("//!"))
        .map(|source| format!("src/{}", source.path.display()))
        .collect();
    assert_none("the first line is `//!` and its job", &broken);
}

#[test]
fn no_file_is_too_long_to_read() {
    let broken: Vec<String> = sources()
        .iter()
        .filter(|source| !source.path.components().any(|part| part.as_os_str() == "tests"))
        .map(|source| {
            (source.text.lines().take_while(|line| !line.starts_with("#[cfg(test)]")).count(), source)
        })
        .filter(|(lines, _)| *lines > LONGEST)
        .map(|(lines, source)| format!("src/{}: {lines} lines", source.path.display()))
        .collect();
    assert_none("more than 600 lines without the tests", &broken);
}

/// Every promise: a letter a theme, and the one rule above them all.
const PROMISES: [(&str, &[u32]); 15] = [
    ("R", &[0]),
    ("A", &[1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13]),
    ("B", &[1, 2, 3, 4, 6, 7, 8, 10, 11]),
    ("C", &[1, 2, 3, 4, 5]),
    ("D", &[1, 2, 3, 4, 5, 6, 7]),
    ("E", &[1, 2, 3, 4, 5, 6, 8]),
    ("F", &[1, 2, 3, 4, 5, 6, 7, 8, 10, 11]),
    ("G", &[1, 2, 3, 4, 5, 6]),
    ("H", &[1, 2, 3, 4, 5]),
    ("I", &[1, 2, 3, 4, 5, 6, 8]),
    ("J", &[1, 2, 3]),
    ("K", &[1, 2, 3, 4, 5, 6, 7]),
    ("L", &[1, 2, 3, 4]),
    ("M", &[1, 2, 3]),
    ("N", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]),
];

/// A row of the table in `src/promises.rs`.
struct Row {
    id: String,
    /// `file::test`.
    tests: Vec<String>,
}

/// The rows of a markdown table in a module's documentation, without its head.
fn rows(text: &str) -> Vec<Row> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("//! |")).skip(2);
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let tests = cells.get(2).map_or("", |cell| *cell).split('`').skip(1).step_by(2);
        Row { id: cells[0].to_owned(), tests: tests.map(str::to_owned).collect() }
    };
    lines.map(row).collect()
}

/// Why a test that a row names does not count.
fn missing(test: &str) -> Option<String> {
    let Some((file, name)) = test.split_once("::") else { return Some("is not file::test".to_owned()) };
    let Ok(text) = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)) else {
        return Some("there is no such file".to_owned());
    };
    (!has_test(&text, name)).then(|| "there is no such test".to_owned())
}

/// `a1_a_remote_…` is of A1, `g2_g3_…` of both.
fn is_named_after(test: &str, id: &str) -> bool {
    let name = test.rsplit("::").next().unwrap_or_default();
    name.split('_').any(|word| word == id.to_ascii_lowercase())
}

/// Whether `text` has a function of that name right below the attribute of a test.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().map(str::trim_start).collect();
    let begins = [format!("fn {name}("), format!("async fn {name}(")];
    let at = lines.iter().position(|line| begins.iter().any(|begin| line.starts_with(begin)));
    let attributes = |at| lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
    at.is_some_and(|at| {
        attributes(at).any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn every_promise_has_a_test() {
    let table = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/promises.rs")).unwrap();
    let rows = rows(&table);
    let wanted: Vec<String> = PROMISES
        .iter()
        .flat_map(|(letter, numbers)| numbers.iter().map(move |number| format!("{letter}{number}")))
        .collect();
    let found: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    assert_eq!(found, wanted, "a row a promise, in their order");
    let mut broken = Vec::new();
    for row in &rows {
        if !row.tests.iter().any(|test| row.id == "R0" || is_named_after(test, &row.id)) {
            broken.push(format!("{}: names no test that bears its name", row.id));
        }
        let faults = row.tests.iter().filter_map(|test| Some((test, missing(test)?)));
        broken.extend(faults.map(|(test, why)| format!("{}: {test}: {why}", row.id)));
    }
    assert_none("each promise is proven by a test", &broken);
}

#[test]
fn a_function_that_is_no_test_proves_nothing() {
    let text = "#[tokio::test]\n#[cfg(unix)]\nasync fn real() {\n}\nfn real_not() {}\n#[test]\nfn other() {}";
    assert!(has_test(text, "real") && has_test(text, "other"));
    assert!(!has_test(text, "real_not") && !has_test(text, "othe"));
    assert!(is_named_after("a.rs::g2_g3_gone", "G3") && !is_named_after("a.rs::g20_gone", "G2"));
    let table = "//! | id | promise | proven by |\n//! |---|---|---|\n//! | X1 | words | `a::b`, `c::d` |";
    let read = rows(table);
    assert_eq!((read[0].id.as_str(), read[0].tests.len()), ("X1", 2));
    assert_eq!(missing("src/lib.rs::nothing").as_deref(), Some("there is no such test"));
    assert_eq!(missing("src/no.rs::nothing").as_deref(), Some("there is no such file"));
}

#[test]
fn a_group_of_uses_is_taken_apart() {
    let code = "use crate::{\n    a::{b, c},\n    d,\n};\nlet x = crate::e::f;\nuse crate::{g::h, i};";
    let found: Vec<String> = arrows(code).into_iter().map(|(line, name)| format!("{line} {name}")).collect();
    assert_eq!(found, ["2 a", "3 d", "5 e", "6 g", "6 i"]);
}

#[test]
fn an_upward_arrow_and_one_between_neighbours_are_found() {
    assert_eq!(objection("engine", "front"), None);
    assert_eq!(objection("front", "config"), None);
    assert_eq!(objection("release", "os"), None);
    assert!(objection("os", "rules").is_some());
    assert_eq!(objection("release", "shim"), None);
    assert!(objection("front", "instance").is_some());
    assert!(objection("shim", "store").is_some());
    assert!(objection("engine", "api").is_some());
    assert!(objection("rules", "config").is_some());
    assert!(objection("engine", "elsewhere").is_some());
    assert!(mentions("use tokio::fs;", "tokio") && !mentions("let brand = 1;", "rand"));
}
