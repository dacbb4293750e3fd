//! Every numbered sentence of `docs/semantics.md` is quoted by a test that shows it: word for word,
//! with its number, in the comment above the test. A promise that changes takes its test along.
//!
//! Whole, as `/// 12. What is on this machine…`; or, where one test shows a part of it, that part, as
//! `/// Sentence 12. "What is on this machine…"`. The parts together must be the sentence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Where tests are.
const ROOMS: [&str; 4] = ["drive", "fs", "src", "tests"];
/// Sentences no test quotes yet. Taking a number off this list is progress; each one that is quoted
/// all the same has to go.
const UNQUOTED: &[u32] = &[];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The words of a text, with one space between them.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The number that begins a line like `12. What is …`.
fn number_of(line: &str) -> Option<u32> {
    line.split_once(". ").and_then(|(number, _)| number.parse().ok())
}

/// The sentences by number: each begins a line with its number and ends at an empty line, a heading
/// or the next number.
fn sentences(document: &str) -> BTreeMap<u32, String> {
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    let mut current = None;
    for line in document.lines() {
        if let Some(number) = number_of(line) {
            assert!(!found.contains_key(&number), "two sentences have the number {number}");
            current = Some(number);
        } else if line.trim().is_empty() || line.starts_with('#') {
            current = None;
        }
        if let Some(number) = current {
            let sentence = found.entry(number).or_default();
            *sentence = words(&format!("{sentence} {line}"));
        }
    }
    found
}

/// The comments that stand directly above a test, one text each.
fn comments_of_tests(source: &str) -> Vec<String> {
    let (mut found, mut comment) = (Vec::new(), String::new());
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("//") {
            comment.push(' ');
            comment.push_str(text.trim_start_matches(['/', '!']));
        } else if line.starts_with("#[") && line.contains("test]") {
            found.push(words(&comment));
        } else if !line.starts_with("#[") {
            comment.clear();
        }
    }
    found
}

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("it can be listed").flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("node_modules") && !path.ends_with("target") {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What is quoted in parts, with its number.
fn parts_quoted(comment: &str) -> Vec<(u32, &str)> {
    let mut found = Vec::new();
    let mut rest = comment;
    while let Some((_, after)) = rest.split_once("Sentence ") {
        rest = after;
        let Some((number, after)) = after.split_once(". \"") else { continue };
        let Ok(number) = number.parse() else { continue };
        let (quote, after) = after.split_once('"').unwrap_or((after, ""));
        found.push((number, quote));
        rest = after;
    }
    found
}

/// The numbers of the sentences that `comments` quote, whole or in parts.
fn quoted(sentences: &BTreeMap<u32, String>, comments: &[String]) -> BTreeSet<u32> {
    let parts: Vec<(u32, &str)> =
        comments.iter().flat_map(|comment| parts_quoted(comment)).collect();
    for (number, quote) in &parts {
        let sentence = sentences.get(number).map_or("", String::as_str);
        assert!(sentence.contains(quote), "{number} says otherwise:\n{quote}\n{sentence}");
    }
    let in_parts = |number: u32, sentence: &str| {
        let text = sentence.split_once(". ").map_or("", |(_, text)| text);
        text.split_inclusive(". ").map(str::trim).all(|part| {
            let shown = parts.iter().any(|(of, quote)| *of == number && quote.contains(part));
            // A part in brackets refers to another sentence.
            shown || part.starts_with('(')
        })
    };
    let is_quoted = |number: u32, sentence: &str| {
        comments.iter().any(|comment| comment.contains(sentence)) || in_parts(number, sentence)
    };
    let found = sentences.iter().filter(|(number, text)| is_quoted(**number, text));
    found.map(|(number, _)| *number).collect()
}

#[test]
fn every_sentence_is_quoted_by_a_test() {
    let document = fs::read_to_string(root().join("docs/semantics.md")).expect("it is there");
    let sentences = sentences(&document);
    assert!(sentences.keys().copied().eq(1..=sentences.len() as u32), "the numbers go on");
    let mut files = Vec::new();
    for room in ROOMS {
        sources(&root().join(room), &mut files);
    }
    let read = |path: &PathBuf| fs::read_to_string(path).expect("it can be read");
    let comments: Vec<String> =
        files.iter().flat_map(|path| comments_of_tests(&read(path))).collect();
    let quoted = quoted(&sentences, &comments);
    let missing: Vec<&String> = sentences
        .iter()
        .filter(|(number, _)| !quoted.contains(number) && !UNQUOTED.contains(number))
        .map(|(_, text)| text)
        .collect();
    assert!(missing.is_empty(), "no test quotes, word for word:\n{missing:#?}");
    let done: Vec<&u32> = UNQUOTED.iter().filter(|number| quoted.contains(number)).collect();
    assert!(done.is_empty(), "quoted by now, take them off UNQUOTED: {done:?}");
}

#[test]
fn a_quote_has_every_word_and_stands_above_a_test() {
    let document = "# A\n\nText 5 . no.\n\n1. One\n   thing.\n2. Two.\n\n## B\n\n3. Three.\n";
    let sentences = sentences(document);
    assert_eq!(sentences.values().collect::<Vec<_>>(), ["1. One thing.", "2. Two.", "3. Three."]);
    let numbers = |source: &str| {
        quoted(&sentences, &comments_of_tests(source)).into_iter().collect::<Vec<_>>()
    };
    let test = "#[test]\nfn t() {}\n";
    assert_eq!(numbers(&format!("/// 1. One\n/// thing.\n///\n/// 3. Three.\n{test}")), [1, 3]);
    assert_eq!(numbers(&format!("// 2. Two.\n#[ignore]\n#[tokio::test]\n{test}")), [2]);
    assert_eq!(numbers(&format!("/// 1. One other thing.\n{test}")), []);
    assert_eq!(numbers(&format!("/// 1. One thing.\nfn helper() {{}}\n{test}")), []);
    assert_eq!(numbers(&format!("/// Sentence 2. \"Two.\"\n{test}")), [2]);
    assert_eq!(numbers("/// 1. One thing.\nfn helper() {}\n"), []);
}
