//! A publisher of Hyperdrive 11 to 13 whose signatures are valid and whose content is nonsense: every walk of a mount
//! and every export ends in little memory, each bad entry fails by itself, no path leads out, and no wrong byte is
//! shown.
//!
//! Not here: names that the reference can write (`shapes.rs`), and the same for Hyperdrive 10 (`tests/hostile`).

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

use bytes::Bytes;
use hypermount_core::{Core, Share, Sharing, Store};
use hypermount_drive::sharing_options;
use hypermount_swarm::crypto::KeyPair;
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::common::{Home, Running};
use crate::fixture::{MOST_MEMORY, peak_memory, runtime, watch};

/// Cases at once: each waits for programs that it starts.
const AT_ONCE: usize = 4;
const MIB: usize = 1024 * 1024;

/// A tree node: blocks of its keys, and pairs of a block and a level in it, flat.
type Level = (Vec<u64>, Vec<u64>);

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// A field of protobuf that has bytes.
fn field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(tag << 3 | 2);
    varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn packed(numbers: &[u64]) -> Vec<u8> {
    let mut out = Vec::new();
    numbers.iter().for_each(|number| varint(*number, &mut out));
    out
}

/// A block of the index, as no program of ours checks it.
fn block(key: &[u8], value: &[u8], levels: &[Level]) -> Vec<u8> {
    let (mut index, mut out) = (Vec::new(), Vec::new());
    for (keys, children) in levels {
        let mut level = Vec::new();
        field(1, &packed(keys), &mut level);
        field(2, &packed(children), &mut level);
        field(1, &level, &mut index);
    }
    field(1, &index, &mut out);
    field(2, key, &mut out);
    field(3, value, &mut out);
    out
}

fn header(protocol: &str, content: Option<&[u8]>) -> Vec<u8> {
    let (mut metadata, mut out) = (Vec::new(), Vec::new());
    if let Some(content) = content {
        field(1, content, &mut metadata);
    }
    field(1, protocol.as_bytes(), &mut out);
    field(2, &metadata, &mut out);
    out
}

/// The B-tree of these blocks, whose keys ascend, all of it in block `last`. Returns the level of its root.
fn tree(blocks: &[u64], last: u64, levels: &mut Vec<Level>) -> u64 {
    const MOST: usize = 8;
    let at = levels.len();
    levels.push((blocks.to_vec(), Vec::new()));
    if blocks.len() > MOST {
        let count = (MOST + 1).min(blocks.len().div_ceil(2));
        let (mut keys, mut children) = (Vec::new(), Vec::new());
        let mut rest = blocks;
        for child in 0..count {
            let left = count - child;
            let (below, after) = rest.split_at((rest.len() + 1 - left) / left);
            children.extend([last, tree(below, last, levels)]);
            let Some((key, after)) = after.split_first() else { break };
            keys.push(*key);
            rest = after;
        }
        levels[at] = (keys, children);
    }
    at as u64
}

fn key(path: &str) -> Vec<u8> {
    format!("files\0{path}").into_bytes()
}

fn file(blob: &str) -> Vec<u8> {
    let before = r#"{"executable":false,"linkname":null,"blob":"#;
    format!("{before}{blob},\"metadata\":null}}").into_bytes()
}

fn blob(block: u64, byte: u64, blocks: u64, bytes: u64) -> String {
    let offsets = format!(r#"{{"blockOffset":{block},"byteOffset":{byte},"#);
    format!(r#"{offsets}"blockLength":{blocks},"byteLength":{bytes}}}"#)
}

fn link(target: &str) -> Vec<u8> {
    let value = serde_json::json!({"executable": false, "linkname": target, "blob": null});
    value.to_string().into_bytes()
}

/// A drive that is published, and the means to put anything into it.
struct Publisher {
    index: Core,
    content: Core,
    address: String,
    _sharing: Sharing,
    _runtime: Runtime,
    _directory: TempDir,
}

impl Publisher {
    fn new() -> Self {
        let (runtime, directory) = (runtime(), tempfile::tempdir().expect("a directory"));
        let store = Store::open(directory.path(), true).expect("a store");
        let core = |seed| {
            let pair = KeyPair::from_seed(&[seed; 32]);
            store.modern_core_with_pair(&pair).expect("a core")
        };
        let (index, content) = (core(1), core(2));
        let (sharing, address) = runtime.block_on(async {
            let options = sharing_options(Share::Opened);
            let sharing = Sharing::new(&store, options).expect("the network starts");
            let address = sharing.listen("127.0.0.1:0").await.expect("listens");
            (sharing, address.to_string())
        });
        let (_sharing, _runtime, _directory) = (sharing, runtime, directory);
        Self { index, content, address, _sharing, _runtime, _directory }
    }

    fn append(&self, block: Vec<u8>) {
        self.index.append(&[Bytes::from(block)]).expect("is appended");
    }

    fn begin(&self) {
        self.append(header("hyperbee", Some(self.content.key().as_bytes())));
    }

    /// Appends content. Returns the blob that it is.
    fn blob(&self, blocks: &[&[u8]]) -> String {
        let head = self.content.head();
        let blocks: Vec<_> = blocks.iter().map(|bytes| Bytes::copy_from_slice(bytes)).collect();
        self.content.append(&blocks).expect("is appended");
        let bytes = self.content.head().byte_length - head.byte_length;
        blob(head.length, head.byte_length, blocks.len() as u64, bytes)
    }

    /// A file whose content is its path.
    fn good(&self, path: &str) -> (Vec<u8>, Vec<u8>) {
        (key(path), file(&self.blob(&[path.as_bytes()])))
    }

    /// Appends these entries as one batch.
    fn put_all(&self, mut entries: Vec<(Vec<u8>, Vec<u8>)>) {
        entries.sort();
        let first = self.index.head().length;
        let last = first + entries.len() as u64 - 1;
        let mut levels = Vec::new();
        tree(&(first..=last).collect::<Vec<_>>(), last, &mut levels);
        for (seq, (key, value)) in (first..).zip(&entries) {
            self.append(block(key, value, if seq == last { &levels } else { &[] }));
        }
    }

    fn url(&self, rest: &str) -> String {
        format!("hyper://{}{rest}", self.index.key().to_hex())
    }
}

/// The drive mounted by a stranger.
struct Mount {
    home: Home,
    running: Running,
    at: PathBuf,
}

impl Mount {
    fn new(publisher: &Publisher) -> Self {
        let home = Home::new();
        let at = home.make("mnt");
        let url = publisher.url("");
        let arguments = ["mount", "--foreground", "--wait", "5s", &url, "mnt", "--peer"];
        let running = Running::start(home.command().args(arguments).arg(&publisher.address));
        running.line();
        Self { home, running, at }
    }

    /// Walks the whole tree with the usual tools, which must end.
    fn walk(&self, what: &str) {
        for script in [
            "find \"$0\" -ls",
            "ls -lR \"$0\"",
            "tar -cf - \"$0\" | wc -c",
            "find \"$0\" -type f -exec cat {} + | wc -c",
        ] {
            let told = watch(Command::new("sh").args(["-c", script]).arg(&self.at));
            assert!(told.code.is_some(), "{what}: {script} was killed: {}", told.stderr);
        }
        self.leads_nowhere_else(&self.at, 0);
        let peak = peak_memory(self.running.child.id());
        assert!(peak > 0 && peak < MOST_MEMORY, "{what}: {peak} KiB of memory");
    }

    fn leads_nowhere_else(&self, directory: &Path, depth: usize) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().into_string().expect("names are text");
            assert!(!name.contains(['/', '\0']) && name != "." && name != "..", "{name:?}");
            assert!(!name.is_empty() && name.len() <= 255, "{name:?}");
            if let Ok(target) = fs::canonicalize(entry.path()) {
                assert!(target.starts_with(&self.at), "{:?} leads to {target:?}", entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < 40 {
                self.leads_nowhere_else(&entry.path(), depth + 1);
            }
        }
    }

    fn read(&self, path: &str) -> std::io::Result<Vec<u8>> {
        fs::read(self.at.join(path.trim_start_matches('/')))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // By force, because that succeeds in every state of the mount.
        let _ = self.home.command().args(["unmount", "--force", "mnt"]).output();
    }
}

/// Exports into a directory beside which there is nothing: no path leads out of it. Where the publisher left nothing
/// out, an export that succeeds has `all` of the good entries.
fn exports(what: &str, publisher: &Publisher, goods: &[&str], all: bool) {
    let home = Home::new();
    let mut command = home.command();
    command.args(["export", &publisher.url(""), "in/copy", "--wait", "2s", "--peer"]);
    home.make("in");
    let told = watch(command.arg(&publisher.address));
    assert!(told.code.is_some() && !told.stderr.contains("panicked"), "{what}: {}", told.stderr);
    assert!(told.peak < MOST_MEMORY, "{what}: {} KiB of memory", told.peak);
    assert!(told.code == Some(0) || told.stderr.contains("error: "), "{what}: {}", told.stderr);
    let beside: Vec<_> = fs::read_dir(home.path("in")).expect("lists").flatten().collect();
    assert!(beside.iter().all(|entry| entry.file_name() == "copy"), "{what}: {beside:?}");
    for good in goods {
        match fs::read(home.path("in/copy").join(good.trim_start_matches('/'))) {
            Ok(read) => assert_eq!(read, good.as_bytes(), "{what}: {good}"),
            Err(error) => assert!(!all || told.code != Some(0), "{what}: {good}: {error}"),
        }
    }
}

fn can_mount() -> bool {
    let able = Path::new("/dev/fuse").exists();
    if !able {
        eprintln!("SKIPPED: there is no /dev/fuse here");
    }
    able
}

/// A drive with these entries and three good ones.
fn each_fails_by_itself(what: &str, entries: impl FnOnce(&Publisher) -> Vec<(Vec<u8>, Vec<u8>)>) {
    if !can_mount() {
        return;
    }
    let publisher = Publisher::new();
    publisher.begin();
    let goods = ["/a-good", "/m/good", "/z/good"];
    let mut all = entries(&publisher);
    all.extend(goods.map(|path| publisher.good(path)));
    publisher.put_all(all);
    let mount = Mount::new(&publisher);
    mount.walk(what);
    for good in goods {
        let read = mount.read(good);
        assert_eq!(read.ok().as_deref(), Some(good.as_bytes()), "{what}: a neighbour suffers");
    }
    drop(mount);
    exports(what, &publisher, &goods, true);
}

#[test]
fn values_that_are_no_entries() {
    each_fails_by_itself("values", |_| {
        let deep = "[".repeat(300_000);
        let closed = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let values: Vec<Vec<u8>> = vec![
            b"\xff\xfe{".to_vec(),
            Vec::new(),
            b"7".to_vec(),
            b"[]".to_vec(),
            b"null".to_vec(),
            b"{}".to_vec(),
            b"{\"blob\":".to_vec(),
            deep.into_bytes(),
            format!(r#"{{"blob":null,"linkname":null,"metadata":{closed}}}"#).into_bytes(),
            format!(r#"{{"blob":null,"metadata":"{}"}}"#, "m".repeat(3 * MIB)).into_bytes(),
            br#"{"blob":null,"linkname":7,"executable":"yes"}"#.to_vec(),
            br#"{"blob":null,"metadata":{"mtime":1e300,"mtimeMs":-1e300}}"#.to_vec(),
            br#"{"blob":null,"metadata":{"mtime":"99999-99-99T99:99:99Z"}}"#.to_vec(),
            vec![0; MIB],
        ];
        (0..).zip(values).map(|(n, value)| (key(&format!("/v/{n}")), value)).collect()
    });
}

#[test]
fn blobs_that_no_core_holds() {
    each_fails_by_itself("blobs", |publisher| {
        let text = publisher.blob(&[b"one block", b"another"]);
        let (most, safe) = (u64::MAX, (1 << 53) - 1);
        let field = |name: &str, value: &str| {
            let at = text.find(name).expect("a field") + name.len() + 2;
            let end = at + text[at..].find([',', '}']).expect("an end");
            format!("{}{value}{}", &text[..at], &text[end..])
        };
        let mut blobs = vec![
            blob(1000, 0, 1, 10),
            blob(0, 0, 1 << 40, 10),
            blob(0, 0, 1, safe),
            blob(0, 0, 0, 10),
            blob(0, 0, 2, 100),
            blob(0, 0, 2, 3),
            blob(0, 7, 2, 16),
            blob(0, safe, 2, 16),
            blob(safe, safe, safe, safe),
            blob(most, most, most, most),
            blob(1, 9, most, 7),
            "7".to_owned(),
            "[]".to_owned(),
            "{}".to_owned(),
        ];
        for name in ["blockOffset", "byteOffset", "blockLength", "byteLength"] {
            for value in ["-1", "1.5", "1e300", "\"0\"", "null", "18446744073709551616"] {
                blobs.push(field(name, value));
            }
        }
        (0..).zip(blobs).map(|(n, blob)| (key(&format!("/b/{n:02}")), file(&blob))).collect()
    });
}

/// A block of a map in compact-encoding; numbers below 253 and of 9 bytes.
fn map(pieces: impl IntoIterator<Item = (u64, u64)>, count: u64) -> Vec<u8> {
    let number = |number: u64, out: &mut Vec<u8>| {
        out.push(255);
        out.extend(number.to_le_bytes());
    };
    let mut out = vec![0];
    number(count, &mut out);
    for (block, bytes) in pieces {
        number(block, &mut out);
        number(bytes, &mut out);
    }
    out
}

#[test]
fn maps_of_blocks_that_lie() {
    each_fails_by_itself("maps", |publisher| {
        publisher.blob(&[b"x", b"twelve bytes"]);
        let one = |_| map([(0, 1)], 1);
        let many: Vec<Vec<u8>> = (0..65).map(one).collect();
        let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let full = map((0..8192).map(|_| (0, 1)), 8192);
        let maps: Vec<String> = vec![
            publisher.blob(&[b"no map at all, but some text that is long enough to be one"]),
            publisher.blob(&[b""]),
            publisher.blob(&[]),
            publisher.blob(&many),
            publisher.blob(&[full.as_slice(); 8]),
            publisher.blob(&[&map([(1 << 40, 10)], 1)]),
            publisher.blob(&[&map([(u64::MAX, u64::MAX)], 1)]),
            publisher.blob(&[&map([(1, 5)], 1)]),
            publisher.blob(&[&map([(1, 8 << 20)], 1)]),
            publisher.blob(&[&map([(1, 1 << 53)], 1)]),
            publisher.blob(&[&map([], u64::MAX)]),
            publisher.blob(&[&map([], 8192)]),
            publisher.blob(&[&[1, 1, 0, 1]]),
            blob(1 << 40, 0, 1, 10),
            blob(0, 0, 1 << 50, 1 << 50),
        ];
        let mapped = |blob: String| blob.replace('}', r#","blockMap":true}"#);
        let maps = (0..).zip(maps);
        maps.map(|(n, blob)| (key(&format!("/d/{n:02}")), file(&mapped(blob)))).collect()
    });
}

#[test]
fn links_and_names_that_lead_out_or_nowhere() {
    each_fails_by_itself("links and names", |publisher| {
        let mut entries: Vec<_> = [
            ("/l/absolute", "/etc/passwd"),
            ("/l/up", "../../../../../../../../etc/passwd"),
            ("/l/itself", "itself"),
            ("/l/one", "two"),
            ("/l/two", "one"),
            ("/l/nul", "a\0b"),
            ("/l/dot", "."),
            ("/l/mount", "/../../.."),
            ("/l/empty", ""),
        ]
        .map(|(path, target)| (key(path), link(target)))
        .into();
        entries.push((key("/l/long"), link(&"x/".repeat(32 * 1024))));
        let names = [
            "/..",
            "/../escape",
            "/n/../../escape",
            "/n/./x",
            "/n//x",
            "/n/",
            "//",
            "/",
            "",
            "relative",
            "/n/nul\0",
            "/n/\u{1b}[31m",
            "/both",
            "/both/x",
            "/both~file",
        ];
        let text = publisher.blob(&[b"text"]);
        entries.extend(names.map(|name| (key(name), file(&text))));
        for (name, count) in [("/n/x", 300), ("/n/y/", 20_000), ("/y", 60_000)] {
            entries.push((key(&name.repeat(count / name.len())), file(&text)));
        }
        entries.push((key(&"/deep".repeat(12_000)), file(&text)));
        entries.push((b"files\0/n/\xff\xfe".to_vec(), file(&text)));
        entries.push((b"other\0/x".to_vec(), file(&text)));
        entries.push((b"".to_vec(), file(&text)));
        entries
    });
}

/// Trees that end with this block: other entries and earlier versions may suffer from it, and nothing more.
fn ends(what: &str, ending: impl FnOnce(u64) -> Vec<u8>) {
    let publisher = Publisher::new();
    publisher.begin();
    publisher.put_all(vec![publisher.good("/a"), publisher.good("/d/b"), publisher.good("/d/c")]);
    let sound = publisher.index.head().length;
    publisher.append(ending(sound));
    let mount = Mount::new(&publisher);
    mount.walk(what);
    for path in ["/a", "/d/b"] {
        match mount.read(path) {
            Ok(read) => assert_eq!(read, path.as_bytes(), "{what}"),
            Err(error) => {
                let errno = error.raw_os_error();
                let expected = [libc::EIO, libc::ENOENT, libc::EFBIG];
                assert!(errno.is_some_and(|it| expected.contains(&it)), "{what}: {error}");
            }
        }
    }
    drop(mount);
    exports(what, &publisher, &["/a", "/d/b", "/d/c"], false);
    // The earlier content is there under its version.
    let home = Home::new();
    let url = publisher.url(&format!("+{sound}/d/b"));
    let told = watch(home.command().args(["cat", &url, "--peer", &publisher.address]));
    assert_eq!((told.code, &told.stdout[..]), (Some(0), &b"/d/b"[..]), "{what}: {told:?}");
}

type Ending = Box<dyn FnOnce(u64) -> Vec<u8> + Send>;

fn all_end(endings: Vec<(&'static str, Ending)>) {
    if !can_mount() {
        return;
    }
    let endings = Mutex::new(endings);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let next = endings.lock().expect("no case has failed").pop();
                    let Some((what, ending)) = next else { return };
                    ends(what, ending);
                }
            });
        }
    });
}

/// A block with this key and these tree nodes.
fn node(path: &str, levels: &[Level]) -> Vec<u8> {
    block(&key(path), &file("null"), levels)
}

#[test]
fn blocks_that_are_no_tree_nodes() {
    all_end(vec![
        ("garbage", Box::new(|_| vec![0xff; 300])),
        ("nothing", Box::new(|_| Vec::new())),
        ("megabytes of zeroes", Box::new(|_| vec![0; 4 * MIB])),
        ("a header", Box::new(|_| header("hyperbee", None))),
        ("no tree node", Box::new(|_| node("/x", &[]))),
        ("an empty tree node", Box::new(|_| node("/x", &[Level::default()]))),
        ("5,000 tree nodes", Box::new(|at| node("/x", &vec![(vec![at], vec![]); 5000]))),
        ("9 keys", Box::new(|at| node("/x", &[(vec![at; 9], vec![])]))),
        ("100,000 keys", Box::new(|at| node("/x", &[(vec![at; 100_000], vec![])]))),
        ("a long key", Box::new(|at| node(&"/x".repeat(40_000), &[(vec![at], vec![])]))),
        ("too few children", Box::new(|_| node("/x", &[(vec![1, 2], vec![1, 0])]))),
        ("half a child", Box::new(|_| node("/x", &[(vec![1], vec![1, 0, 2])]))),
        (
            "a block of almost 8 MiB",
            Box::new(|at| {
                let value =
                    format!(r#"{{"blob":null,"metadata":"{}"}}"#, "m".repeat(8 * MIB - 500));
                block(&key("/x"), value.as_bytes(), &[(vec![1, 2, 3, at], vec![])])
            }),
        ),
    ]);
}

#[test]
fn trees_that_are_none() {
    let deep = |keys: fn(u64) -> Vec<u64>| -> Ending {
        Box::new(move |at| {
            let level = |n: u64| (keys(at), vec![at, n + 1]);
            node("/x", &(0..4000).map(level).chain([(vec![], vec![])]).collect::<Vec<_>>())
        })
    };
    all_end(vec![
        ("itself", Box::new(|at| node("/x", &[(vec![2], vec![at, 0, at, 0])]))),
        (
            "each other",
            Box::new(|at| {
                node("/x", &[(vec![2], vec![at, 1, at, 1]), (vec![3], vec![at, 0, at, 0])])
            }),
        ),
        ("a newer child", Box::new(|at| node("/x", &[(vec![2], vec![at + 100, 0, 1, 0])]))),
        ("the header", Box::new(|_| node("/x", &[(vec![0], vec![0, 0, 0, 0])]))),
        ("a newer key", Box::new(|at| node("/x", &[(vec![at + 5], vec![])]))),
        ("absurd numbers", Box::new(|_| node("/x", &[(vec![u64::MAX], vec![u64::MAX; 4])]))),
        ("an absurd level", Box::new(|_| node("/x", &[(vec![2], vec![1, 1 << 53, 3, 7])]))),
        ("keys out of order", Box::new(|at| node("/x", &[(vec![3, at, 1], vec![])]))),
        ("a key twice", Box::new(|_| node("/x", &[(vec![1, 1, 1], vec![])]))),
        (
            "children that are exchanged",
            Box::new(|at| {
                node("/x", &[(vec![2], vec![at, 1, at, 2]), (vec![3], vec![]), (vec![1], vec![])])
            }),
        ),
        (
            "the same child twice",
            Box::new(|at| node("/x", &[(vec![2], vec![at, 1, at, 1]), (vec![1], vec![])])),
        ),
        ("a deep tree without keys", deep(|_| Vec::new())),
    ]);
}

/// A name that a listing would pass is not left out in silence.
#[test]
fn a_listing_of_keys_out_of_order_fails() {
    if !can_mount() {
        return;
    }
    let publisher = Publisher::new();
    publisher.begin();
    publisher.put_all(vec![publisher.good("/a"), publisher.good("/d/b"), publisher.good("/d/c")]);
    let sound = publisher.index.head().length;
    // In the order /d/b, /a, /d/c, /x: a binary search passes /a with the directory.
    publisher.append(node("/x", &[(vec![2, 1, 3, sound], vec![])]));
    let mount = Mount::new(&publisher);
    let listed = fs::read_dir(&mount.at).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let errno = listed.as_ref().err().and_then(std::io::Error::raw_os_error);
    assert_eq!(errno, Some(libc::EIO), "{listed:?}");
    let home = Home::new();
    let arguments = ["ls", &publisher.url(""), "--wait", "2s", "--peer", &publisher.address];
    let told = watch(home.command().args(arguments));
    assert!(told.code == Some(5) || told.code == Some(1), "{told:?}");
    assert!(told.stderr.contains("not in the order of the keys"), "{told:?}");
}

/// Doubling at each level: 9^60 visits, were the same part of the tree not refused.
#[test]
fn a_tree_that_unfolds_without_end() {
    all_end(vec![
        (
            "empty leaves",
            Box::new(|at| {
                let wide = |n: u64| (vec![1, 2, 3], [at, n + 1].repeat(4));
                node("/x", &(0..60).map(wide).chain([(vec![], vec![])]).collect::<Vec<_>>())
            }),
        ),
        (
            "no keys",
            Box::new(|at| {
                let wide = |n: u64| (vec![], [at, n + 1].repeat(9));
                node("/x", &(0..60).map(wide).chain([(vec![], vec![])]).collect::<Vec<_>>())
            }),
        ),
    ]);
}

#[test]
fn first_blocks_that_begin_no_drive() {
    for (what, first) in [
        ("nothing", Vec::new()),
        ("garbage", vec![0xff; 1000]),
        ("another protocol", header("hypertrie", None)),
        ("a short key", header("hyperbee", Some(&[7; 5]))),
        ("megabytes", header("hyperbee", Some(&vec![7; 4 * MIB]))),
        ("the key of a core that no peer has", header("hyperbee", Some(&[7; 32]))),
    ] {
        let publisher = Publisher::new();
        publisher.append(first);
        publisher.append(block(&key("/x"), &file(&blob(0, 0, 1, 5)), &[(vec![1], vec![])]));
        let home = Home::new();
        for command in ["ls", "cat"] {
            let url = publisher.url(if command == "cat" { "/x" } else { "" });
            let arguments = [command, &url, "--wait", "1s", "--peer", &publisher.address];
            let told = watch(home.command().args(arguments));
            assert!(told.code.is_some() && !told.stderr.contains("panicked"), "{what}: {told:?}");
            assert!(told.peak < MOST_MEMORY, "{what}: {told:?}");
            if command == "cat" {
                assert!(told.code != Some(0) && told.stdout.is_empty(), "{what}: {told:?}");
                assert!(told.stderr.contains("error: "), "{what}: {told:?}");
            }
        }
    }
}

/// The index core is its own content core: what is read is what was signed there.
#[test]
fn a_drive_that_is_its_own_content() {
    let publisher = Publisher::new();
    publisher.append(header("hyperbee", Some(publisher.index.key().as_bytes())));
    let entry = block(&key("/x"), &file(&blob(0, 0, 1, 46)), &[(vec![1], vec![])]);
    publisher.append(entry);
    let home = Home::new();
    let url = publisher.url("/x");
    let told =
        watch(home.command().args(["cat", &url, "--wait", "2s", "--peer", &publisher.address]));
    assert!(told.code.is_some() && !told.stderr.contains("panicked"), "{told:?}");
    let first = header("hyperbee", Some(publisher.index.key().as_bytes()));
    assert!(first.starts_with(&told.stdout), "{told:?}");
}
