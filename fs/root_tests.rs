//! Which drives are open in a mount of all drives, without a kernel.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::testing::{OPTIONS, runtime};

/// Drives in memory: one with a name, and as many by key as requested.
struct Shelf {
    store: Store,
    opened: AtomicUsize,
    left: Mutex<Vec<PublicKey>>,
}

impl Drives for Shelf {
    fn names(&self) -> DriveFuture<'_, Vec<String>> {
        Box::pin(async { Ok(vec!["mine".to_owned(), "a/b".to_owned(), NETWORK.to_owned()]) })
    }

    fn named<'a>(&'a self, name: &'a str) -> DriveFuture<'a, Option<(Drive, bool)>> {
        Box::pin(async move {
            let known = name == "mine";
            known.then(|| Ok((Drive::create(&self.store, name)?, false))).transpose()
        })
    }

    fn by_key<'a>(&'a self, url: &'a DriveUrl, _wait: Wait) -> DriveFuture<'a, Drive> {
        Box::pin(async move {
            self.opened.fetch_add(1, Ordering::SeqCst);
            let own = self.store.keys()?.contains(&url.key);
            match own {
                true => Drive::open(&self.store, &url.key, url.version, Wait::Local).await,
                false => Err(hypermount_drive::Error::NotFound),
            }
        })
    }

    fn left(&self, key: &PublicKey) {
        self.left.lock().push(*key);
    }
}

struct Bench {
    shelf: Arc<Shelf>,
    root: Arc<Root>,
    keys: Vec<PublicKey>,
}

/// Makes `count` drives that only have keys. Call this in a runtime.
fn bench(count: usize, by_key: usize) -> Bench {
    let store = Store::memory();
    let keys = (0..count).map(|n| {
        let drive = Drive::create(&store, &format!("drive {n}")).expect("a drive is made");
        *drive.key()
    });
    let keys = keys.collect();
    let shelf = Arc::new(Shelf {
        store: store.clone(),
        opened: AtomicUsize::new(0),
        left: Mutex::default(),
    });
    let limits = RootLimits { by_key, idle: Duration::from_secs(3600) };
    let (at, runtime) = (Path::new("/nowhere"), Handle::current());
    let root = Root::new(shelf.clone(), store, at, OPTIONS, limits, runtime);
    Bench { shelf, root, keys }
}

impl Bench {
    async fn look(&self, parent: u64, name: &str) -> Result<Option<u64>> {
        match self.root.lookup(parent, OsStr::new(name)).await? {
            Looked::Found { ino, .. } => Ok(Some(ino)),
            Looked::Absent { .. } => Ok(None),
        }
    }

    async fn look_up_key(&self, n: usize) -> Result<Option<u64>> {
        self.look(NETWORK_NUMBER, &self.keys[n].to_hex()).await
    }
}

#[test]
fn names_lead_to_drives_and_invalid_keys_to_nothing() {
    runtime().block_on(async {
        let bench = bench(1, 4);
        let mine = bench.look(ROOT, "mine").await.expect("looked up").expect("it is there");
        assert!(!Root::owns(mine));
        assert_eq!(bench.look(ROOT, "mine").await.expect("looked up"), Some(mine), "one number");
        assert_eq!(bench.root.drive_of(mine).expect("a drive").prefix(), "mine");
        assert_eq!(bench.look(ROOT, "other").await.expect("looked up"), None);
        assert_eq!(bench.look(ROOT, NETWORK).await.expect("looked up"), Some(NETWORK_NUMBER));
        for name in ["", ".", "abc", "a/b", &"g".repeat(64), &"0".repeat(63)] {
            assert_eq!(bench.look(NETWORK_NUMBER, name).await.expect("looked up"), None, "{name}");
        }
        assert_eq!(bench.shelf.opened.load(Ordering::SeqCst), 0, "no drive was looked for");
    });
}

#[test]
fn the_directories_above_the_drives_cannot_be_changed() {
    runtime().block_on(async {
        let bench = bench(0, 4);
        assert!(matches!(bench.root.drive_of(ROOT), Err(Error::NotPermitted(_))));
        assert!(matches!(bench.root.drive_of(NETWORK_NUMBER), Err(Error::ReadOnly)));
        assert!(matches!(bench.root.getattr(NETWORK_NUMBER + 1), Err(Error::Stale)));
    });
}

#[test]
fn listings_hold_usable_names_and_the_keys_that_are_open() {
    runtime().block_on(async {
        let bench = bench(2, 4);
        let list = async |ino| {
            let handle = bench.root.opendir(ino).await.expect("opened");
            let mut names = Vec::new();
            bench.root.readdir(handle).expect("a listing").fill(2, |listed| {
                names.push(listed.name.to_owned());
                false
            });
            bench.root.releasedir(handle).expect("closed");
            names
        };
        assert_eq!(list(ROOT).await, ["mine", NETWORK]);
        assert_eq!(list(NETWORK_NUMBER).await, Vec::<String>::new());
        bench.look_up_key(1).await.expect("looked up").expect("it is there");
        assert_eq!(list(NETWORK_NUMBER).await, [bench.keys[1].to_hex()]);
    });
}

#[test]
fn a_drive_beyond_the_limit_takes_the_place_of_an_unused_one() {
    runtime().block_on(async {
        let bench = bench(4, 2);
        let mut inodes = Vec::new();
        for n in 0..2 {
            inodes.push(bench.look_up_key(n).await.expect("looked up").expect("it is there"));
        }
        let refused = bench.look_up_key(2).await;
        assert!(matches!(refused, Err(Error::TooManyDrives { limit: 2 })), "{refused:?}");
        // The kernel forgets the first one, which frees its place.
        bench.root.forget(inodes[0], 1);
        bench.look_up_key(2).await.expect("looked up").expect("it is there");
        assert_eq!(*bench.shelf.left.lock(), [bench.keys[0]]);
        assert!(matches!(bench.root.drive_of(inodes[0]), Err(Error::Stale)));
        assert!(bench.root.drive_of(inodes[1]).is_ok());
    });
}

#[test]
fn a_failed_lookup_of_a_key_frees_its_place() {
    runtime().block_on(async {
        let bench = bench(1, 1);
        let unknown = PublicKey::new([9; 32]);
        for _ in 0..3 {
            assert!(bench.look(NETWORK_NUMBER, &unknown.to_hex()).await.is_err());
        }
        assert_eq!(*bench.shelf.left.lock(), [unknown; 3]);
        bench.look_up_key(0).await.expect("there is room").expect("it is there");
    });
}
