//! Files with several names (hard links) on a mount: inode and count under all names, for every change; as readers of
//! the drive see them; and with the programs that make them.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, RenameFlags, XattrFlags};

use crate::common::living::{Mounted, eventually};
use crate::own::{FORMATS, Own, alone, can_mount, has_reference, tree};
use crate::programs::{have, run};

fn code<T>(result: std::io::Result<T>) -> i32 {
    result.err().map_or(0, |error| error.raw_os_error().unwrap_or(-1))
}

/// Asserts that the names are all the names of one file, with this content.
fn one_file(root: &Path, names: &[&str], content: &[u8]) {
    let stat = |name: &str| fs::symlink_metadata(root.join(name)).expect("exists");
    let first = stat(names[0]);
    for name in names {
        let this = stat(name);
        let seen = (this.ino(), this.nlink(), this.mode(), this.mtime(), this.ctime());
        let expected =
            (first.ino(), names.len() as u64, first.mode(), first.mtime(), first.ctime());
        assert_eq!(seen, expected, "{name} of {names:?}");
        assert_eq!(fs::read(root.join(name)).expect("reads"), content, "{name}");
    }
}

fn write_at(path: &Path, offset: u64, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("opens");
    file.write_all_at(bytes, offset).expect("writes");
}

/// Sentence 142. "A file, link, fifo or socket may have several names in a drive (hard links). They share one inode, a
/// change under one of them is seen under all at once, and it is one version of the drive."
///
/// Sentence 143. "Inode number and link count are the same under all names, after a remount and in every mount of the
/// drive."
#[test]
fn all_names_are_one_file_whatever_is_done_to_one() {
    for format in FORMATS {
        if !alone("links::all_names_are_one_file_whatever_is_done_to_one") || !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let root = own.root();
        let at = |name: &str| root.join(name);
        fs::create_dir_all(at("d/e")).expect("makes");
        fs::write(at("a"), b"one").expect("writes");
        fs::hard_link(at("a"), at("d/b")).expect("links");
        fs::hard_link(at("d/b"), at("d/e/c")).expect("links");
        one_file(&root, &["a", "d/b", "d/e/c"], b"one");

        let before = own.version();
        write_at(&at("d/b"), 0, b"two");
        assert!(own.version() > before);
        one_file(&root, &["a", "d/b", "d/e/c"], b"two");
        fs::set_permissions(at("a"), fs::Permissions::from_mode(0o640)).expect("permits");
        rustix::fs::setxattr(at("d/e/c"), "user.x", b"y", XattrFlags::empty()).expect("sets");
        let mut value = [0; 8];
        assert_eq!(rustix::fs::getxattr(at("a"), "user.x", &mut value).expect("gets"), 1);
        own.remount();
        one_file(&root, &["d/e/c", "a", "d/b"], b"two");
        assert_eq!(fs::metadata(at("d/b")).expect("exists").mode() & 0o777, 0o640);

        // Names come and go while the file is open.
        let mut open = OpenOptions::new().read(true).write(true).open(at("a")).expect("opens");
        fs::remove_file(at("a")).expect("removes");
        one_file(&root, &["d/b", "d/e/c"], b"two");
        open.write_all(b"three").expect("writes");
        one_file(&root, &["d/b", "d/e/c"], b"three");
        fs::rename(at("d"), at("moved")).expect("renames");
        fs::hard_link(at("moved/b"), at("out")).expect("links");
        fs::remove_file(at("moved/b")).expect("removes");
        open.rewind().expect("seeks");
        open.write_all(b"seven").expect("writes");
        open.sync_all().expect("syncs");
        drop(open);
        one_file(&root, &["moved/e/c", "out"], b"seven");
        own.remount();
        one_file(&root, &["out", "moved/e/c"], b"seven");
        fs::rename(at("moved/e"), at("e")).expect("renames");
        own.kill();
        one_file(&root, &["out", "e/c"], b"seven");

        // Onto another name of it nothing happens; onto another file that loses a name.
        fs::rename(at("out"), at("e/c")).expect("does nothing");
        one_file(&root, &["out", "e/c"], b"seven");
        fs::write(at("x"), b"x").expect("writes");
        fs::hard_link(at("x"), at("x2")).expect("links");
        let exchanged =
            rustix::fs::renameat_with(CWD, at("x"), CWD, at("out"), RenameFlags::EXCHANGE);
        exchanged.expect("exchanges");
        one_file(&root, &["x", "e/c"], b"seven");
        one_file(&root, &["out", "x2"], b"x");
        let mut kept = fs::File::open(at("x2")).expect("opens");
        fs::rename(at("x"), at("x2")).expect("replaces");
        one_file(&root, &["x2", "e/c"], b"seven");
        one_file(&root, &["out"], b"x");
        assert_eq!(kept.metadata().expect("stats").nlink(), 1);
        let mut text = String::new();
        kept.read_to_string(&mut text).expect("reads");
        assert_eq!(text, "x");
        drop(kept);
        own.remount();
        one_file(&root, &["x2", "e/c"], b"seven");
        one_file(&root, &["out"], b"x");

        // The last name goes while the file is open.
        let open = fs::File::open(at("e/c")).expect("opens");
        fs::remove_file(at("x2")).expect("removes");
        one_file(&root, &["e/c"], b"seven");
        fs::remove_dir_all(at("e")).expect("removes");
        assert_eq!(open.metadata().expect("stats").nlink(), 0);
        drop(open);
        if has_reference() {
            let ours = own.told_to_others(tree(&root, false));
            own.unmount();
            assert_eq!(own.read_by_reference(), ours);
        }
    }
}

/// Sentence 144. "link(2) of a directory fails with EPERM."
#[test]
fn what_else_has_names_and_what_has_not() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        let root = own.root();
        let at = |name: &str| root.join(name);
        fs::create_dir(at("directory")).expect("makes");
        assert_eq!(code(fs::hard_link(at("directory"), at("other"))), libc::EPERM);
        assert_eq!(code(fs::hard_link(at("missing"), at("other"))), libc::ENOENT);
        symlink("target", at("link")).expect("links");
        nix::unistd::mkfifo(&at("fifo"), nix::sys::stat::Mode::S_IRUSR).expect("makes");
        fs::write(at("file"), b"content").expect("writes");
        for name in ["link", "fifo", "file"] {
            let other = format!("directory/{name}");
            rustix::fs::linkat(CWD, at(name), CWD, at(&other), AtFlags::empty()).expect("links");
        }
        assert_eq!(code(fs::hard_link(at("file"), at("directory/file"))), libc::EEXIST);
        let check = || {
            for name in ["link", "fifo", "file"] {
                let stats = [name.to_owned(), format!("directory/{name}")]
                    .map(|name| fs::symlink_metadata(at(&name)).expect("exists"));
                assert_eq!(stats[0].ino(), stats[1].ino(), "{name}");
                assert_eq!((stats[0].nlink(), stats[1].nlink()), (2, 2), "{name}");
                assert_eq!(stats[0].mode(), stats[1].mode(), "{name}");
            }
            assert_eq!(fs::read_link(at("directory/link")).expect("reads"), Path::new("target"));
        };
        check();
        own.remount();
        check();
        // A file that is open and was never closed gets a name too.
        let mut new = fs::File::create(at("new")).expect("makes");
        new.write_all(b"begun").expect("writes");
        fs::hard_link(at("new"), at("newer")).expect("links");
        new.write_all(b" and done").expect("writes");
        one_file(&root, &["new", "newer"], b"begun and done");
        drop(new);
        own.kill();
        one_file(&root, &["newer", "new"], b"begun and done");
    }
}

/// Sentence 143. "Inode number and link count are the same under all names, after a remount and in every mount of the
/// drive."
#[test]
fn a_mount_by_the_key_shows_them_as_they_change() {
    for format in FORMATS {
        if !can_mount() {
            return;
        }
        let mut own = Own::in_format(format);
        own.unmount();
        let address = own.mount_listening();
        let root = own.root();
        fs::create_dir(root.join("d")).expect("makes");
        fs::write(root.join("a"), b"one").expect("writes");
        fs::hard_link(root.join("a"), root.join("d/b")).expect("links");
        let store = own.beside("other store").display().to_string();
        let reader =
            Mounted::new(&own.url, &own.beside("other"), &["--store", &store, "--peer", &address]);
        let seen = |names: &[&str], content: &[u8]| {
            eventually("the change arrives", || {
                let all = names.iter().all(|name| {
                    let path = reader.at.join(name);
                    fs::read(&path).is_ok_and(|read| read == content)
                        && fs::metadata(&path).is_ok_and(|it| it.nlink() == names.len() as u64)
                });
                all.then_some(())
            });
            one_file(&reader.at, names, content);
        };
        seen(&["a", "d/b"], b"one");
        write_at(&root.join("d/b"), 0, b"two");
        seen(&["a", "d/b"], b"two");
        fs::hard_link(root.join("a"), root.join("d/c")).expect("links");
        seen(&["a", "d/b", "d/c"], b"two");
        fs::rename(root.join("d"), root.join("e")).expect("renames");
        seen(&["a", "e/b", "e/c"], b"two");
        fs::remove_file(root.join("a")).expect("removes");
        seen(&["e/b", "e/c"], b"two");
        fs::set_permissions(root.join("e/c"), fs::Permissions::from_mode(0o600)).expect("permits");
        eventually("the mode arrives", || {
            fs::metadata(reader.at.join("e/b")).ok().filter(|it| it.mode() & 0o777 == 0o600)
        });
        // A mount that looks the file up for the first time gives it the number that every other such mount gives.
        let ino = |root: &Path, name: &str| fs::metadata(root.join(name)).expect("exists").ino();
        let numbers = |mounted: Mounted| [ino(&mounted.at, "e/b"), ino(&mounted.at, "e/c")];
        drop(reader);
        let options = ["--store", store.as_str(), "--peer", address.as_str()];
        let read = numbers(Mounted::new(&own.url, &own.beside("other"), &options));
        own.remount();
        assert_eq!(read, [ino(&root, "e/c"), ino(&root, "e/b")]);
        fs::remove_file(root.join("e/b")).expect("removes");
        one_file(&root, &["e/c"], b"two");
    }
}

/// Sentence 146. "`cp -al`, `rsync -H`, `tar` and `git clone --local` keep and make hard links on a mount."
///
/// Sentence 147. "Other programs see the names as files of equal content that share their blocks."
#[test]
fn programs_that_make_hard_links() {
    for format in FORMATS {
        if !have(&["git", "rsync", "tar", "cp"]) {
            return;
        }
        let mut own = run(
            format,
            "check() {
names() { stat -c %h \"$1\"; }
same() { test $(stat -c %i \"$1\") = $(stat -c %i \"$2\"); }
same tree/a copied/a; same tree/sub/b copied/sub/b; test $(names copied/a) = 4
diff -r tree copied
same synced/a synced/sub/b; test $(names synced/a) = 2; diff -r tree synced
test -z \"$(rsync -aHi tree/ synced/)\"
test -z \"$(rsync -aHi $B/tree/ synced/)\"
same untarred/a untarred/sub/b; test $(names untarred/a) = 2; diff -r tree untarred
git -C clone fsck --strict
test -z \"$(git -C clone status --porcelain)\"
object=$(cd origin/.git/objects && ls -d ??/* | head -1)
same origin/.git/objects/$object clone/.git/objects/$object
test $(names clone/.git/objects/$object) = 2
same store/1 modules/x/1; test $(names store/300) = 3
}
mkdir -p $B/tree/sub; echo content > $B/tree/a; ln $B/tree/a $B/tree/sub/b; echo other > $B/tree/c
rsync -aH $B/tree/ tree/; cp -al tree copied; rsync -aH tree/ synced/
mkdir untarred; tar cf - -C $B/tree . | tar xf - -C untarred
git config --global user.email a@example.org; git config --global user.name a
git config --global init.defaultBranch main
git init -q origin; cd origin; for f in $(seq 20); do echo $f > f$f; done; git add .; git commit -qm 1; cd ..
git clone -q --local origin clone
mkdir -p store modules/x modules/y; for n in $(seq 300); do echo $n > store/$n; done
cp -l store/* modules/x/; cp -l store/* modules/y/",
        );
        if has_reference() {
            let ours = own.told_to_others(tree(&own.root(), false));
            own.unmount();
            assert_eq!(own.read_by_reference(), ours);
        }
    }
}
