//! The arrows between rooms point one way: `api ← model ← engine ← {accelerator, optimizer, quality, profiler} ← bake ← worker ← cli`,
//! `api, model ← package ← {bake, worker, cli}`, `api ← store ← worker`.

#![allow(clippy::unwrap_used)] // a test that cannot read the sources has failed

use std::fs;
use std::path::{Path, PathBuf};

/// What each room may use beside itself.
const ARROWS: &[(&str, &[&str])] = &[
    ("api", &[]),
    ("hardware", &["api"]),
    ("model", &["api"]),
    ("engine", &["api", "model"]),
    ("accelerator", &["api", "model"]),
    ("profiler", &["api", "model", "engine"]),
    ("quality", &["api", "model"]),
    ("optimizer", &["api", "model", "engine"]),
    ("package", &["api", "model"]),
    ("bake", &["api", "model", "engine", "hardware", "accelerator", "profiler", "quality", "optimizer", "package"]),
    ("operator", &["api", "hardware"]),
    ("store", &["api"]),
    ("worker", &["api", "model", "engine", "optimizer", "quality", "package", "bake", "store"]),
    (
        "cli",
        &[
            "api",
            "model",
            "engine",
            "hardware",
            "accelerator",
            "profiler",
            "quality",
            "optimizer",
            "package",
            "bake",
            "operator",
            "worker",
        ],
    ),
];

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries
        .flat_map(|p| if p.is_dir() { rust_files(&p) } else { vec![p] })
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .collect()
}

/// Rooms that a source text names as `crate::room`, also inside a braced `use crate::{…}`.
fn rooms_named(text: &str) -> Vec<String> {
    let name = |s: &str| s.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut found = Vec::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            None => found.push(name(rest)),
            Some(list) => {
                let mut depth = 0;
                let mut start = true;
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => start = true,
                        c if start && depth == 0 && c.is_alphabetic() => {
                            found.push(name(&list[at..]));
                            start = false;
                        }
                        _ => {}
                    }
                }
            }
        }
    }
    found
}

#[test]
fn every_room_uses_only_the_rooms_below_it() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    for (room, allowed) in ARROWS {
        for file in rust_files(&src.join(room)) {
            for used in rooms_named(&fs::read_to_string(&file).unwrap()) {
                let is_room = ARROWS.iter().any(|(r, _)| *r == used);
                if is_room && used != *room && !allowed.contains(&used.as_str()) {
                    wrong.push(format!("{} uses {used}", file.strip_prefix(&src).unwrap().display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point the wrong way:\n{}", wrong.join("\n"));
}

#[test]
fn every_folder_of_src_is_a_room_with_arrows() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).unwrap().map(|e| e.unwrap()).filter(|e| e.path().is_dir()) {
        let name = entry.file_name().into_string().unwrap();
        assert!(ARROWS.iter().any(|(room, _)| *room == name), "src/{name} has no line in ARROWS");
    }
}

#[test]
fn the_reader_of_this_test_finds_what_it_looks_for() {
    assert_eq!(
        rooms_named("use crate::{api::Reason, model::{Model, Tensor}};\nlet x = crate::engine::go();"),
        ["api", "model", "engine"]
    );
}
