//! A bare passthrough filesystem, to compare with: it shows what the same requests cost through
//! FUSE alone.
//!
//! `passthrough DIR MNT` shows the local directory DIR at MNT, writable, until SIGTERM. It is
//! configured as well as a careful filesystem would be: four threads with a device descriptor
//! each, READDIRPLUS, attribute and name lifetimes of a minute, page cache kept across opens.
//! Deliberately not in it: kernel passthrough, the writeback cache, extended attributes.

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use hypermount_bench::signal::{block_termination, wait_for_termination};
use nix::dir::Dir;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{FileStat, Mode, UtimensatFlags, fstat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long the kernel may cache names and attributes. Only this process changes the directory.
const LIFETIME: Duration = Duration::from_secs(60);
const THREADS: usize = 4;
const GENERATION: Generation = Generation(0);

/// An inode the kernel knows: a descriptor that names it without having opened it.
struct Inode {
    path: Arc<OwnedFd>,
    lookups: u64,
}

struct DirectoryEntry {
    number: u64,
    kind: FileType,
    name: OsString,
}

struct Passthrough {
    inodes: RwLock<HashMap<u64, Inode>>,
    files: RwLock<HashMap<u64, Arc<File>>>,
    directories: RwLock<HashMap<u64, Arc<Vec<DirectoryEntry>>>>,
    next_handle: AtomicU64,
}

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

fn write<T>(lock: &RwLock<T>) -> std::sync::RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

impl Passthrough {
    fn new(root: &Path) -> io::Result<Passthrough> {
        let path = openat(AT_FDCWD, root, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())?;
        let root = Inode { path: Arc::new(path), lookups: 1 };
        Ok(Passthrough {
            inodes: RwLock::new(HashMap::from([(INodeNo::ROOT.0, root)])),
            files: RwLock::default(),
            directories: RwLock::default(),
            next_handle: AtomicU64::new(1),
        })
    }

    fn inode(&self, number: INodeNo) -> io::Result<Arc<OwnedFd>> {
        let inodes = read(&self.inodes);
        let inode = inodes.get(&number.0).ok_or(io::Error::from_raw_os_error(libc::ESTALE))?;
        Ok(inode.path.clone())
    }

    fn file(&self, handle: FileHandle) -> io::Result<Arc<File>> {
        let files = read(&self.files);
        files.get(&handle.0).cloned().ok_or(io::Error::from_raw_os_error(libc::EBADF))
    }

    fn add_file(&self, file: File) -> FileHandle {
        let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
        write(&self.files).insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    /// Finds a name and counts one more look-up of what it names.
    fn look_up(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<FileAttr> {
        let path = openat(parent, name, OFlag::O_PATH | OFlag::O_NOFOLLOW, Mode::empty())?;
        let attributes = attributes(&fstat(&path)?);
        let mut inodes = write(&self.inodes);
        let inode = inodes
            .entry(attributes.ino.0)
            .or_insert_with(|| Inode { path: Arc::new(path), lookups: 0 });
        inode.lookups += 1;
        Ok(attributes)
    }

    fn reopen(&self, number: INodeNo, flags: i32) -> io::Result<File> {
        let access = flags & libc::O_ACCMODE;
        OpenOptions::new()
            .read(access != libc::O_WRONLY)
            .write(access != libc::O_RDONLY)
            // The kernel resolves O_APPEND into offsets before it asks.
            .custom_flags(flags & !(libc::O_ACCMODE | libc::O_NOFOLLOW | libc::O_APPEND))
            .open(proc_path(&*self.inode(number)?))
    }

    fn list(&self, number: INodeNo) -> io::Result<Vec<DirectoryEntry>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut entries = Vec::new();
        for entry in Dir::openat(&*self.inode(number)?, ".", flags, Mode::empty())?.iter() {
            let entry = entry?;
            entries.push(DirectoryEntry {
                number: entry.ino(),
                kind: kind_of_entry(entry.file_type()),
                name: OsStr::from_bytes(entry.file_name().to_bytes()).to_owned(),
            });
        }
        Ok(entries)
    }

    fn listing(&self, handle: FileHandle) -> io::Result<Arc<Vec<DirectoryEntry>>> {
        let directories = read(&self.directories);
        directories.get(&handle.0).cloned().ok_or(io::Error::from_raw_os_error(libc::EBADF))
    }

    fn drop_lookups(&self, number: INodeNo, count: u64) {
        let mut inodes = write(&self.inodes);
        if let Some(inode) = inodes.get_mut(&number.0) {
            inode.lookups = inode.lookups.saturating_sub(count);
            if inode.lookups == 0 {
                inodes.remove(&number.0);
            }
        }
    }

    fn change(&self, number: INodeNo, change: &Change) -> io::Result<FileAttr> {
        let inode = self.inode(number)?;
        if let Some(mode) = change.mode {
            std::fs::set_permissions(proc_path(&inode), Permissions::from_mode(mode & 0o7777))?;
        }
        if change.uid.is_some() || change.gid.is_some() {
            let (uid, gid) = (change.uid.map(Uid::from_raw), change.gid.map(Gid::from_raw));
            fchownat(&*inode, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        if let Some(size) = change.size {
            OpenOptions::new().write(true).open(proc_path(&inode))?.set_len(size)?;
        }
        if change.atime.is_some() || change.mtime.is_some() {
            let (atime, mtime) = (time_spec(change.atime), time_spec(change.mtime));
            let flags = UtimensatFlags::FollowSymlink;
            utimensat(AT_FDCWD, &proc_path(&inode), &atime, &mtime, flags)?;
        }
        let mut attributes = attributes(&fstat(&*inode)?);
        attributes.ino = number;
        Ok(attributes)
    }
}

#[derive(Default)]
struct Change {
    mode: Option<u32>,
    uid: Option<u32>,
    gid: Option<u32>,
    size: Option<u64>,
    atime: Option<TimeOrNow>,
    mtime: Option<TimeOrNow>,
}

fn proc_path(inode: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", inode.as_raw_fd()))
}

fn time_spec(time: Option<TimeOrNow>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(TimeOrNow::Now) => TimeSpec::UTIME_NOW,
        Some(TimeOrNow::SpecificTime(time)) => {
            TimeSpec::from_duration(time.duration_since(UNIX_EPOCH).unwrap_or_default())
        }
    }
}

fn time(seconds: i64, nanoseconds: i64) -> SystemTime {
    let seconds = u64::try_from(seconds).unwrap_or(0);
    UNIX_EPOCH + Duration::new(seconds, u32::try_from(nanoseconds).unwrap_or(0))
}

fn kind_of_mode(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

fn kind_of_entry(kind: Option<nix::dir::Type>) -> FileType {
    match kind {
        Some(nix::dir::Type::Directory) => FileType::Directory,
        Some(nix::dir::Type::Symlink) => FileType::Symlink,
        _ => FileType::RegularFile,
    }
}

fn attributes(stat: &FileStat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.st_ino),
        size: u64::try_from(stat.st_size).unwrap_or(0),
        blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
        atime: time(stat.st_atime, stat.st_atime_nsec),
        mtime: time(stat.st_mtime, stat.st_mtime_nsec),
        ctime: time(stat.st_ctime, stat.st_ctime_nsec),
        crtime: UNIX_EPOCH,
        kind: kind_of_mode(stat.st_mode),
        perm: (stat.st_mode & 0o7777) as u16,
        nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

fn attempt<T>(operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    operation()
}

/// Sends the result of an operation: its value by `$done`, or its error.
macro_rules! answer {
    ($reply:expr, $result:expr, |$value:pat_param, $sink:ident| $done:expr) => {
        match attempt(|| $result) {
            Ok($value) => {
                let $sink = $reply;
                $done
            }
            Err(error) => $reply.error(Errno::from(error)),
        }
    };
}

impl Filesystem for Passthrough {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            // A kernel without one of them is measured without it.
            let _ = config.add_capabilities(capability);
        }
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        answer!(reply, self.look_up(&*self.inode(parent)?, name), |attributes, reply| {
            reply.entry(&LIFETIME, &attributes, GENERATION)
        })
    }

    fn forget(&self, _req: &Request, ino: INodeNo, count: u64) {
        self.drop_lookups(ino, count);
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.change(ino, &Change::default()), |attributes, reply| {
            reply.attr(&LIFETIME, &attributes)
        })
    }

    fn setattr(
        &self,
        _req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change = Change { mode, uid, gid, size, atime, mtime };
        answer!(reply, self.change(ino, &change), |attributes, reply| {
            reply.attr(&LIFETIME, &attributes)
        })
    }

    fn readlink(&self, _req: &Request, ino: INodeNo, reply: ReplyData) {
        answer!(reply, Ok(readlinkat(&*self.inode(ino)?, "")?), |target, reply| {
            reply.data(target.as_bytes())
        })
    }

    fn mkdir(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let made = || {
            let parent = self.inode(parent)?;
            mkdirat(&*parent, name, Mode::from_bits_truncate(mode & !umask))?;
            self.look_up(&parent, name)
        };
        answer!(reply, made(), |attributes, reply| {
            reply.entry(&LIFETIME, &attributes, GENERATION)
        })
    }

    fn unlink(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let flag = UnlinkatFlags::NoRemoveDir;
        answer!(reply, Ok(unlinkat(&*self.inode(parent)?, name, flag)?), |(), reply| reply.ok())
    }

    fn rmdir(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let flag = UnlinkatFlags::RemoveDir;
        answer!(reply, Ok(unlinkat(&*self.inode(parent)?, name, flag)?), |(), reply| reply.ok())
    }

    fn symlink(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let made = || {
            let parent = self.inode(parent)?;
            symlinkat(target, &*parent, name)?;
            self.look_up(&parent, name)
        };
        answer!(reply, made(), |attributes, reply| {
            reply.entry(&LIFETIME, &attributes, GENERATION)
        })
    }

    fn rename(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        if !flags.is_empty() {
            return reply.error(Errno::EINVAL);
        }
        let rename = || {
            let (from, to) = (self.inode(parent)?, self.inode(new_parent)?);
            Ok(renameat(&*from, name, &*to, new_name)?)
        };
        answer!(reply, rename(), |(), reply| reply.ok())
    }

    fn link(
        &self,
        _req: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let made = || {
            let (inode, parent) = (self.inode(ino)?, self.inode(new_parent)?);
            let from = proc_path(&inode);
            linkat(AT_FDCWD, &from, &*parent, new_name, AtFlags::AT_SYMLINK_FOLLOW)?;
            self.look_up(&parent, new_name)
        };
        answer!(reply, made(), |attributes, reply| {
            reply.entry(&LIFETIME, &attributes, GENERATION)
        })
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.reopen(ino, flags.0), |file, reply| {
            reply.opened(self.add_file(file), FopenFlags::FOPEN_KEEP_CACHE)
        })
    }

    fn create(
        &self,
        _req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let made = || {
            let parent = self.inode(parent)?;
            let flags = OFlag::from_bits_truncate(flags & !libc::O_APPEND)
                | OFlag::O_CREAT
                | OFlag::O_NOFOLLOW
                | OFlag::O_CLOEXEC;
            let file = openat(&*parent, name, flags, Mode::from_bits_truncate(mode & !umask))?;
            Ok((self.look_up(&parent, name)?, File::from(file)))
        };
        answer!(reply, made(), |(attributes, file), reply| {
            let handle = self.add_file(file);
            reply.created(&LIFETIME, &attributes, GENERATION, handle, FopenFlags::FOPEN_KEEP_CACHE)
        })
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        BUFFER.with_borrow_mut(|buffer| {
            let size = size as usize;
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let filled =
                self.file(fh).and_then(|file| read_up_to(&file, &mut buffer[..size], offset));
            match filled {
                Ok(filled) => reply.data(&buffer[..filled]),
                Err(error) => reply.error(Errno::from(error)),
            }
        });
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        answer!(reply, self.file(fh)?.write_all_at(data, offset), |(), reply| {
            reply.written(data.len() as u32)
        })
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        write(&self.files).remove(&fh.0);
        reply.ok();
    }

    fn fsync(&self, _req: &Request, _ino: INodeNo, fh: FileHandle, data: bool, reply: ReplyEmpty) {
        let synced = || {
            let file = self.file(fh)?;
            if data { file.sync_data() } else { file.sync_all() }
        };
        answer!(reply, synced(), |(), reply| reply.ok())
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        answer!(reply, self.list(ino), |entries, reply| {
            let handle = self.next_handle.fetch_add(1, Ordering::Relaxed);
            write(&self.directories).insert(handle, Arc::new(entries));
            let flags = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
            reply.opened(FileHandle(handle), flags)
        })
    }

    fn readdir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        answer!(reply, self.listing(fh), |entries, reply| {
            let mut reply = reply;
            for (position, entry) in (1..).zip(entries.iter()).skip(offset as usize) {
                if reply.add(INodeNo(entry.number), position, entry.kind, &entry.name) {
                    break;
                }
            }
            reply.ok()
        })
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        answer!(reply, Ok((self.inode(ino)?, self.listing(fh)?)), |(parent, entries), reply| {
            let mut reply = reply;
            for (position, entry) in (1..).zip(entries.iter()).skip(offset as usize) {
                // A name that went away meanwhile is left out; the kernel counts no look-up of
                // the dots, so their attributes are all they need.
                let dots = entry.name == "." || entry.name == "..";
                let found = if dots {
                    let kind = FileType::Directory;
                    fstat(&*parent).map_err(io::Error::from).map(|stat| FileAttr {
                        ino: INodeNo(entry.number),
                        kind,
                        ..attributes(&stat)
                    })
                } else {
                    self.look_up(&parent, &entry.name)
                };
                let Ok(attributes) = found else { continue };
                if reply.add(
                    attributes.ino,
                    position,
                    &entry.name,
                    &LIFETIME,
                    &attributes,
                    GENERATION,
                ) {
                    if !dots {
                        self.drop_lookups(attributes.ino, 1);
                    }
                    break;
                }
            }
            reply.ok()
        })
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        write(&self.directories).remove(&fh.0);
        reply.ok();
    }

    fn statfs(&self, _req: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let stat = || Ok(nix::sys::statvfs::fstatvfs(&*self.inode(ino)?)?);
        answer!(reply, stat(), |stat, reply| {
            reply.statfs(
                stat.blocks(),
                stat.blocks_free(),
                stat.blocks_available(),
                stat.files(),
                stat.files_free(),
                stat.block_size() as u32,
                stat.name_max() as u32,
                stat.fragment_size() as u32,
            )
        })
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn main() -> io::Result<()> {
    let operands: Vec<PathBuf> = std::env::args_os().skip(1).map(PathBuf::from).collect();
    let [directory, mountpoint] = operands.as_slice() else {
        eprintln!("usage: passthrough DIR MNT");
        std::process::exit(2);
    };
    // One descriptor per inode that the kernel knows: the usual limit of 1,024 is less than one
    // listing needs.
    let (_, limit) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, limit, limit)?;
    let signals = block_termination()?;
    let mut config = Config::default();
    config.n_threads = Some(THREADS);
    config.clone_fd = true;
    config.mount_options =
        vec![MountOption::FSName("passthrough".into()), MountOption::DefaultPermissions];
    let session = fuser::spawn_mount(Passthrough::new(directory)?, mountpoint, &config)?;
    println!("mounted");
    wait_for_termination(&signals)?;
    session.umount_and_join()
}
