//! Lying peers and a reader: `hypermount cat` of a file that a liar offers, alone and with an
//! honest peer beside it. Nothing wrong is ever printed, every command ends in time, memory stays
//! small, the liar is named, and with the honest peer the right bytes come.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hypermount_core::Store;
use hypermount_drive::Drive;

use crate::common::{Home, Running, copy_tree};
use crate::fixture::{HANGS, MOST_MEMORY, Published, Watched, cat, noise, put, runtime};
use crate::liar::{Liar, Lie};

/// `--wait` of a reader whose only peer is a liar.
const WAIT: &str = "1s";
/// `--wait` where the lie itself takes a while to arrive.
const LARGE_WAIT: &str = "12s";
/// Three calls that wait for [`LARGE_WAIT`] each (to open the drive, to look up the file, to read it), and a busy
/// machine. [`watch`](crate::fixture::watch) stops the command a little later.
const ENDS_WITHIN: Duration = HANGS.saturating_sub(Duration::from_secs(5));
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

/// Checks the fixture: the true copy of the liars gives the right bytes.
#[test]
fn the_fixture_without_a_lie_is_read() {
    let published = Published::get();
    let liar = Liar::new(Lie::None, &published.store, 0);
    let told = cat(&Home::new(), &published.url("big"), &[&liar.address], "10s");
    must_be_sound("no lie", &told);
    assert_eq!(told.code, Some(0), "{}", told.stderr);
}

/// 1. Bytes that a read returns were signed by the holder of the drive's key, or the read fails.
#[test]
fn t01_a_flipped_bit() {
    all_stand(&[(Lie::FlippedBit, BAD_PROOF)]);
}

/// 3. A peer that sends bytes that do not verify costs the reader nothing but time.
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
    all_stand(&[
        (Lie::UnaskedData, Some("sent data that was not requested")),
        (Lie::RepeatedData, None),
    ]);
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

/// 6. Reading a file returns as many bytes as `stat` reports, or fails; a file is never silently
///    truncated.
#[test]
fn t15_answers_that_break_off() {
    all_stand(&[
        (Lie::HalfAFrameThenSilence, None),
        (Lie::HalfAFrameThenClose, Some("closed the connection")),
        (Lie::Reset, Some("connection lost")),
    ]);
}

/// Blocks received before a connection breaks are kept, so a peer that always breaks the connection
/// still delivers one.
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
fn t16_invalid_handshakes() {
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
fn t18_oversized_and_endless_frames() {
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
        // The liar reads no refusals, so the reader stops reading from it. Either limit may end the connection.
        (Lie::ManyChannels(70_000), None),
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

/// These lies do no harm: the file is read from the only peer, which sends them.
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

/// A peer that stops lying is dialled again, and the read that waits for it succeeds.
#[test]
fn a_liar_that_turns_honest_heals_the_read() {
    let published = Published::get();
    for lie in [Lie::FlippedBit, Lie::Garbage, Lie::HalfAFrameThenClose, Lie::WrongCapability] {
        // It proves nothing before it lies, so that the lie ends the connection.
        let liar = Liar::until(lie, &published.store, 0, 1);
        let told = cat(&Home::new(), &published.url("big"), &[&liar.address], "20s");
        must_be_sound(&format!("{lie:?}, then honest"), &told);
        assert_eq!(told.code, Some(0), "{lie:?}: {}", told.stderr);
        assert!(liar.connections() > 1);
    }
}

/// Two histories of one key: a store was copied, and both copies were written to.
struct Forked {
    home: Home,
    url: String,
    /// The content of the first history.
    first: Vec<u8>,
}

impl Forked {
    /// `more` are the small files that each history has beside the large one.
    fn new(more: [usize; 2]) -> Self {
        let home = Home::new();
        let runtime = runtime();
        let key = {
            let store = Store::open(&home.path("first"), true).expect("is made");
            let drive = Drive::create(&store, "forked").expect("is made");
            for name in ["a", "b", "c"] {
                put(&runtime, &drive, name, &[Bytes::from_static(b"common")]);
            }
            drive.sync().expect("is written");
            drive.key().to_hex()
        };
        copy_tree(&home.path("first"), &home.path("second"));
        // To fork a drive, a user must adopt both copies.
        let copy = Store::open(&home.path("second"), false).expect("opens");
        copy.adopt(false).expect("no peer is known to have more");
        drop(copy);
        let first = noise(3, 200_000);
        // Of another size, so that the indexes differ as well.
        let second = noise(4, 210_000);
        for (store, content, more) in [("first", &first, more[0]), ("second", &second, more[1])] {
            let store = Store::open(&home.path(store), false).expect("opens");
            let drive = Drive::create(&store, "forked").expect("opens");
            let blocks: Vec<Bytes> = content.chunks(50_000).map(Bytes::copy_from_slice).collect();
            put(&runtime, &drive, "file", &blocks);
            for number in 0..more {
                let text = Bytes::copy_from_slice(&content[..20 + number]);
                put(&runtime, &drive, &format!("more/{number}"), &[text]);
            }
            drive.sync().expect("is written");
        }
        Self { home, url: format!("hyper://{key}/file"), first }
    }

    fn serve(&self) -> (Running, String) {
        let arguments = ["serve", "--store", "first", "--listen", "127.0.0.1:0"];
        let running = Running::start(self.home.command().args(arguments));
        let address = running.line();
        (running, address)
    }
}

/// The history seen first is kept and can be read; the other is named, and nothing of it is taken,
/// although it is validly signed and longer.
///
/// 10. Two validly signed histories of one drive are reported as a fork, with the length of both; the
///     one seen first is kept, and no data of the other is shown.
#[test]
fn t26_of_two_histories_the_first_is_kept() {
    let forked = Forked::new([2, 30]);
    let (_first, first) = forked.serve();
    // Not a server of ours, which would notice on its side that the reader holds another history.
    let store = Store::open(&forked.home.path("second"), false).expect("opens");
    let _drive = Drive::create(&store, "forked").expect("opens");
    let other = Liar::new(Lie::None, &store, 0);
    let second = other.address.clone();
    let reader = Home::new();
    // Some of the first history: its index, and one block of its content. (Which content belongs to
    // which index the format does not say: each core has its own first history.)
    let url = forked.url.trim_end_matches("/file");
    let some = cat(&reader, &format!("{url}/more/0"), &[&first], "20s");
    assert_eq!(some.code, Some(0), "{}", some.stderr);

    let told = cat(&reader, &forked.url, &[&second], "3s");
    assert_ne!(told.code, Some(0), "the other history's bytes were taken");
    assert!(told.stdout.is_empty(), "{} bytes shown", told.stdout.len());
    let named = |line: &str| {
        line.contains(&second) && line.contains("fork") && line.contains("contradicts the")
    };
    assert!(told.stderr.lines().any(named), "{}", told.stderr);
    assert!(told.stderr.contains("is forked"), "the reader is told: {}", told.stderr);

    // A mount that asks for newer versions is offered the longer history, and reports the fork.
    let at = reader.make("mnt");
    if Path::new("/dev/fuse").exists() {
        let fetched = reader.path("fetched");
        let mut command = reader.command();
        command.args([
            "-v",
            "mount",
            "--foreground",
            url,
            "mnt",
            "--wait",
            "3s",
            "--peer",
            &second,
        ]);
        command
            .arg("--store")
            .arg(fetched)
            .stderr(Stdio::from(fs::File::create(reader.path("log")).expect("is made")));
        let mut mount = command.stdout(Stdio::piped()).spawn().expect("starts");
        let log = || fs::read_to_string(reader.path("log")).unwrap_or_default();
        let started = Instant::now();
        while !log().lines().any(|line| line.contains("fork") && line.contains(&second)) {
            assert!(started.elapsed() < HANGS, "the fork is not noticed: {}", log());
            thread::sleep(Duration::from_millis(20));
        }
        let names = fs::read_dir(&at).expect("the first history lists").count();
        assert_eq!(names, 5, "a, b, c, file, more");
        assert!(fs::read(at.join("file")).is_err());
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(mount.id() as i32),
            nix::sys::signal::Signal::SIGTERM,
        )
        .expect("it runs");
        mount.wait().expect("it ends");
    }

    let told = cat(&reader, &forked.url, &[&second, &first], "20s");
    assert_eq!(told.code, Some(0), "the first history heals: {}", told.stderr);
    assert!(told.stdout == forked.first, "bytes of the other history");
}

/// The other history is the shorter one, and the reader has nothing that contradicts it: no proof
/// of it, in index or content, meets a stored node.
#[test]
fn t26_of_two_histories_a_shorter_second_one_is_not_mixed_in() {
    let forked = Forked::new([200, 1]);
    let (_first, first) = forked.serve();
    let store = Store::open(&forked.home.path("second"), false).expect("opens");
    let _drive = Drive::create(&store, "forked").expect("opens");
    let other = Liar::new(Lie::None, &store, 0);
    let second = other.address.clone();
    let reader = Home::new();
    let url = forked.url.trim_end_matches("/file");
    let some = cat(&reader, &format!("{url}/more/199"), &[&first], "20s");
    assert_eq!(some.code, Some(0), "{}", some.stderr);

    let told = cat(&reader, &forked.url, &[&second], "3s");
    assert_ne!(told.code, Some(0), "the other history's bytes were taken");
    assert!(told.stdout.is_empty(), "{} bytes shown", told.stdout.len());
    let why = "no connected peer shows that it is part of the";
    assert!(told.stderr.contains(why) || told.stderr.contains("fork"), "{}", told.stderr);

    // With both peers connected the deciding nodes are there: a fork, with both lengths.
    let told = cat(&reader, &forked.url, &[&second, &first], "20s");
    assert_eq!(told.code, Some(0), "{}", told.stderr);
    assert!(told.stdout == forked.first, "bytes of the other history");
}

/// An old head, validly signed, changes nothing for a reader that has seen a newer one; and of two peers
/// the one that knows more is believed. What the older peer has is taken once the newer one shows that
/// both are of one history.
///
/// 9. A version that was seen is never replaced by an older one, regardless of what peers send.
///
/// 11. A reader cannot know that no newer version exists, only that no connected peer has announced
///     one.
#[test]
fn t25_an_old_version_takes_nothing_away() {
    let home = Home::new();
    let runtime = runtime();
    let key = {
        let store = Store::open(&home.path("new"), true).expect("is made");
        let drive = Drive::create(&store, "grows").expect("is made");
        put(&runtime, &drive, "old", &[Bytes::from_static(b"old")]);
        drive.sync().expect("is written");
        drive.key().to_hex()
    };
    copy_tree(&home.path("new"), &home.path("old"));
    {
        let store = Store::open(&home.path("new"), false).expect("opens");
        let drive = Drive::create(&store, "grows").expect("opens");
        for number in 0..10 {
            put(&runtime, &drive, &format!("new{number}"), &[Bytes::from_static(b"new")]);
        }
        drive.sync().expect("is written");
    }
    let serve = |store: &str| {
        let arguments = ["serve", "--store", store, "--listen", "127.0.0.1:0"];
        let running = Running::start(home.command().args(arguments));
        let address = running.line();
        (running, address)
    };
    let (_old, old) = serve("old");
    let (_new, new) = serve("new");
    let reader = Home::new();
    let url = |path: &str| format!("hyper://{key}/{path}");
    // A reader that meets only the older peer sees that peer's version, which is proven and the
    // newest that it can know of.
    let newcomer = Home::new();
    let behind = cat(&newcomer, &url("new9"), &[&old], "20s");
    assert_eq!((behind.code, &behind.stdout[..]), (Some(1), &b""[..]), "{}", behind.stderr);
    let seen = cat(&reader, &url("new9"), &[&new], "20s");
    assert_eq!((seen.code, &seen.stdout[..]), (Some(0), &b"new"[..]), "{}", seen.stderr);
    // The whole index, which names blocks that the older peer has.
    let store = reader.path("fetched").to_string_lossy().into_owned();
    reader.run(["ls", &url(""), "--store", &store, "--peer", &new]).must_succeed();
    let again = cat(&reader, &url("new9"), &[&old], "2s");
    assert_eq!((again.code, &again.stdout[..]), (Some(0), &b"new"[..]), "{}", again.stderr);
    let alone = cat(&reader, &url("old"), &[&old], "1s");
    assert_eq!((alone.code, &alone.stdout[..]), (Some(3), &b""[..]), "{}", alone.stderr);
    assert!(alone.stderr.contains("older version (length 1)"), "{}", alone.stderr);
    let older = cat(&reader, &url("old"), &[&old, &new], "20s");
    assert_eq!((older.code, &older.stdout[..]), (Some(0), &b"old"[..]), "{}", older.stderr);
}
