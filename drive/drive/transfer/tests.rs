use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::fs::{XattrFlags, setxattr};
use tempfile::TempDir;

use super::*;
use crate::hyperdrive::bee_testing::recorded;
use crate::hyperdrive::crash_tests::bytes;
use crate::hyperdrive::publisher::FORMATS;
use crate::hyperdrive::settled_tests::with_one_failure;
use crate::hyperdrive::{Drive, Edit};
use crate::index::trie::{Batch, TrieKey};
use crate::index::{DriveFormat, Index};
use crate::path::DrivePath;
use crate::stat::{Kind, Stat, TYPE_DIRECTORY, TYPE_FILE, TYPE_SYMLINK};
use hypermount_core::{CoreEvent, Error, Store, Wait};

struct Bench {
    directory: TempDir,
    drive: Drive,
}

fn path(text: &str) -> DrivePath {
    DrivePath::parse(text).unwrap()
}

impl Bench {
    fn new(format: DriveFormat) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store"), true).unwrap();
        let drive = Drive::create_in(format, &store, "test").unwrap();
        let bench = Self { directory, drive };
        fs::create_dir(bench.at("in")).unwrap();
        bench
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        let at = self.at("in").join(name);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        fs::write(at, content).unwrap();
    }

    async fn import(&self, options: ImportOptions) -> Report {
        import(&self.at("in"), &self.drive, &path(""), &options, &mut ()).await.unwrap()
    }

    async fn export(&self, options: ExportOptions) -> Report {
        let to = self.at("out");
        export(&self.drive, &path(""), &to, &options, Wait::Local, &mut ()).await.unwrap()
    }

    fn content_length(&self) -> u64 {
        self.drive.content().unwrap().head().length
    }

    async fn put(&self, name: &str, stat: Stat) {
        self.drive.apply(vec![Edit::Put { path: path(name), stat }]).await.unwrap();
    }
}

/// Everything that must survive a round trip, one line an entry.
fn picture(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut open = vec![root.to_owned()];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let at = entry.unwrap().path();
            let found = fs::symlink_metadata(&at).unwrap();
            let content = match () {
                () if found.is_dir() => {
                    open.push(at.clone());
                    String::new()
                }
                () if found.is_symlink() => fs::read_link(&at).unwrap().display().to_string(),
                () => {
                    format!("{:?}", hypermount_swarm::crypto::blake2b(&[&fs::read(&at).unwrap()]))
                }
            };
            let attributes = match found.is_symlink() {
                true => Default::default(),
                false => attributes::read(fs::File::open(&at).unwrap()).unwrap(),
            };
            let mtime = local::time(found.mtime(), found.mtime_nsec()).milliseconds();
            let name = at.strip_prefix(root).unwrap().display().to_string();
            lines.push(format!("{name} {:o} {mtime} {content} {attributes:?}", found.mode()));
        }
    }
    lines.sort();
    lines
}

fn set_mtime(at: &Path, milliseconds: u64) {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
    fs::File::open(at).unwrap().set_modified(time).unwrap();
}

fn varied_tree(bench: &Bench) {
    bench.write("plain.txt", "hello");
    bench.write("empty", "");
    bench.write("sub/deep/below.bin", vec![7u8; 3 * BLOCK_BYTES + 5]);
    bench.write("large.bin", (0..9_000_000u32).map(|n| (n >> 9) as u8).collect::<Vec<u8>>());
    bench.write("holes.bin", vec![0u8; 5 * BLOCK_BYTES]);
    bench.write("script.sh", "#!/bin/sh\n");
    fs::create_dir(bench.at("in/nothing in it")).unwrap();
    symlink("../outside", bench.at("in/sub/link")).unwrap();
    symlink("plain.txt", bench.at("in/link")).unwrap();
    let script = bench.at("in/script.sh");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o4750)).unwrap();
    setxattr(&script, "user.note", b"kept", XattrFlags::empty()).unwrap();
    set_mtime(&script, 1_500_000_000_123);
    fs::set_permissions(bench.at("in/sub/deep"), fs::Permissions::from_mode(0o555)).unwrap();
    set_mtime(&bench.at("in/sub/deep"), 1_400_000_000_456);
}

/// 60. Both keep names, content, modes, modification times to the nanosecond, symbolic links,
///     `user.` extended attributes and empty directories; everything that cannot be kept is named, and
///     the exit code is not 0.
#[tokio::test]
async fn a_tree_comes_out_as_it_went_in_and_a_second_run_moves_nothing() {
    for format in FORMATS {
        let bench = Bench::new(format);
        varied_tree(&bench);
        let first = bench.import(ImportOptions::default()).await;
        assert_eq!((first.files, first.symlinks, first.directories), (6, 2, 3), "{first:?}");
        assert_eq!(first.troubles, []);
        let version = bench.drive.snapshot().version();
        let again = bench.import(ImportOptions { checksum: true, ..Default::default() }).await;
        assert!(again.is_idle(), "{again:?}");
        assert_eq!(bench.drive.snapshot().version(), version);

        assert_eq!(bench.export(ExportOptions::default()).await.troubles, []);
        assert_eq!(picture(&bench.at("out")), picture(&bench.at("in")));
        let again = bench.export(ExportOptions { checksum: true, ..Default::default() }).await;
        assert!(again.is_idle(), "{again:?}");
        let holes = fs::metadata(bench.at("out/holes.bin")).unwrap();
        assert_eq!((holes.len(), holes.blocks()), (5 * BLOCK_BYTES as u64, 0));
    }
}

/// 61. A file whose time changed and whose bytes did not costs an index entry, and its bytes are
///     not stored again.
#[tokio::test]
async fn only_what_changed_is_appended() {
    for format in FORMATS {
        let bench = Bench::new(format);
        varied_tree(&bench);
        bench.import(ImportOptions::default()).await;
        let before = bench.content_length();
        // Another time, the same bytes: the entry changes, the log of content does not grow.
        set_mtime(&bench.at("in/large.bin"), 1_600_000_000_000);
        fs::set_permissions(bench.at("in/plain.txt"), fs::Permissions::from_mode(0o600)).unwrap();
        let report = bench.import(ImportOptions::default()).await;
        assert_eq!((report.files, report.updated), (0, 2), "{report:?}");
        assert_eq!(bench.content_length(), before);
        bench.write("plain.txt", "other");
        let report = bench.import(ImportOptions::default()).await;
        assert_eq!((report.files, report.bytes), (1, 5), "{report:?}");
        assert_eq!(bench.content_length(), before + 1);
        bench.export(ExportOptions::default()).await;
        assert_eq!(picture(&bench.at("out")), picture(&bench.at("in")));
    }
}

/// 58. `import` and `export` move only what differs: files by size, modification time in
///     milliseconds and mode, with `--checksum` by content.
#[tokio::test]
async fn content_that_only_a_checksum_tells_is_found() {
    for format in FORMATS {
        let bench = Bench::new(format);
        bench.write("a", "one");
        set_mtime(&bench.at("in/a"), 1_600_000_000_000);
        bench.import(ImportOptions::default()).await;
        bench.write("a", "two");
        set_mtime(&bench.at("in/a"), 1_600_000_000_000);
        // (The directory's own time may have changed.)
        assert_eq!(bench.import(ImportOptions::default()).await.files, 0);
        let checked = ImportOptions { checksum: true, ..Default::default() };
        assert_eq!(bench.import(checked).await.files, 1);
        bench.export(ExportOptions::default()).await;
        assert_eq!(fs::read(bench.at("out/a")).unwrap(), b"two");
    }
}

#[tokio::test]
async fn many_small_files_take_few_appends() {
    for format in FORMATS {
        let bench = Bench::new(format);
        for n in 0..2000 {
            bench.write(&format!("{}/{n}", n % 10), format!("file {n}"));
        }
        let mut events = bench.drive.metadata_core().events();
        let mut content_events = bench.drive.content().unwrap().events();
        let report = bench.import(ImportOptions::default()).await;
        assert_eq!(report.files, 2000);
        let mut count = 0;
        while let Ok(CoreEvent::Appended { .. }) = events.try_recv() {
            count += 1;
        }
        assert!(count <= 3, "{count} versions");
        let mut count = 0;
        while let Ok(CoreEvent::Appended { .. }) = content_events.try_recv() {
            count += 1;
        }
        assert!(count <= 3, "{count} appends of content");
    }
}

/// 62. Nothing is removed without `--delete`, and entries that an ignore file matches are neither
///     imported nor removed.
#[tokio::test]
async fn deletion_needs_the_option_and_spares_ignored_names() {
    for format in FORMATS {
        let bench = Bench::new(format);
        for name in ["keep", "sub/gone", "build/out.o", "build/deep/x"] {
            bench.write(name, name);
        }
        bench.import(ImportOptions::default()).await;
        fs::remove_dir_all(bench.at("in/sub")).unwrap();
        fs::remove_dir_all(bench.at("in/build/deep")).unwrap();
        bench.write(IGNORE_FILE, "*.o\n/build/deep\n!keep\n");
        assert_eq!(bench.import(ImportOptions::default()).await.deleted, 0);
        let dry = ImportOptions { delete: true, dry_run: true, ..Default::default() };
        let version = bench.drive.snapshot().version();
        assert_eq!(bench.import(dry).await.deleted, 2);
        assert_eq!(bench.drive.snapshot().version(), version);
        bench.import(ImportOptions { delete: true, ..Default::default() }).await;
        let snapshot = bench.drive.snapshot();
        for (name, there) in [
            ("keep", true),
            ("sub", false),
            ("sub/gone", false),
            ("build/out.o", true),
            ("build/deep/x", true),
        ] {
            assert_eq!(snapshot.entry(&path(name), Wait::Local).await.is_ok(), there, "{name}");
        }

        bench.export(ExportOptions::default()).await;
        fs::create_dir_all(bench.at("out/extra/below")).unwrap();
        fs::write(bench.at("out/extra/below/file"), "x").unwrap();
        fs::write(bench.at("aside"), "x").unwrap();
        symlink(bench.directory.path(), bench.at("out/extra/way out")).unwrap();
        assert_eq!(bench.export(ExportOptions::default()).await.deleted, 0);
        assert!(bench.at("out/extra/below/file").exists());
        let report = bench.export(ExportOptions { delete: true, ..Default::default() }).await;
        assert_eq!(report.deleted, 1, "{report:?}");
        assert!(!bench.at("out/extra").exists());
        assert!(bench.at("aside").exists());
    }
}

#[tokio::test]
async fn given_patterns_ignore_too_and_a_nearer_file_overrules_them() {
    for format in FORMATS {
        let bench = Bench::new(format);
        for name in ["a.log", "sub/b.log", "sub/kept.log"] {
            bench.write(name, name);
        }
        bench.write("sub/.hypermountignore", "!kept.log\n");
        fs::write(bench.at("patterns"), "*.log\n").unwrap();
        let options =
            ImportOptions { ignore_files: vec![bench.at("patterns")], ..Default::default() };
        bench.import(options).await;
        let snapshot = bench.drive.snapshot();
        for (name, there) in [("a.log", false), ("sub/b.log", false), ("sub/kept.log", true)] {
            assert_eq!(snapshot.entry(&path(name), Wait::Local).await.is_ok(), there, "{name}");
        }
    }
}

/// What an import that was killed leaves: some blocks of a large file, and no entry.
///
/// 59. Both may be killed at any point and run again; completed work is kept, and only the missing
///     part of a partially imported large file is appended.
#[tokio::test]
async fn an_interrupted_large_file_goes_on_where_it_stopped() {
    for format in FORMATS {
        let bench = Bench::new(format);
        let bytes: Vec<u8> =
            (0..20_000_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        bench.write("small", "something before");
        bench.import(ImportOptions::default()).await;
        bench.write("large", &bytes);
        let note = resume::Note::of(&bench.drive).unwrap();
        note.begin(bench.drive.content().unwrap()).unwrap();
        let blocks: Vec<Bytes> =
            bytes.chunks(BLOCK_BYTES).take(100).map(Bytes::copy_from_slice).collect();
        bench.drive.append_content(&blocks).unwrap();
        bench.import(ImportOptions::default()).await;
        let whole = bytes.len().div_ceil(BLOCK_BYTES) as u64;
        assert_eq!(bench.content_length(), 1 + whole);
        bench.export(ExportOptions::default()).await;
        assert!(fs::read(bench.at("out/large")).unwrap() == bytes);

        // Other blocks than the file's restart it.
        bench.write("other", bytes.iter().rev().copied().collect::<Vec<u8>>());
        note.begin(bench.drive.content().unwrap()).unwrap();
        bench.drive.append_content(&blocks).unwrap();
        bench.import(ImportOptions::default()).await;
        assert_eq!(bench.content_length(), 1 + whole + 100 + whole);
        bench.export(ExportOptions::default()).await;
        assert!(fs::read(bench.at("out/other")).unwrap().iter().rev().eq(&bytes));
    }
}

/// 59. Both may be killed at any point and run again; completed work is kept, and only the missing part of a partially
///     imported large file is appended.
///
/// Of a file with holes too.
#[tokio::test]
async fn an_interrupted_file_with_holes_goes_on_where_it_stopped() {
    const DATA: usize = 280;
    for format in FORMATS {
        let bench = Bench::new(format);
        let bytes: Vec<u8> = (0..DATA * BLOCK_BYTES)
            .map(|n| ((n as u32).wrapping_mul(2_654_435_761) >> 24) as u8)
            .collect();
        bench.write("large", &bytes);
        let large = fs::File::options().write(true).open(bench.at("in/large")).unwrap();
        let hole = 3 << 20;
        large.set_len(bytes.len() as u64 + hole).unwrap();
        large.write_all_at(b"end", bytes.len() as u64 + hole).unwrap();
        let note = resume::Note::of(&bench.drive).unwrap();
        note.begin(bench.drive.content().unwrap()).unwrap();
        let blocks: Vec<Bytes> =
            bytes.chunks(BLOCK_BYTES).take(100).map(Bytes::copy_from_slice).collect();
        bench.drive.append_content(&blocks).unwrap();
        let report = bench.import(ImportOptions::default()).await;
        assert_eq!((report.holes, &report.troubles[..]), (hole, &[][..]));
        // Three blocks of zeros, or one of them and a map.
        let zeros = if format == DriveFormat::Hyperdrive10 { 3 } else { 2 };
        assert_eq!(bench.content_length(), DATA as u64 + 1 + zeros, "{format}");
        assert!(bench.import(ImportOptions::default()).await.is_idle());
        bench.export(ExportOptions::default()).await;
        let (from, to) = (fs::read(bench.at("in/large")), fs::read(bench.at("out/large")));
        assert!(from.unwrap() == to.unwrap(), "{format}");
    }
}

/// A publisher may store anything; so may the user that prepared the directory.
///
/// 64. `export` writes nothing outside its directory: it follows no symbolic link, whatever its origin.
#[tokio::test]
async fn an_export_never_leaves_its_directory() {
    for format in FORMATS {
        let bench = Bench::new(format);
        let file = Stat { mode: TYPE_FILE | 0o644, ..Stat::default() };
        let outside = bench.at("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("victim"), "untouched").unwrap();
        let linkname = Some(outside.display().to_string());
        let link = Stat { mode: TYPE_SYMLINK | 0o777, linkname, ..Stat::default() };
        bench.put("link", link.clone()).await;
        // The index can hold names below a link.
        bench.put("link/victim", file.clone()).await;
        bench.put("directory", Stat { mode: TYPE_DIRECTORY | 0o755, ..Stat::default() }).await;
        bench.put("directory/victim", file.clone()).await;
        bench.put("victim", file).await;
        fs::create_dir(bench.at("out")).unwrap();
        symlink(&outside, bench.at("out/directory")).unwrap();
        symlink(outside.join("victim"), bench.at("out/victim")).unwrap();
        bench.export(ExportOptions { delete: true, ..Default::default() }).await;
        assert_eq!(fs::read(outside.join("victim")).unwrap(), b"untouched");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        assert!(fs::symlink_metadata(bench.at("out/directory")).unwrap().is_dir());
        assert!(fs::symlink_metadata(bench.at("out/victim")).unwrap().is_file());
        // There names below a link make it a directory, with the link beside it.
        let link = match format {
            DriveFormat::Hyperdrive10 => "out/link",
            DriveFormat::Hyperdrive11 => "out/link~file",
        };
        assert_eq!(fs::read_link(bench.at(link)).unwrap(), outside);
    }
}

#[tokio::test]
async fn nesting_has_a_limit_and_the_rest_is_exported() {
    for format in FORMATS {
        let bench = Bench::new(format);
        let file = Stat { mode: TYPE_FILE | 0o644, ..Stat::default() };
        let deepest = |depth: usize| format!("{}file", "d/".repeat(depth));
        bench.put(&deepest(export::MAX_DEPTH - 1), file.clone()).await;
        assert_eq!(bench.export(ExportOptions::default()).await.trouble_count, 0);
        assert!(bench.at("out").join(deepest(export::MAX_DEPTH - 1)).exists());
        bench.put(&deepest(export::MAX_DEPTH), file.clone()).await;
        bench.put("z", file).await;
        let report = bench.export(ExportOptions::default()).await;
        assert_eq!(report.trouble_count, 1, "{report:?}");
        assert!(bench.at("out/z").exists());
    }
}

#[tokio::test]
async fn missing_files_are_reported_and_the_rest_is_exported() {
    for format in FORMATS {
        let bench = Bench::new(format);
        bench.write("a", "here");
        bench.write("b", "not here");
        bench.write("c", "here too");
        bench.import(ImportOptions::default()).await;
        let extent =
            bench.drive.snapshot().entry(&path("b"), Wait::Local).await.unwrap().stat.extent;
        let content = bench.drive.content().unwrap();
        content.clear(extent.block..extent.block + 1).unwrap();
        let report = bench.export(ExportOptions::default()).await;
        assert_eq!((report.files, report.missing_count), (2, 1), "{report:?}");
        assert_eq!(report.troubles[0].path, "b");
        let mut names: Vec<_> = fs::read_dir(bench.at("out"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["a", "c"], "nothing half-written is left");
    }
}

#[tokio::test]
async fn files_and_directories_give_way_to_each_other_only_with_delete() {
    for format in FORMATS {
        let bench = Bench::new(format);
        bench.write("x/inside", "1");
        bench.import(ImportOptions::default()).await;
        bench.export(ExportOptions::default()).await;
        fs::remove_dir_all(bench.at("in/x")).unwrap();
        bench.write("x", "a file now");
        assert_eq!(bench.import(ImportOptions::default()).await.trouble_count, 1);
        bench.import(ImportOptions { delete: true, ..Default::default() }).await;
        assert_eq!(bench.export(ExportOptions::default()).await.trouble_count, 1);
        bench.export(ExportOptions { delete: true, ..Default::default() }).await;
        assert_eq!(picture(&bench.at("out")), picture(&bench.at("in")));
        // And back.
        fs::remove_file(bench.at("in/x")).unwrap();
        bench.write("x/inside", "2");
        assert_eq!(bench.import(ImportOptions::default()).await.trouble_count, 1);
        bench.import(ImportOptions { delete: true, ..Default::default() }).await;
        assert_eq!(bench.export(ExportOptions::default()).await.trouble_count, 1);
        bench.export(ExportOptions { delete: true, ..Default::default() }).await;
        assert_eq!(picture(&bench.at("out")), picture(&bench.at("in")));
    }
}

/// Changes a file while it is read, the first few times.
struct Tearing {
    file: PathBuf,
    times: usize,
    bytes: u64,
}

impl Observer for Tearing {
    fn step(&mut self, _: &str, _: TransferStep) {}

    fn bytes(&mut self, _: u64) {
        if self.times > 0 {
            self.times -= 1;
            self.bytes += 1;
            let content = vec![self.times as u8; BLOCK_BYTES + self.bytes as usize];
            fs::write(&self.file, content).unwrap();
        }
    }
}

/// A file is taken as it was at one moment, or not at all.
#[tokio::test]
async fn a_file_that_changes_while_it_is_read_is_never_torn() {
    for format in FORMATS {
        // Small enough to go out with others, and appended as it is read.
        for size in [3 * BLOCK_BYTES, 6 * 1024 * 1024, 20 * 1024 * 1024] {
            let bench = Bench::new(format);
            bench.write("beside", "untouched");
            bench.write("changing", vec![7u8; size]);
            bench.import(ImportOptions::default()).await;
            let changing = bench.at("in/changing");
            let stored = || async {
                let entry =
                    bench.drive.snapshot().entry(&path("changing"), Wait::Local).await.unwrap();
                let extent = entry.stat.extent;
                bench.drive.read(&extent, 0..extent.size, Wait::Local).await.unwrap().concat()
            };

            fs::write(&changing, vec![8u8; size + 1]).unwrap();
            let mut tearing = Tearing { file: changing.clone(), times: 1, bytes: 0 };
            let options = ImportOptions::default();
            let run =
                import(&bench.at("in"), &bench.drive, &path(""), &options, &mut tearing).await;
            assert_eq!(run.unwrap().trouble_count, 0, "{size}: it was read again");
            assert!(stored().await == fs::read(&changing).unwrap(), "{size}");

            let before = stored().await;
            fs::write(&changing, vec![9u8; size + 2]).unwrap();
            let mut tearing = Tearing { file: changing.clone(), times: usize::MAX, bytes: 0 };
            let run =
                import(&bench.at("in"), &bench.drive, &path(""), &options, &mut tearing).await;
            let report = run.unwrap();
            assert_eq!(report.trouble_count, 1, "{size}: {report:?}");
            assert_eq!(report.files, 0, "{size}: {report:?}");
            assert!(stored().await == before, "{size}: what the drive had stays");
            let beside = bench.drive.snapshot().entry(&path("beside"), Wait::Local).await;
            assert_eq!(beside.unwrap().stat.extent.size, 9);
        }
    }
}

/// What is in the way of a directory is not replaced unasked: neither at the destination nor below it.
#[tokio::test]
async fn a_file_in_the_way_of_a_directory_stays() {
    for format in FORMATS {
        let bench = Bench::new(format);
        bench.write("notes.txt", "of my own");
        symlink("notes.txt", bench.at("in/link")).unwrap();
        bench.import(ImportOptions::default()).await;
        let photos = bench.at("photos");
        fs::create_dir_all(photos.join("notes.txt/inside")).unwrap();
        fs::write(photos.join("one.jpg"), "jpg").unwrap();
        let kinds = || async {
            let snapshot = bench.drive.snapshot();
            let kind = |name: &'static str| {
                let snapshot = snapshot.clone();
                async move {
                    snapshot.entry(&path(name), Wait::Local).await.map(|entry| entry.kind).ok()
                }
            };
            (kind("notes.txt").await, kind("link").await, kind("notes.txt/one.jpg").await)
        };
        let kept = ImportOptions::default();
        for to in ["notes.txt", "link", ""] {
            let run = import(&photos, &bench.drive, &path(to), &kept, &mut ()).await.unwrap();
            assert_eq!(run.trouble_count, 1, "{to}: {run:?}");
            assert!(run.troubles[0].why.contains("--delete would replace it"), "{run:?}");
            assert_eq!(kinds().await, (Some(Kind::File), Some(Kind::Symlink), None), "{to}");
        }
        let replaced = ImportOptions { delete: true, ..ImportOptions::default() };
        let run =
            import(&photos, &bench.drive, &path("notes.txt"), &replaced, &mut ()).await.unwrap();
        assert_eq!((run.trouble_count, run.deleted), (0, 1), "{run:?}");
        let (notes, _, below) = kinds().await;
        assert_eq!((notes, below), (Some(Kind::Directory), Some(Kind::File)));
    }
}

/// A failed sync keeps nothing of what it covered: an import that reports success has made up for it.
#[test]
fn importing_with_a_failed_sync() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("c"), bytes(3)).unwrap();
    std::fs::write(directory.path().join("d"), bytes(40)).unwrap();
    let work = async |drive: &Drive| {
        let options = ImportOptions::default();
        let report = import(directory.path(), drive, &path(""), &options, &mut ()).await?;
        match report.trouble_count {
            0 => drive.sync(),
            _ => Err(Error::NotFound),
        }
    };
    with_one_failure(work, &[("b", Some(bytes(2))), ("c", Some(bytes(3))), ("d", Some(bytes(40)))]);
}

#[tokio::test]
async fn exporting_from_hyperdrive_13_keeps_names_contents_and_times() {
    let (origin, vector) = recorded().await;
    let drive = origin.open(None).await.unwrap();
    let to = tempfile::tempdir().unwrap();
    let (options, root) = (ExportOptions::default(), path(""));
    let report = export(&drive, &root, to.path(), &options, Wait::Local, &mut ()).await.unwrap();
    assert_eq!((report.troubles, report.files, report.symlinks), (vec![], 19, 1));
    for expected in vector["entries"].as_array().unwrap() {
        let local = to.path().join(&expected["key"].as_str().unwrap()[1..]);
        let found = std::fs::symlink_metadata(&local).unwrap();
        if found.is_symlink() {
            continue;
        }
        assert_eq!(found.len(), expected["contentLength"].as_u64().unwrap(), "{local:?}");
        let time = found.modified().unwrap().duration_since(std::time::UNIX_EPOCH).unwrap();
        let stated = expected["value"]["metadata"]["mtime"].as_u64();
        let stated = stated.unwrap_or(1000 * expected["seq"].as_u64().unwrap());
        assert_eq!(time.as_millis(), u128::from(stated), "{local:?}");
    }
    let again = export(&drive, &root, to.path(), &options, Wait::Local, &mut ()).await.unwrap();
    assert!(again.is_idle(), "{again:?}");
}

/// Which of these names are one file, and how many names each has.
fn files_of(root: &Path, names: &[&str]) -> Vec<(String, u64)> {
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).unwrap();
    let first = |name: &&str| {
        let same = names.iter().find(|other| stat(other).ino() == stat(name).ino());
        ((*same.unwrap()).to_owned(), stat(name).nlink())
    };
    names.iter().map(first).collect()
}

async fn stored_files_of(bench: &Bench, names: &[&str]) -> Vec<(String, u64)> {
    let mut found = Vec::new();
    for name in names {
        let snapshot = bench.drive.snapshot();
        let others = snapshot.names_of(&path(name), Wait::Local).await.unwrap();
        let is_same = |other: &&&str| others.iter().any(|it| it.as_str() == **other);
        let first = names.iter().find(is_same).unwrap();
        found.push(((*first).to_owned(), others.len() as u64));
    }
    found
}

/// Sentence 146. "`import` and `export` keep those between the files that they copy."
#[tokio::test]
async fn hard_links_go_in_and_come_out() {
    const NAMES: [&str; 8] = ["a", "sub/b", "sub/c", "d", "link", "sub/link", "one", "x"];
    for format in FORMATS {
        let bench = Bench::new(format);
        for name in ["a", "d", "one", "x"] {
            bench.write(name, name);
        }
        fs::create_dir(bench.at("in/sub")).unwrap();
        let link = |from: &str, to: &str| {
            rustix::fs::linkat(
                rustix::fs::CWD,
                bench.at(&format!("in/{from}")),
                rustix::fs::CWD,
                bench.at(&format!("in/{to}")),
                rustix::fs::AtFlags::empty(),
            )
            .unwrap();
        };
        link("a", "sub/b");
        link("a", "sub/c");
        symlink("a", bench.at("in/link")).unwrap();
        link("link", "sub/link");
        let check = async |when: &str| {
            let dry = ImportOptions { dry_run: true, ..ImportOptions::default() };
            bench.import(ImportOptions::default()).await;
            let source = files_of(&bench.at("in"), &NAMES);
            assert_eq!(stored_files_of(&bench, &NAMES).await, source, "{format} {when}");
            let version = bench.drive.snapshot().version();
            assert!(bench.import(dry).await.is_idle(), "{format} {when}");
            assert!(bench.import(ImportOptions::default()).await.is_idle(), "{format} {when}");
            assert_eq!(bench.drive.snapshot().version(), version);
            bench.export(ExportOptions::default()).await;
            assert_eq!(files_of(&bench.at("out"), &NAMES), source, "{format} {when}");
            assert_eq!(picture(&bench.at("out")), picture(&bench.at("in")), "{format} {when}");
            assert!(bench.export(ExportOptions::default()).await.is_idle(), "{format} {when}");
        };
        check("at first").await;
        let stored = bench.content_length();
        assert_eq!(stored, 4, "the bytes of each file once");
        // The content changes under all names, a file gets and another loses a name, and one becomes two.
        bench.write("sub/b", "changed");
        fs::remove_file(bench.at("in/x")).unwrap();
        link("one", "x");
        check("changed").await;
        let own = fs::read(bench.at("in/sub/c")).unwrap();
        fs::remove_file(bench.at("in/sub/c")).unwrap();
        bench.write("sub/c", own);
        set_mtime(&bench.at("in/sub/c"), 1_500_000_000_000);
        check("split").await;
        fs::set_permissions(bench.at("in/x"), fs::Permissions::from_mode(0o600)).unwrap();
        check("permitted").await;
        // Two files with two names each become one with four.
        for name in ["d", "sub/c"] {
            fs::remove_file(bench.at(&format!("in/{name}"))).unwrap();
            link("one", name);
        }
        check("joined").await;
        fs::remove_file(bench.at("in/d")).unwrap();
        fs::remove_file(bench.at("in/sub/c")).unwrap();
        bench.write("d", "d");
        link("d", "sub/c");
        check("two of four").await;
    }
}

/// Its name is in the drive, so nothing is deleted.
#[tokio::test]
async fn an_entry_that_makes_no_sense_is_named_and_the_local_file_stays() {
    let bench = Bench::new(DriveFormat::Hyperdrive10);
    bench.write("good", "good");
    bench.import(ImportOptions::default()).await;
    let trie = match bench.drive.snapshot().index() {
        Index::Trie(trie) => trie.clone(),
        Index::Bee(_) => unreachable!("a drive of Hyperdrive 10"),
    };
    let mut batch = Batch::new(trie).await.unwrap();
    let garbage = Some(Bytes::from_static(&[0xff; 30]));
    batch.put(TrieKey::new("bad", false).unwrap(), garbage, 0).await.unwrap();
    bench.drive.metadata_core().append(&batch.encode()).unwrap();

    fs::create_dir(bench.at("out")).unwrap();
    for name in ["bad", "local"] {
        fs::write(bench.at("out").join(name), "precious").unwrap();
    }
    let options = ExportOptions { delete: true, ..Default::default() };
    let report = bench.export(options).await;
    let named: Vec<&str> = report.troubles.iter().map(|trouble| trouble.path.as_str()).collect();
    assert_eq!((named, report.trouble_count), (vec!["bad"], 1));
    assert_eq!(fs::read_to_string(bench.at("out/bad")).unwrap(), "precious");
    assert!(bench.at("out/good").exists() && !bench.at("out/local").exists());
}
