//! What docs/semantics.md promises to who writes is quoted, word for word, by the tests that show it:
//! `/// Sentence 31. "A file can…"`. A sentence that changes takes its tests along.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The sentences that must be quoted.
const PROMISED: [std::ops::RangeInclusive<u32>; 2] = [31..=57, 75..=76];

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The numbered sentences of a document.
fn sentences(document: &str) -> BTreeMap<u32, String> {
    let mut found: BTreeMap<u32, String> = BTreeMap::new();
    let mut current = None;
    for line in document.lines() {
        match line.split_once(". ").and_then(|(number, _)| number.parse::<u32>().ok()) {
            Some(number) => current = Some(number),
            None if !line.starts_with("    ") => current = None,
            None => {}
        }
        if let Some(number) = current {
            let text = line.strip_prefix(&format!("{number}. ")).unwrap_or(line);
            found.entry(number).or_default().push_str(&format!(" {text}"));
        }
    }
    found.into_iter().map(|(number, text)| (number, words(&text))).collect()
}

/// What is quoted in doc comments, with its number.
fn quotes(source: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for comment in source.split("\n\n").flat_map(|part| part.split("#[test]")) {
        let lines = comment.lines().filter_map(|line| line.trim().strip_prefix("///"));
        let text = words(&lines.collect::<Vec<_>>().join(" "));
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once(". \"") {
            let number = before.rsplit(' ').next().and_then(|word| word.parse().ok());
            let (quote, behind) = after.split_once('"').unwrap_or((after, ""));
            if let Some(number) = number {
                found.push((number, quote.to_owned()));
            }
            rest = behind;
        }
    }
    found
}

fn sources(directory: &Path, found: &mut String) {
    for entry in fs::read_dir(directory).expect("lists").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push_str(&fs::read_to_string(&path).expect("reads"));
            found.push_str("\n\n");
        }
    }
}

#[test]
fn every_promise_to_who_writes_is_quoted_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(root.join("docs/semantics.md")).expect("reads");
    let sentences = sentences(&document);
    let mut text = String::new();
    for directory in ["tests/write", "drive/drive", "fs"] {
        sources(&root.join(directory), &mut text);
    }
    let quotes = quotes(&text);
    for (number, quote) in &quotes {
        let sentence = sentences.get(number).map_or("", String::as_str);
        assert!(sentence.contains(quote), "{number} says otherwise:\n{quote}\n{sentence}");
    }
    for number in PROMISED.into_iter().flatten() {
        let sentence = sentences.get(&number).unwrap_or_else(|| panic!("no sentence {number}"));
        for part in sentence.split_inclusive(". ") {
            let part = part.trim();
            let shown = quotes.iter().any(|(of, quote)| *of == number && quote.contains(part));
            // What is in brackets points elsewhere.
            assert!(shown || part.starts_with('('), "{number} is not quoted: {part}");
        }
    }
}
