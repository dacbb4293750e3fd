//! Lying peers and a reader: `hypermount cat` of a file that a liar offers, alone and with an
//! honest peer beside it. Nothing wrong is ever printed, every command ends in time, memory stays
//! small, the liar is named, and with the honest peer the right bytes come.

use std::thread;
use std::time::Duration;

use crate::common::Home;
use crate::fixture::{MOST_MEMORY, Published, Watched, cat};
use crate::liar::{Liar, Lie};

/// How long a reader with only a liar is told to wait for each block.
const WAIT: &str = "1s";
/// The same where the lie itself takes a while to arrive.
const LARGE_WAIT: &str = "10s";
/// A few look-ups and a read of one second each, and a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(25);
/// Commands run at once: most of their time they wait.
const AT_ONCE: usize = 4;

/// What must be true of every reader.
#[track_caller]
fn must_be_sound(what: &str, told: &Watched) {
    let right = &Published::get().big;
    let stderr = &told.stderr;
    assert!(right.starts_with(&told.stdout), "{what}: wrong bytes shown");
    assert!(!stderr.contains("panicked"), "{what}: {stderr}");
    assert!(told.took < ENDS_WITHIN, "{what}: took {:?}: {stderr}", told.took);
    assert!(told.peak < MOST_MEMORY, "{what}: {} KiB of memory", told.peak);
    match told.code {
        Some(0) => assert!(told.stdout == *right, "{what}: cut short without an error"),
        Some(1 | 3 | 5) => assert!(stderr.contains("error: "), "{what}: {stderr}"),
        code => panic!("{what}: ended with {code:?}: {stderr}"),
    }
}

fn alone(lie: Lie, honest_blocks: usize, said: Option<&str>) {
    let published = Published::get();
    let liar = Liar::new(lie, &published.store, honest_blocks);
    let wait = if lie.is_large() { LARGE_WAIT } else { WAIT };
    let told = cat(&Home::new(), &published.url("big"), &[&liar.address], wait);
    let what = format!("{lie:?} alone after {honest_blocks} blocks");
    must_be_sound(&what, &told);
    if let Some(said) = said {
        let named = |line: &str| line.contains(&liar.address) && line.contains(said);
        assert!(told.stderr.lines().any(named), "{what}: {said:?} not in {}", told.stderr);
    }
}

fn beside_an_honest_peer(lie: Lie, honest_blocks: usize) {
    let published = Published::get();
    let liar = Liar::new(lie, &published.store, honest_blocks);
    let peers = [liar.address.as_str(), &published.honest];
    let told = cat(&Home::new(), &published.url("big"), &peers, "10s");
    let what = format!("{lie:?} after {honest_blocks} blocks beside an honest peer");
    must_be_sound(&what, &told);
    assert_eq!(told.code, Some(0), "{what}: {}", told.stderr);
}

/// Each lie from the first block on, after some true blocks, and beside an honest peer. `said` is
/// what the log must have beside the liar's address.
fn all_stand(lies: &[(Lie, Option<&'static str>)]) {
    let mut jobs: Vec<Box<dyn FnOnce() + Send>> = Vec::new();
    for (lie, said) in lies.iter().copied() {
        jobs.push(Box::new(move || alone(lie, 0, said)));
        jobs.push(Box::new(move || alone(lie, 8, None)));
        jobs.push(Box::new(move || beside_an_honest_peer(lie, 3)));
    }
    while !jobs.is_empty() {
        thread::scope(|scope| {
            let batch = jobs.split_off(jobs.len().saturating_sub(AT_ONCE));
            let running: Vec<_> = batch.into_iter().map(|job| scope.spawn(job)).collect();
            for job in running {
                job.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }
}

const BAD_PROOF: Option<&str> = Some("sent a bad proof");
const BROKE_THE_PROTOCOL: Option<&str> = Some("broke the protocol");

/// The rig itself: what the liars' true copy gives is right.
#[test]
fn a_liar_that_does_not_lie_is_a_peer() {
    let published = Published::get();
    let liar = Liar::new(Lie::None, &published.store, 0);
    let told = cat(&Home::new(), &published.url("big"), &[&liar.address], "10s");
    must_be_sound("no lie", &told);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
}

#[test]
fn t01_a_flipped_bit() {
    all_stand(&[(Lie::FlippedBit, BAD_PROOF)]);
}

#[test]
fn t02_another_blocks_bytes() {
    all_stand(&[(Lie::OtherBlock, BAD_PROOF)]);
}

#[test]
fn t03_blocks_of_the_wrong_size() {
    all_stand(&[
        (Lie::CutBlock, BAD_PROOF),
        (Lie::LongerBlock, BAD_PROOF),
        (Lie::EmptyBlock, BAD_PROOF),
        (Lie::NoValue, BAD_PROOF),
        (Lie::SevenMebibytes, BAD_PROOF),
    ]);
}

#[test]
fn t04_proofs_with_wrong_hashes() {
    all_stand(&[
        (Lie::ProofHashFlipped, BAD_PROOF),
        (Lie::ProofHashShort, BROKE_THE_PROTOCOL),
        (Lie::ProofMissing, BAD_PROOF),
    ]);
}

#[test]
fn t05_proofs_with_wrong_sizes() {
    all_stand(&[
        (Lie::ProofSize(1), BAD_PROOF),
        (Lie::ProofSize(1 << 53), BAD_PROOF),
        (Lie::ProofSize(u64::MAX), BAD_PROOF),
    ]);
}

#[test]
fn t06_invented_proof_nodes() {
    all_stand(&[
        (Lie::InventedNodes(3), BAD_PROOF),
        (Lie::InventedNodes(100), BAD_PROOF),
        (Lie::InventedNodes(5000), BROKE_THE_PROTOCOL),
    ]);
}

#[test]
fn t07_bad_signatures() {
    all_stand(&[
        (Lie::SignatureFlipped, BAD_PROOF),
        (Lie::SignatureMissing, BAD_PROOF),
        (Lie::SignatureShort, BROKE_THE_PROTOCOL),
        (Lie::SignatureZero, BAD_PROOF),
        (Lie::SignatureOfAnotherKey, BAD_PROOF),
    ]);
}

#[test]
fn t08_data_for_blocks_far_away() {
    all_stand(&[
        (Lie::AnotherIndex(1 << 40), None),
        (Lie::AnotherIndex(1 << 53), None),
        (Lie::AnotherIndex(u64::MAX), None),
    ]);
}

#[test]
fn t09_unasked_and_repeated_data() {
    all_stand(&[(Lie::UnaskedData, Some("sent data nobody asked for")), (Lie::RepeatedData, None)]);
}

#[test]
fn t10_offers_beyond_every_core() {
    all_stand(&[
        (Lie::HaveBeyond { start: 0, length: 1 << 50 }, None),
        (Lie::HaveBeyond { start: 1 << 50, length: 1 << 50 }, None),
        (Lie::HaveBeyond { start: 5, length: u64::MAX }, None),
        (Lie::HaveBeyond { start: u64::MAX, length: u64::MAX }, None),
    ]);
}

#[test]
fn t11_bitfields_that_explode() {
    all_stand(&[
        (Lie::BitfieldBomb, Some("sent a bad bitfield")),
        (Lie::BitfieldGarbage, Some("sent a bad bitfield")),
    ]);
}

#[test]
fn t12_floods_of_announcements() {
    all_stand(&[(Lie::HaveFlood, None), (Lie::OffersAndTakesBack, None), (Lie::StatusFlaps, None)]);
}

#[test]
fn t13_silence() {
    all_stand(&[(Lie::Silence, None)]);
}

#[test]
fn t14_a_byte_at_a_time() {
    all_stand(&[(Lie::OneByteAtATime, None)]);
}

#[test]
fn t15_answers_that_break_off() {
    all_stand(&[
        (Lie::HalfAFrameThenSilence, None),
        (Lie::HalfAFrameThenClose, Some("closed the connection")),
        (Lie::Reset, Some("connection lost")),
    ]);
}

/// What came before the connection broke is kept, so a peer that always breaks off still gets
/// one through.
#[test]
fn t15_what_was_verified_is_kept_when_the_peer_leaves() {
    let published = Published::get();
    let liar = Liar::new(Lie::ClosesEach3, &published.store, 0);
    let home = Home::new();
    let complete = (0..12).any(|_| {
        let told = cat(&home, &published.url("big"), &[&liar.address], "4s");
        must_be_sound("leaves after three blocks", &told);
        told.code == Some(0)
    });
    assert!(complete, "nothing was kept");
    let told = cat(&home, &published.url("big"), &[], "0");
    assert_eq!(told.code, Some(0), "all of it is here: {}", told.stderr);
}

#[test]
fn t16_handshakes_that_are_none() {
    all_stand(&[
        (Lie::NoHandshake, None),
        (Lie::GarbageHandshake, Some("noise handshake failed")),
        (Lie::EndlessHandshake, Some("noise handshake message of 2147483648 bytes")),
        (Lie::SlowHandshake, None),
    ]);
}

#[test]
fn t17_garbage_and_flipped_cipher_bits() {
    all_stand(&[(Lie::Garbage, BROKE_THE_PROTOCOL), (Lie::FlippedCipherBits, None)]);
}

#[test]
fn t18_frames_without_measure() {
    all_stand(&[
        (Lie::FrameOf2To40, BROKE_THE_PROTOCOL),
        (Lie::EndlessVarint, BROKE_THE_PROTOCOL),
        (Lie::LargeFramesFirst, BROKE_THE_PROTOCOL),
        (Lie::KeepalivesForever, None),
    ]);
}

#[test]
fn t19_unknown_and_broken_messages() {
    all_stand(&[
        (Lie::BrokenProtobuf, BROKE_THE_PROTOCOL),
        (Lie::ChannelNeverOpened, BROKE_THE_PROTOCOL),
        (Lie::ReservedTypes, None),
    ]);
}

#[test]
fn t20_a_peer_without_the_key() {
    all_stand(&[
        (Lie::WrongCapability, Some("wrong capability")),
        (Lie::NoCapability, Some("wrong capability")),
        (Lie::ShortDiscoveryKey, BROKE_THE_PROTOCOL),
    ]);
}

#[test]
fn t21_channels_without_end() {
    all_stand(&[
        (Lie::ManyChannels(20_000), None),
        (Lie::ManyChannels(70_000), BROKE_THE_PROTOCOL),
        (Lie::OpensAgain, BROKE_THE_PROTOCOL),
        (Lie::OpensAndCloses(1), None),
        (Lie::OpensAndCloses(500), None),
    ]);
}

#[test]
fn t22_extensions_without_end() {
    all_stand(&[
        (Lie::ExtensionSpam, None),
        (Lie::ExtensionNames(100_000), BROKE_THE_PROTOCOL),
        (Lie::ManyBlocksHint, None),
    ]);
}

#[test]
fn t23_requests_without_end() {
    all_stand(&[(Lie::WantBeyond, None), (Lie::RequestsWithoutEnd, None)]);
}

/// These do no harm at all: the file comes from the one peer that tells them.
#[test]
fn harmless_oddities_cost_nothing() {
    let published = Published::get();
    for lie in [
        Lie::ReservedTypes,
        Lie::HaveBeyond { start: 1 << 50, length: 1 << 50 },
        Lie::HaveBeyond { start: 0, length: 1 << 50 },
        Lie::ExtensionSpam,
        Lie::WantBeyond,
        Lie::OpensAndCloses(3),
        Lie::ManyChannels(2000),
    ] {
        let liar = Liar::new(lie, &published.store, 0);
        let told = cat(&Home::new(), &published.url("big"), &[&liar.address], "10s");
        must_be_sound(&format!("{lie:?}"), &told);
        assert_eq!(told.code, Some(0), "{lie:?}: {}", told.stderr);
    }
}

/// A peer that lied and then does not is dialled again, and the read that waits is healed.
#[test]
fn a_liar_that_turns_honest_heals_the_read() {
    let published = Published::get();
    for lie in [Lie::FlippedBit, Lie::Garbage, Lie::HalfAFrameThenClose, Lie::WrongCapability] {
        let liar = Liar::until(lie, &published.store, 4, 1);
        let told = cat(&Home::new(), &published.url("big"), &[&liar.address], "20s");
        must_be_sound(&format!("{lie:?}, then honest"), &told);
        assert_eq!(told.code, Some(0), "{lie:?}: {}", told.stderr);
        assert!(liar.connections() > 1);
    }
}
