//! A short run of every target.

use std::path::{Path, PathBuf};

use super::TARGETS;

/// Mutated inputs for each target.
const TRIES: usize = 4_000;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fuzz/corpus")
        .join(target);
    let mut found: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    found.sort();
    found
        .into_iter()
        .map(|path| (path.clone(), std::fs::read(path).unwrap()))
        .collect()
}

#[test]
fn the_corpus_and_mutations_of_it_break_no_target() {
    for (name, target) in TARGETS {
        let corpus = corpus(name);
        assert!(!corpus.is_empty(), "{name} has something to begin with");
        for (path, data) in &corpus {
            run(name, *target, data, &path.display().to_string());
        }
        let mut chance = fastrand::Rng::with_seed(7);
        for number in 0..TRIES {
            let (_, data) = &corpus[chance.usize(..corpus.len())];
            let (_, other) = &corpus[chance.usize(..corpus.len())];
            let mutated = mutate(&mut chance, data.clone(), other);
            run(name, *target, &mutated, &format!("mutation {number}"));
        }
    }
}

/// Says which input it was: the panic alone does not.
fn run(name: &str, target: super::Target, data: &[u8], what: &str) {
    let result = std::panic::catch_unwind(|| target(data));
    assert!(
        result.is_ok(),
        "{name} fails with {what}: keep it in fuzz/corpus/{name}:\n{}",
        data.escape_ascii()
    );
}

/// Some small changes of the kinds that libFuzzer makes as well.
fn mutate(chance: &mut fastrand::Rng, mut data: Vec<u8>, other: &[u8]) -> Vec<u8> {
    const ODD: &[&[u8]] = &[
        b"-1",
        b"0",
        b"18446744073709551616",
        b"1e999",
        b"null",
        b"\"\"",
        b"[]",
        b"{}",
        b"\0",
        b"\xff\xff\xff\xff",
        b"\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\\ud800",
        b"\n",
        b"$not",
        "é".as_bytes(),
    ];
    for _ in 0..chance.usize(1..5) {
        let at = chance.usize(..=data.len());
        let until = chance.usize(at..=data.len()).min(at + 30);
        match chance.u8(..6) {
            0 if at < data.len() => data[at] ^= 1 << chance.u8(..8),
            1 if at < data.len() => data[at] = chance.u8(..),
            2 => drop(data.drain(at..until)),
            3 => data
                .splice(at..at, ODD[chance.usize(..ODD.len())].iter().copied())
                .for_each(drop),
            4 => {
                let again = data[at..until].to_vec();
                data.splice(at..at, again);
            }
            _ => {
                let from = chance.usize(..=other.len());
                let to = chance.usize(from..=other.len()).min(from + 60);
                data.splice(at..until, other[from..to].iter().copied());
            }
        }
    }
    data
}
