//! Random operations on a mount and on a plain directory: both must always have the same tree, also
//! for the reference, and after restarts and kills.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::own::{FORMATS, Own, can_mount, has_reference, tree};
use crate::steps::{Step, act, leads_through_link, step};

#[test]
fn a_mount_is_like_a_plain_directory() {
    if !can_mount() {
        return;
    }
    for format in FORMATS {
        // 8 runs of at least 70 steps: more than 500.
        let config = Config { cases: 8, max_shrink_iters: 60, ..Config::default() };
        let steps = proptest::collection::vec(step(), 70..90);
        let run = |steps: Vec<Step>| {
            let (mut own, plain) =
                (Own::in_format(format), tempfile::tempdir().expect("a directory"));
            for step in steps {
                match &step {
                    Step::Remount => own.remount(),
                    Step::Kill => own.kill(),
                    Step::AskReference if has_reference() => {
                        own.unmount();
                        let theirs = own.read_by_reference();
                        prop_assert_eq!(theirs, own.told_to_others(tree(plain.path(), false)));
                        own.mount();
                    }
                    Step::AskReference => {}
                    step if step
                        .paths()
                        .iter()
                        .any(|path| leads_through_link(plain.path(), path))
                        && !matches!(step, Step::Unlink { .. } | Step::Rename { .. }) =>
                    {
                        continue;
                    }
                    step => {
                        let expected = act(plain.path(), step);
                        prop_assert_eq!(act(&own.root(), step), expected, "{:?}", step);
                    }
                }
                prop_assert_eq!(tree(&own.root(), true), tree(plain.path(), true), "{:?}", step);
            }
            own.unmount();
            if has_reference() {
                let expected = own.told_to_others(tree(plain.path(), false));
                prop_assert_eq!(own.read_by_reference(), expected);
            }
            Ok(())
        };
        let result = TestRunner::new(config).run(&steps, run);
        if let Err(failure) = result {
            panic!("{failure}");
        }
    }
}
