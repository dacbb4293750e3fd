//! Reads directories page by page, in every page size, while they change.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use super::*;
use crate::platform::Caller;
use crate::testing::{on_a_filesystem, put, remove, walk};

/// One page of at most `room` names, and the offset of the next page.
async fn page(fs: &Fs, handle: u64, offset: u64, room: usize, plus: bool) -> (Vec<String>, u64) {
    let (mut names, mut next) = (Vec::new(), offset);
    fs.readdir(handle, offset).await.expect("listed").fill(fs, plus, |listed| {
        if names.len() == room {
            return true;
        }
        names.push(listed.name.to_owned());
        next = listed.next;
        false
    });
    (names, next)
}

async fn all(fs: &Fs, directory: u64, room: usize, plus: bool) -> Vec<String> {
    let handle = fs.opendir(directory).await.expect("opened");
    let (mut all, mut offset) = (Vec::new(), 0);
    loop {
        let (names, next) = page(fs, handle, offset, room, plus).await;
        if names.is_empty() {
            fs.releasedir(handle).expect("closed");
            return all;
        }
        all.extend(names);
        offset = next;
    }
}

#[test]
fn every_name_is_listed_once_at_every_page_size() {
    on_a_filesystem(true, async |fs| {
        let mut expected = BTreeSet::from([".".to_owned(), "..".to_owned()]);
        for n in 0..7 {
            put(&fs, &format!("file {n}"), b"x").await;
            expected.insert(format!("file {n}"));
        }
        for room in 1..=10 {
            for plus in [false, true] {
                let listed = all(&fs, fs.root_number(), room, plus).await;
                assert_eq!(listed.len(), expected.len(), "{room} {plus}");
                assert_eq!(listed.into_iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    });
}

#[test]
fn only_names_that_were_taken_are_counted_as_looked_up() {
    on_a_filesystem(true, async |fs| {
        for n in 0..5 {
            put(&fs, &format!("{n}"), b"x").await;
        }
        let (before, _) = fs.load();
        let handle = fs.opendir(fs.root_number()).await.expect("opened");
        let (names, next) = page(&fs, handle, 0, 4, true).await;
        assert_eq!(names.len(), 4);
        assert_eq!(fs.load().0, before + 2, "two names beside the dots");
        page(&fs, handle, next, 100, false).await;
        assert_eq!(fs.load().0, before + 2, "without plus nothing is counted");
    });
}

#[test]
fn a_listing_goes_on_in_the_version_that_it_began_in() {
    on_a_filesystem(true, async |fs| {
        for name in ["a", "b", "c"] {
            put(&fs, name, b"x").await;
        }
        let handle = fs.opendir(fs.root_number()).await.expect("opened");
        let (mut names, next) = page(&fs, handle, 0, 3, false).await;
        for name in ["a", "b", "c"] {
            remove(&fs, name).await;
        }
        put(&fs, "d", b"x").await;
        names.extend(page(&fs, handle, next, 100, false).await.0);
        names.retain(|name| !name.starts_with('.'));
        assert_eq!(names.into_iter().collect::<BTreeSet<_>>().len(), 3, "a, b and c");
        let (again, _) = page(&fs, handle, 0, 100, false).await;
        assert_eq!(again, [".", "..", "d"], "starting over shows the newest version");
    });
}

#[test]
fn new_files_are_listed_before_they_are_stored_and_with_their_size() {
    on_a_filesystem(false, async |fs| {
        let (root, name) = (fs.root_number(), OsStr::new("new"));
        let (_, opened) =
            fs.create(root, name, 0o644, libc::O_RDWR, Caller::SELF).await.expect("created");
        assert!(fs.write(opened.handle, 0, b"seven b", None).expect("written"));
        let handle = fs.opendir(root).await.expect("opened");
        let mut sizes = Vec::new();
        fs.readdir(handle, 0).await.expect("listed").fill(&fs, true, |listed| {
            sizes.extend(listed.attributes.map(|is| (listed.name.to_owned(), is.size)));
            false
        });
        assert_eq!(sizes, [("new".to_owned(), 7)]);
        assert_eq!(walk(&fs, "new").await.expect("it is there").1.size, 7);
    });
}
