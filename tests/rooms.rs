//! The rooms of `src/` stand one above the other, as ARCHITECTURE.md says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// From the top floor down. A room may import what stands on the floors below its own, and nothing else.
const FLOORS: [&[&str]; 18] = [
    &["main"],
    &["cli"],
    &["app", "bench_support", "fuzzing"],
    &["routes"],
    &["openai", "operator", "systemd"],
    &["http"],
    &["inference"],
    &["pool"],
    &["scheduler", "embedding"],
    &["worker"],
    &["prompt", "sampling"],
    &["grammar", "keys"],
    &["admission"],
    &["governor"],
    &["headroom", "sandbox", "tls"],
    &["telemetry"],
    &["engine", "config", "bench", "clock", "decimal", "field"],
    &["file_stamp", "replace_file", "sync"],
];

/// What the core of requests must not know: transports, and those who speak their protocols.
const TRANSPORTS: [&str; 8] = [
    "axum",
    "hyper",
    "http::",
    "tower",
    "HeaderMap",
    "openai",
    "operator",
    "routes",
];

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
}

/// The room that a file belongs to: the first folder below `src/`, or the file itself.
fn room(file: &Path) -> String {
    let below = file.strip_prefix(source()).expect("below src");
    let first = below.iter().next().expect("a name").to_string_lossy();
    first.trim_end_matches(".rs").to_owned()
}

fn is_test(file: &Path) -> bool {
    let below = file.strip_prefix(source()).expect("below src");
    below.iter().any(|part| {
        let part = part.to_string_lossy();
        let name = part.trim_end_matches(".rs");
        name == "tests" || name.ends_with("_tests")
    })
}

/// The code of a file: no comments, and nothing of its tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("readable");
    // A module of tests within the file is its end; one in a file of its own is a line like others.
    let tests = text.match_indices("#[cfg(test)]\nmod ").find(|(at, _)| {
        let declaration = text[*at..].lines().nth(1).unwrap_or_default();
        declaration.ends_with('{')
    });
    let code = tests.map_or(&*text, |(at, _)| &text[..at]);
    let lines = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"));
    lines.fold(String::new(), |code, line| code + line + "\n")
}

/// The code of each room.
fn rooms() -> BTreeMap<String, Vec<(PathBuf, String)>> {
    let mut files = Vec::new();
    rust_files(&source(), &mut files);
    let mut rooms: BTreeMap<String, Vec<(PathBuf, String)>> = BTreeMap::new();
    for file in files.into_iter().filter(|file| !is_test(file)) {
        let code = code(&file);
        rooms.entry(room(&file)).or_default().push((file, code));
    }
    rooms.remove("lib");
    rooms
}

/// The rooms that some code names by their path from the root.
fn imports(code: &str) -> BTreeSet<String> {
    let paths = code.split("crate::").skip(1);
    paths.flat_map(first_names).collect()
}

/// The first names of a path, or of each path of a group of them.
fn first_names(path: &str) -> Vec<String> {
    let name = |path: &str| {
        let end = path.find(|c: char| c != '_' && !c.is_alphanumeric());
        path[..end.unwrap_or(path.len())].to_owned()
    };
    let Some(group) = path.strip_prefix('{') else {
        return vec![name(path)];
    };
    let (mut names, mut depth, mut starts) = (Vec::new(), 0, 0);
    for (at, char) in group.char_indices() {
        match char {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' if depth == 0 => {
                names.push(name(group[starts..at].trim()));
                starts = at + 1;
            }
            '}' => {
                names.push(name(group[starts..at].trim()));
                break;
            }
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[test]
fn imports_are_found_alone_and_in_groups() {
    let code = "use crate::engine::Token;\nuse crate::{pool::{Pool, State}, http::{self}, clock,};\n\
                fn f() -> crate::governor::Measures {}";
    let expected = ["clock", "engine", "governor", "http", "pool"];
    assert_eq!(imports(code), expected.map(str::to_owned).into());
}

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&room))
}

#[test]
fn every_room_has_a_floor_and_imports_only_what_stands_below() {
    let mut wrong = Vec::new();
    for (room, files) in rooms() {
        let own = floor(&room).unwrap_or_else(|| panic!("{room} has no floor"));
        for (file, code) in files {
            let imported = imports(&code).into_iter();
            let others = imported.filter_map(|other| Some((floor(&other)?, other)));
            let above = others.filter(|(floor, other)| *other != room && *floor <= own);
            wrong.extend(above.map(|(_, other)| format!("{} imports {other}", file.display())));
        }
    }
    assert!(wrong.is_empty(), "not below: {wrong:#?}");
}

#[test]
fn what_a_request_is_knows_no_transport() {
    let rooms = rooms();
    let inference = &rooms["inference"];
    assert!(inference.len() > 5);
    for (file, code) in inference {
        for transport in TRANSPORTS {
            let file = file.display();
            assert!(!code.contains(transport), "{file} names `{transport}`");
        }
    }
}

#[test]
fn no_room_holds_more_than_a_fifth_of_the_house() {
    let lines = |files: &Vec<(PathBuf, String)>| -> usize {
        files.iter().map(|(_, code)| code.lines().count()).sum()
    };
    let rooms = rooms();
    let all: usize = rooms.values().map(lines).sum();
    for (room, files) in &rooms {
        let share = 100 * lines(files) / all;
        assert!(share <= 20, "{room} holds {share} % of the code");
    }
}
