//! Ordinary, unmodified programs on a mount of a writable drive.

use std::process::Command;

use crate::common::living::shell;
use crate::own::{FORMATS, Own, can_mount, has_reference, tree};

/// Whether the programs are installed; prints a message if not.
pub fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        !found.is_ok_and(|output| output.status.success())
    });
    if let Some(missing) = missing {
        eprintln!("SKIPPED: {missing} is not installed (scripts/prepare installs it)");
    }
    missing.is_none() && can_mount()
}

/// Runs a script in the mount, and repeats its function `check` after a remount.
pub fn run(format: &str, script: &str) -> Own {
    let mut own = Own::in_format(format);
    let at = own.root().display().to_string();
    let beside = own.beside("beside").display().to_string();
    let prelude = format!("export HOME='{beside}' B='{beside}'; mkdir -p $B; cd '{at}'\n");
    shell(&format!("{prelude}{script}\ncheck\n"));
    own.remount();
    let checking = script.find("check()").map_or("check() { :; }", |start| &script[start..]);
    let end = checking.find("\n}\n").map_or(checking.len(), |end| end + 3);
    shell(&format!("{prelude}{}\ncheck\n", &checking[..end]));
    own
}

#[test]
fn git() {
    for format in FORMATS {
        if !have(&["git"]) {
            return;
        }
        let mut own = run(
            format,
            "check() {
git -C clone fsck --strict && git -C clone log --oneline | grep -c . | grep -qx 4
test -z \"$(git -C clone status --porcelain)\"
}
git config --global user.email a@example.org; git config --global user.name a
git config --global init.defaultBranch main
git init -q origin; cd origin
for n in 1 2 3; do for f in $(seq 30); do echo $n $f > f$f; done; git add .; git commit -qm $n; done
git gc -q; cd ..
git clone -q origin clone; cd clone
git checkout -qb other; git mv f1 moved; ln -s moved link; git add .; git commit -qm 4
git checkout -q main; test -e f1; git checkout -q other; test ! -e f1; git gc -q; cd ..",
        );
        if has_reference() {
            let ours = own.told_to_others(tree(&own.root(), false));
            own.unmount();
            assert_eq!(own.read_by_reference(), ours);
        }
    }
}

#[test]
fn sqlite() {
    for format in FORMATS {
        if !have(&["sqlite3"]) {
            return;
        }
        run(
            format,
            "check() {
for mode in delete wal; do
sqlite3 $mode.db 'pragma integrity_check' | grep -qx ok
sqlite3 $mode.db 'select count(*), sum(length(b)) from t' | grep -qx '350|70000'
done
}
for mode in delete wal; do
sqlite3 $mode.db \"pragma journal_mode=$mode; create table t(a integer primary key, b text);\"
for n in $(seq 7); do
sqlite3 $mode.db \"with recursive c(x) as (select 1 union all select x+1 from c where x<50)
 insert into t(b) select printf('%0200d', x) from c;\"
done
sqlite3 $mode.db 'begin; delete from t; rollback;'
done",
        );
    }
}

#[test]
fn archives_and_copies() {
    for format in FORMATS {
        if !have(&["tar", "rsync", "python3"]) {
            return;
        }
        run(format, "check() {
diff -r $B/tree untarred && diff -r $B/tree synced
test -z \"$(rsync -aXi $B/tree/ synced/)\"
cmp $B/sparse sparse
}
mkdir -p $B/tree/sub/empty; python3 -c '
import os, random
random.seed(1)
for n in range(200):
    open(os.environ[\"B\"] + f\"/tree/sub/{n}\", \"wb\").write(random.randbytes(n * 321))
'
chmod 640 $B/tree/sub/1; ln -s ../sub/2 $B/tree/sub/link; touch -d 2001-02-03T04:05:06.789 $B/tree/sub/3
setfattr -n user.test -v value $B/tree/sub/4 2>/dev/null || true
mkdir untarred; tar cf - -C $B/tree . | tar xf - -C untarred
rsync -aX $B/tree/ synced/
truncate -s 3M $B/sparse; echo data >> $B/sparse; cp --sparse=always $B/sparse sparse");
    }
}

#[test]
fn editors_and_compilers() {
    for format in FORMATS {
        if !have(&["sed", "cc", "make", "vim"]) {
            return;
        }
        run(format, "check() {
./program | grep -qx 42
grep -qx 'new line' edited
}
printf 'old line\\n' > edited; sed -i s/old/new/ edited
chmod 640 edited; ln -s edited link
for how in yes no auto; do
vim -es -u NONE -c \"set backup backupskip= backupcopy=$how\" -c '%s/new/vim/' -c wq edited
grep -qx 'vim line' edited; grep -qx 'new line' edited~
vim -es -u NONE -c '%s/vim/vimmed/' -c wq link; test -L link; grep -qx 'vimmed line' edited; stat -c %a edited | grep -qx 640
sed -i s/vimmed/new/ edited
done
echo 'int answer(void) { return 42; }' > answer.c
printf '#include <stdio.h>\\nint answer(void);\\nint main(void) { printf(\"%%d\\\\n\", answer()); }\\n' > main.c
printf 'program: main.o answer.o\\n\\tcc -o $@ $^\\n' > Makefile
make -s; make -s -q");
    }
}

#[test]
fn zip_archives() {
    for format in FORMATS {
        if !have(&["zip", "unzip", "python3"]) {
            return;
        }
        run(format, "check() {
unzip -qt archive.zip; diff -r $B/tree unzipped
test $(stat -c %a unzipped/sub/3) = 600
}
mkdir -p $B/tree/sub/empty; python3 -c '
import os, random
random.seed(2)
for n in range(100):
    open(os.environ[\"B\"] + f\"/tree/sub/{n}\", \"wb\").write(random.randbytes(n * 999))
'
chmod 600 $B/tree/sub/3; ln -s sub/3 $B/tree/link
(cd $B/tree; zip -qry - .) > archive.zip; (cd $B/tree; zip -qry $OLDPWD/second.zip .)
mkdir unzipped; unzip -q second.zip -d unzipped
echo more > $B/tree/added; (cd $B/tree; zip -q $OLDPWD/archive.zip added); cp $B/tree/added unzipped/");
    }
}

/// The history of this project if it is available, otherwise a generated one.
#[test]
fn git_clones_a_real_repository() {
    if !have(&["git"]) {
        return;
    }
    let here = env!("CARGO_MANIFEST_DIR");
    let found = Command::new("git").args(["-C", here, "rev-parse", "HEAD"]).output();
    if !found.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: these sources are in no git repository");
        return;
    }
    run(
        "10",
        &format!(
            "check() {{
git -C clone fsck --full --strict
test -z \"$(git -C clone status --porcelain)\"
diff -r --exclude=.git clone $B/plain
test $(git -C clone rev-list --count HEAD) = $(git -C $B/plain rev-list --count HEAD)
}}
git config --global --add safe.directory '*'
git clone -q --no-local '{here}' clone; git clone -q --no-local '{here}' $B/plain
git -C clone repack -adfq; git -C clone checkout -q --detach HEAD^; git -C clone checkout -q -"
        ),
    );
}

#[test]
fn the_tests_of_python() {
    if !have(&["python3"]) {
        return;
    }
    let there = Command::new("python3").args(["-c", "import test.test_os"]).output();
    if !there.is_ok_and(|output| output.status.success()) {
        eprintln!("SKIPPED: python3 comes without its tests");
        return;
    }
    for format in FORMATS {
        run(
            format,
            "check() {
grep -q 'Result: SUCCESS' $B/out; rm -rf tmp
}
mkdir tmp; TMPDIR=$PWD/tmp python3 -m test --tempdir $PWD/tmp \
test_os test_shutil test_mmap test_fileio > $B/out 2>&1 || \
{ tail -50 $B/out >&2; false; }",
        );
    }
}

/// Random and sequential writes, mapped and not, synced and not: each block is read back with a
/// checksum, and again after a remount.
#[test]
fn fio_verifies() {
    if !have(&["fio"]) {
        return;
    }
    run(
        "10",
        "check() {
OPTIONS='--size=8m --verify=crc32c --verify_fatal=1 --randseed=7 --allrandrepeat=1'
for engine in psync mmap; do
fio $OPTIONS --name=$engine --ioengine=$engine --rw=randwrite --bs=4k-64k --verify_only >> $B/out
done
}
OPTIONS='--size=8m --verify=crc32c --verify_fatal=1 --randseed=7 --allrandrepeat=1'
for engine in psync mmap; do
fio $OPTIONS --name=$engine --ioengine=$engine --rw=randwrite --bs=4k-64k > $B/out
done
fio $OPTIONS --name=sync --rw=write --bs=128k --fsync=16 --numjobs=2 > $B/out
fio $OPTIONS --name=direct --rw=randwrite --bs=8k --direct=1 > $B/out",
    );
}

/// Short, and only with stressors of features that a drive stores. Not `getdent`: it reads the temporary directory of the
/// system, and with that keeps the mounts of other tests busy.
#[test]
fn stress_ng_verifies() {
    if !have(&["stress-ng"]) {
        return;
    }
    run(
        "10",
        "check() {
rm -rf tmp
}
mkdir tmp; stress-ng --temp-path $PWD/tmp --verify --no-rand-seed --timeout 2 \
--dir 1 --dirdeep 1 --filename 1 --flock 1 --fallocate 1 --fallocate-bytes 1m --rename 1 \
--seek 1 --seek-size 1m --hdd 1 --hdd-bytes 4m --symlink 1 --chmod 1 --fstat 1 \
--lockf 1 --locka 1 --utime 1 --sync-file 1 \
--sync-file-bytes 1m --xattr 1 --touch 1 --mmap 1 --mmap-bytes 1m --mmap-file > $B/out 2>&1 || \
{ cat $B/out >&2; false; }",
    );
}
