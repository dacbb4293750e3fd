//! Append, get, prove, accept.

use super::*;

#[test]
fn append_and_read_back() {
    let world = World::default();
    let core = writer(&world);
    let head = core.append(&[block("a"), block(""), block("hello")]).unwrap();
    assert_eq!((head.length, head.byte_length), (3, 6));
    core.check_invariants();
    drop(core);
    let core = writer(&world);
    assert_eq!(core.head(), head);
    assert_eq!(core.get_local(2).unwrap(), Some(block("hello")));
    assert_eq!(core.get_local(1).unwrap(), Some(block("")));
    assert_eq!(core.get_local(3).unwrap(), None);
    assert_eq!(core.span(2).unwrap(), Some((1, 5)));
}

#[test]
fn sparse_replication_in_any_order() {
    let (source, target) = (World::default(), World::default());
    let from = writer(&source);
    let blocks: Vec<Bytes> = (0..23).map(|at| Bytes::from(vec![at as u8; at * 7])).collect();
    for chunk in blocks.chunks(5) {
        from.append(chunk).unwrap();
    }
    let to = reader(&target);
    let mut remote = RemoteTree::default();
    for at in [22u64, 3, 0, 17, 16, 4, 5, 9, 8, 1, 2] {
        send(&from, &to, at, &mut remote).unwrap();
    }
    assert_eq!(to.head(), from.head());
    drop(to);
    let to = reader(&target);
    assert_eq!(to.head(), from.head());
    assert_eq!(to.held(0..23), 11);
    for at in 0..23u64 {
        let expected = to.has(at).then(|| blocks[at as usize].clone());
        assert_eq!(to.get_local(at).unwrap(), expected);
    }
}
