//! Ordinary programs, as they are, on a mount of one's own drive.

use std::process::Command;

use crate::common::living::shell;
use crate::own::{Own, can_mount, has_reference, tree};

/// Whether the programs are installed; told if not.
fn have(programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output();
        !found.is_ok_and(|output| output.status.success())
    });
    if let Some(missing) = missing {
        eprintln!("SKIPPED: {missing} is not installed (scripts/prepare installs it)");
    }
    missing.is_none() && can_mount()
}

/// Runs a script in the mount, and once more after a remount what it defines as `check`.
fn run(script: &str) -> Own {
    let mut own = Own::new();
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
    if !have(&["git"]) {
        return;
    }
    let mut own = run("check() {
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
git checkout -q main; test -e f1; git checkout -q other; test ! -e f1; git gc -q; cd ..");
    if has_reference() {
        let ours = tree(&own.root(), false);
        own.unmount();
        assert_eq!(own.read_by_reference(), ours);
    }
}

#[test]
fn sqlite() {
    if !have(&["sqlite3"]) {
        return;
    }
    run("check() {
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
done");
}

#[test]
fn archives_and_copies() {
    if !have(&["tar", "rsync", "python3"]) {
        return;
    }
    run("check() {
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

#[test]
fn editors_and_compilers() {
    if !have(&["sed", "cc", "make"]) {
        return;
    }
    run("check() {
./program | grep -qx 42
grep -qx 'new line' edited
}
printf 'old line\\n' > edited; sed -i s/old/new/ edited
if command -v vim >/dev/null; then vim -es -u NONE -c '%s/new/vim/' -c wq edited; grep -qx 'vim line' edited; sed -i s/vim/new/ edited; fi
echo 'int answer(void) { return 42; }' > answer.c
printf '#include <stdio.h>\\nint answer(void);\\nint main(void) { printf(\"%%d\\\\n\", answer()); }\\n' > main.c
printf 'program: main.o answer.o\\n\\tcc -o $@ $^\\n' > Makefile
make -s; make -s -q");
}
