//! Two cores and a list of blocks that must agree whatever happens.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum ModelStep {
    Append(Vec<usize>),
    Send(u64),
    Clear(u64, u64),
    ReopenWriter,
    ReopenReader,
    KillReader,
    Audit,
}

fn step() -> impl Strategy<Value = ModelStep> {
    prop_oneof![
        4 => prop::collection::vec(0usize..5000, 1..6).prop_map(ModelStep::Append),
        6 => (0u64..40).prop_map(ModelStep::Send),
        1 => (0u64..30, 1u64..10).prop_map(|(start, length)| ModelStep::Clear(start, length)),
        1 => Just(ModelStep::ReopenWriter),
        1 => Just(ModelStep::ReopenReader),
        1 => Just(ModelStep::KillReader),
        1 => Just(ModelStep::Audit),
    ]
}

/// What the model holds: every block appended, and which of them the reader has.
#[derive(Default)]
struct Model {
    blocks: Vec<Bytes>,
    held: Vec<Option<Bytes>>,
    byte_length: u64,
}

fn run(steps: Vec<ModelStep>) {
    let (source, target) = (World::default(), World::default());
    let (mut from, mut to) = (writer(&source), reader(&target));
    let mut model = Model::default();
    let mut remote = RemoteTree::default();
    for step in steps {
        match step {
            ModelStep::Append(sizes) => {
                let start = model.blocks.len();
                let batch: Vec<Bytes> = sizes
                    .iter()
                    .enumerate()
                    .map(|(at, size)| Bytes::from(vec![(start + at) as u8 ^ 0x5a; *size]))
                    .collect();
                model.byte_length += sizes.iter().sum::<usize>() as u64;
                model.blocks.extend_from_slice(&batch);
                model.held.resize(model.blocks.len(), None);
                let head = from.append(&batch).unwrap();
                assert_eq!(head.length, model.blocks.len() as u64);
                assert_eq!(head.byte_length, model.byte_length);
            }
            ModelStep::Send(at) if (at as usize) < model.blocks.len() => {
                let had = to.has(at);
                let accepted = send(&from, &to, at, &mut remote).unwrap();
                assert_eq!(accepted.stored, !had);
                model.held[at as usize] = Some(model.blocks[at as usize].clone());
            }
            ModelStep::Send(_) => {}
            ModelStep::Clear(start, length) => {
                to.clear(start..start + length).unwrap();
                for at in start..(start + length).min(model.held.len() as u64) {
                    model.held[at as usize] = None;
                }
            }
            ModelStep::ReopenWriter => {
                drop(from);
                from = writer(&source);
            }
            ModelStep::ReopenReader => {
                drop(to);
                to = reader(&target);
                remote = RemoteTree::default();
            }
            ModelStep::KillReader => {
                target.stop_at(0);
                drop(to);
                target.restart();
                to = reader(&target);
                remote = RemoteTree::default();
                for (at, held) in model.held.iter_mut().enumerate() {
                    if !to.has(at as u64) {
                        *held = None;
                    }
                }
            }
            ModelStep::Audit => {
                assert_eq!(to.audit().unwrap().invalid, 0);
                assert_eq!(from.audit().unwrap().valid, model.blocks.len() as u64);
            }
        }
        from.check_invariants();
        to.check_invariants();
        assert!(to.head().length <= from.head().length);
    }
    for (at, expected) in model.held.iter().enumerate() {
        assert_eq!(to.get_local(at as u64).unwrap(), *expected, "block {at}");
    }
    for (at, expected) in model.blocks.iter().enumerate() {
        assert_eq!(from.get_local(at as u64).unwrap().as_ref(), Some(expected));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn cores_agree_with_the_model(steps in prop::collection::vec(step(), 1..50)) {
        run(steps);
    }
}
