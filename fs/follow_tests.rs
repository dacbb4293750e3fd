//! Which notices the kernel gets for a change made by another program.

use std::collections::HashSet;

use super::*;
use crate::testing::{on_a_filesystem, put, remove, walk};

fn entry(parent: u64, name: &str) -> Invalidation {
    Invalidation::Entry { parent, name: name.to_owned() }
}

/// The notices since the last call.
fn notices(fs: &Fs) -> HashSet<Invalidation> {
    fs.invalidations().drain().into_iter().collect()
}

#[test]
fn a_new_path_is_told_at_the_first_name_that_the_kernel_may_hold_as_absent() {
    on_a_filesystem(true, async |fs| {
        put(&fs, "a/b/old", b"x").await;
        let (a, _) = walk(&fs, "a").await.expect("a directory");
        notices(&fs);
        put(&fs, "a/c/d/new", b"x").await;
        let told = notices(&fs);
        assert!(
            told.contains(&entry(a, "c")) && told.contains(&Invalidation::Inode(a)),
            "{told:?}"
        );
        let deeper = |notice: &Invalidation| matches!(notice, Invalidation::Entry { name, .. } if name != "c");
        assert!(!told.iter().any(deeper), "nothing below it is known: {told:?}");
    });
}

#[test]
fn new_content_is_told_of_its_inode_and_its_name() {
    on_a_filesystem(true, async |fs| {
        put(&fs, "file", b"old").await;
        put(&fs, "other", b"x").await;
        let (file, _) = walk(&fs, "file").await.expect("a file");
        let (other, _) = walk(&fs, "other").await.expect("a file");
        notices(&fs);
        put(&fs, "file", b"newer").await;
        let told = notices(&fs);
        assert!(told.contains(&Invalidation::Inode(file)), "{told:?}");
        assert!(told.contains(&entry(fs.root_number(), "file")), "{told:?}");
        assert!(!told.contains(&Invalidation::Inode(other)), "{told:?}");
        assert_eq!(walk(&fs, "file").await.expect("a file").1.size, 5);
    });
}

#[test]
fn a_directory_that_vanishes_with_its_last_file_is_told_as_well() {
    on_a_filesystem(true, async |fs| {
        put(&fs, "a/b/c", b"x").await;
        let (a, _) = walk(&fs, "a").await.expect("a directory");
        let (b, _) = walk(&fs, "a/b").await.expect("a directory");
        walk(&fs, "a/b/c").await.expect("a file");
        notices(&fs);
        remove(&fs, "a/b/c").await;
        let told = notices(&fs);
        for expected in [entry(b, "c"), entry(a, "b"), entry(fs.root_number(), "a")] {
            assert!(told.contains(&expected), "{expected:?} of {told:?}");
        }
        assert!(walk(&fs, "a").await.is_none());
    });
}

#[test]
fn a_name_that_no_program_looked_up_causes_no_notice_of_its_own() {
    on_a_filesystem(true, async |fs| {
        put(&fs, "a/b", b"x").await;
        notices(&fs);
        put(&fs, "a/b", b"y").await;
        let told = notices(&fs);
        let known = fs.root_number();
        let unknown = |notice: &Invalidation| match notice {
            Invalidation::Inode(ino) => *ino != known,
            Invalidation::Entry { parent, .. } => *parent != known,
        };
        assert!(!told.iter().any(unknown), "{told:?}");
    });
}

#[test]
fn everything_names_each_inode_and_no_directory_by_name() {
    on_a_filesystem(true, async |fs| {
        put(&fs, "a/b", b"x").await;
        let (a, _) = walk(&fs, "a").await.expect("a directory");
        let (b, _) = walk(&fs, "a/b").await.expect("a file");
        let everything: HashSet<_> = fs.everything().into_iter().collect();
        let inodes = [fs.root_number(), a, b].map(Invalidation::Inode);
        let expected: HashSet<_> = inodes.into_iter().chain([entry(a, "b")]).collect();
        assert_eq!(everything, expected);
    });
}
