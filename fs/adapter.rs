//! FUSE requests to operations of [`Fs`] and back: unpack, run through [`Server`], pack.

use std::ffi::OsStr;
use std::io;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};
use hypermount_drive::{Time, unescape, unescape_path};
use smallvec::SmallVec;

use crate::errno::{Result, errno};
use crate::filesystem::Looked;
use crate::metadata::AttributeChanges;
use crate::namespace::Rename;
use crate::platform::Caller;
use crate::serve::{Request, Server};
use crate::shown::Shown;
use crate::xattr::XattrAnswer;

/// Largest request in bytes. The kernel sends reads of at most this size too.
const MAX_REQUEST_BYTES: u32 = 1024 * 1024;
/// Bytes that the kernel reads ahead in a read-only mount, where a peer may have to send each of
/// them. One block of most drives; the kernel's own 128 KiB cost two after each seek. How far to
/// read ahead over distance is decided per open file, in `handle`.
const REMOTE_READAHEAD_BYTES: u32 = 64 * 1024;
/// Requests that the kernel may have in flight in the background; all reads through its page cache
/// are. Each may be parked until a peer answers, and when the limit is reached the kernel sends no
/// further request of any kind. So this is the largest value that the protocol allows; the kernel
/// lowers it for a mount that root did not make.
const MAX_BACKGROUND: u16 = u16::MAX;
/// An inode number and a generation together must be unique. Numbers are unique, so one generation
/// suffices.
const GENERATION: Generation = Generation(0);
/// Unit of the numbers in statfs, in bytes.
const STATFS_UNIT_BYTES: u32 = 4096;

const CAPABILITIES: [InitFlags; 9] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_MAX_PAGES,
    // There are no ACLs. Only with this flag does the kernel remember that; without it, `ls -l`
    // asks for each file.
    InitFlags::FUSE_POSIX_ACL,
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    // Without it, the kernel asks for security.capability before each write.
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
];

pub(crate) struct Adapter {
    shown: Shown,
    writable: bool,
    server: Arc<Server>,
}

impl Adapter {
    pub(crate) fn new(shown: Shown, writable: bool, server: Arc<Server>) -> Self {
        Self { shown, writable, server }
    }
}

/// A copy of a name in a request, which the operation outlives. A name of up to 64 bytes needs no
/// allocation of its own.
struct RequestName(SmallVec<[u8; 64]>);

impl RequestName {
    fn new(name: &OsStr) -> Self {
        Self(SmallVec::from_slice(name.as_bytes()))
    }
}

impl Deref for RequestName {
    type Target = OsStr;

    fn deref(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

/// A file that cannot be written needs no flush at close.
fn unwritten(flags: i32) -> FopenFlags {
    match flags & (libc::O_ACCMODE | libc::O_TRUNC) {
        libc::O_RDONLY => FopenFlags::FOPEN_NOFLUSH,
        _ => FopenFlags::empty(),
    }
}

fn caller(from: &fuser::Request) -> Caller {
    Caller { uid: from.uid(), gid: from.gid(), thread: from.pid() }
}

/// A time that a request sets. fuser 0.18 takes the nanoseconds of a time before 1970 for ones before the
/// whole second; the kernel means those after it, as `timespec` does.
fn time_set(time: TimeOrNow) -> Time {
    let TimeOrNow::SpecificTime(time) = time else { return Time::now() };
    let Err(before) = time.duration_since(UNIX_EPOCH) else { return time.into() };
    let seconds = i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX);
    Time::new(-seconds, before.duration().subsec_nanos()).unwrap_or_default()
}

fn request(operation: &'static str, from: &fuser::Request, ino: INodeNo) -> Request {
    Request { operation, ino: ino.0, thread: from.pid() }
}

fn reply_empty(result: Result<()>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(&error)),
    }
}

fn reply_xattr(result: Result<XattrAnswer>, reply: ReplyXattr) {
    match result {
        Ok(XattrAnswer::Size(size)) => reply.size(size),
        Ok(XattrAnswer::Data(data)) => reply.data(&data),
        Err(error) => reply.error(errno(&error)),
    }
}

/// Sends one piece as it lies in the cache; joins several pieces, since a reply is one slice.
fn reply_data(pieces: &[Bytes], reply: ReplyData) {
    match pieces {
        [] => reply.data(&[]),
        [piece] => reply.data(piece),
        pieces => reply.data(&pieces.concat()),
    }
}

/// The reply to a lookup that makes the kernel cache "no such file": inode 0, whose attributes the
/// kernel ignores.
fn absent() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

fn reply_entry(result: Result<Looked>, reply: ReplyEntry) {
    match result {
        Ok(Looked::Found { attributes, entry_ttl, attributes_ttl, .. }) => {
            reply.entry_with_ttls(&attributes_ttl, &entry_ttl, &attributes, GENERATION);
        }
        Ok(Looked::Absent { ttl }) => reply.entry(&ttl, &absent(), GENERATION),
        Err(error) => reply.error(errno(&error)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _from: &fuser::Request, config: &mut KernelConfig) -> io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                log::debug!("the kernel has no {capability:?}");
            }
        }
        // Each setter answers an unsupported value with the nearest one that the kernel accepts and
        // that is then in force.
        let _ = config.set_max_write(MAX_REQUEST_BYTES);
        if !self.writable {
            let _ = config.set_max_readahead(REMOTE_READAHEAD_BYTES);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let asked = request("lookup", from, parent);
        let (shown, name, thread) = (self.shown.clone(), RequestName::new(name), from.pid());
        let operation = async move { shown.lookup(parent.0, &name, thread).await };
        self.server.serve(asked, operation, |r| reply_entry(r, reply));
    }

    fn forget(&self, _from: &fuser::Request, ino: INodeNo, count: u64) {
        self.shown.forget(ino.0, count);
    }

    fn getattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let asked = request("getattr", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.getattr(ino.0).await };
        self.server.serve(asked, operation, |result| match result {
            Ok((attributes, ttl)) => reply.attr(&ttl, &attributes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readlink(&self, from: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        let asked = request("readlink", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.readlink(ino.0).await };
        self.server.serve(asked, operation, |result| match result {
            Ok(target) => reply.data(&unescape_path(&target)),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn access(&self, from: &fuser::Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let asked = request("access", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.access(ino.0, mask.bits()).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn open(&self, from: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let asked = request("open", from, ino);
        let shown = self.shown.clone();
        let (flags_asked, caller) = (flags.0, caller(from));
        let operation = async move { shown.open_file(ino.0, flags_asked, caller).await };
        self.server.serve(asked, operation, move |result| match result {
            Ok(opened) => {
                let keep = FopenFlags::FOPEN_KEEP_CACHE;
                let mut flags = if opened.keep_cache { keep } else { FopenFlags::empty() };
                flags.set(FopenFlags::FOPEN_DIRECT_IO, opened.direct);
                reply.opened(FileHandle(opened.handle), flags | unwritten(flags_asked));
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn read(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = request("read", from, ino);
        let shown = self.shown.clone();
        let thread = from.pid();
        let operation = async move { shown.read(ino.0, handle.0, offset, size, thread).await };
        self.server.serve(asked, operation, |result| match result {
            Ok(pieces) => reply_data(&pieces, reply),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn flush(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let asked = request("flush", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.flush(ino.0, handle.0).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn release(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // No process waits for RELEASE, so no signal can interrupt it.
        let asked = Request { thread: 0, ..request("release", from, ino) };
        let shown = self.shown.clone();
        let operation = async move { shown.release(ino.0, handle.0).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn fsync(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let asked = request("fsync", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.fsync(ino.0, handle.0).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn lseek(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let asked = request("lseek", from, ino);
        let found = || self.shown.lseek(ino.0, handle.0, offset, whence);
        match self.server.serve_now(asked, found) {
            Ok(position) => reply.offset(position),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn opendir(&self, from: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let asked = request("opendir", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.opendir(ino.0).await };
        self.server.serve(asked, operation, |result| match result {
            Ok(opened) => {
                // The kernel keeps listings until a notice says that the directory has changed.
                let keep = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                let flags = if opened.keep_cache { keep } else { FopenFlags::empty() };
                reply.opened(FileHandle(opened.handle), flags);
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readdir(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let asked = request("readdir", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.readdir(ino.0, handle.0, offset).await };
        self.server.serve(asked, operation, move |result| match result {
            Ok(page) => {
                page.fill(false, |listed| {
                    let name = unescape(listed.name);
                    let name = OsStr::from_bytes(&name);
                    reply.add(INodeNo(listed.shown), listed.next, listed.kind, name)
                });
                reply.ok();
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readdirplus(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let asked = request("readdirplus", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.readdir(ino.0, handle.0, offset).await };
        self.server.serve(asked, operation, move |result| match result {
            Ok(page) => {
                page.fill(true, |listed| {
                    let (ino, name) = (INodeNo(listed.ino), unescape(listed.name));
                    let name = OsStr::from_bytes(&name);
                    let (kind, shown) = (listed.kind, INodeNo(listed.shown));
                    let attributes = listed.attributes.unwrap_or_else(|| FileAttr {
                        ino: shown,
                        kind,
                        ..absent()
                    });
                    reply.add(ino, listed.next, name, &listed.ttl, &attributes, GENERATION)
                });
                reply.ok();
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn releasedir(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        let asked = Request { thread: 0, ..request("releasedir", from, ino) };
        let released = self.server.serve_now(asked, || self.shown.releasedir(ino.0, handle.0));
        reply_empty(released, reply);
    }

    fn fsyncdir(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let asked = request("fsyncdir", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.fsyncdir(ino.0, handle.0).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn statfs(&self, _from: &fuser::Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.shown.statfs() {
            Ok(room) => {
                let unit = u64::from(STATFS_UNIT_BYTES);
                let (total, free) = (room.total / unit, room.available / unit);
                let names = hypermount_drive::MAX_NAME_BYTES as u32;
                reply.statfs(total, free, free, 0, 0, STATFS_UNIT_BYTES, names, STATFS_UNIT_BYTES);
            }
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn getxattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let asked = request("getxattr", from, ino);
        let (shown, name) = (self.shown.clone(), RequestName::new(name));
        let operation = async move { shown.getxattr(ino.0, &name, size).await };
        self.server.serve(asked, operation, |r| reply_xattr(r, reply));
    }

    fn listxattr(&self, from: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let asked = request("listxattr", from, ino);
        let shown = self.shown.clone();
        let operation = async move { shown.listxattr(ino.0, size).await };
        self.server.serve(asked, operation, |r| reply_xattr(r, reply));
    }

    /// No file here supports ioctl(2). isatty(3) calls it.
    fn ioctl(
        &self,
        _from: &fuser::Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _flags: fuser::IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: fuser::ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }

    // Operations that change something.

    fn setattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let asked = request("setattr", from, ino);
        let shown = self.shown.clone();
        let (handle, caller) = (handle.map(|handle| handle.0), caller(from));
        let operation = async move {
            let fs = shown.drive_of(ino.0)?;
            let (atime, mtime) = (atime.map(time_set), mtime.map(time_set));
            let mut changes =
                AttributeChanges { mode, uid, gid, size, atime, mtime, set_ids_only: false };
            changes.set_ids_only = changes.is_empty() && ctime.is_none();
            fs.setattr(ino.0, handle, changes, caller).await
        };
        self.server.serve(asked, operation, |result| match result {
            Ok((attributes, ttl)) => reply.attr(&ttl, &attributes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn mknod(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let asked = request("mknod", from, parent);
        let shown = self.shown.clone();
        let (name, maker) = (RequestName::new(name), caller(from));
        let operation = async move {
            shown.drive_of(parent.0)?.mknod(parent.0, &name, mode, rdev, maker).await
        };
        self.server.serve(asked, operation, |r| reply_entry(r, reply));
    }

    fn mkdir(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let asked = request("mkdir", from, parent);
        let shown = self.shown.clone();
        let (name, maker) = (RequestName::new(name), caller(from));
        let operation =
            async move { shown.drive_of(parent.0)?.mkdir(parent.0, &name, mode, maker).await };
        self.server.serve(asked, operation, |r| reply_entry(r, reply));
    }

    fn unlink(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = request("unlink", from, parent);
        let shown = self.shown.clone();
        let name = RequestName::new(name);
        let operation = async move { shown.drive_of(parent.0)?.unlink(parent.0, &name).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn rmdir(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = request("rmdir", from, parent);
        let shown = self.shown.clone();
        let name = RequestName::new(name);
        let operation = async move { shown.drive_of(parent.0)?.rmdir(parent.0, &name).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn symlink(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let asked = request("symlink", from, parent);
        let shown = self.shown.clone();
        let (name, maker) = (RequestName::new(name), caller(from));
        let target = RequestName::new(target.as_os_str());
        let operation =
            async move { shown.drive_of(parent.0)?.symlink(parent.0, &name, &target, maker).await };
        self.server.serve(asked, operation, |r| reply_entry(r, reply));
    }

    fn rename(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let how = match flags {
            flags if flags.is_empty() => Rename::Replace,
            #[cfg(target_os = "linux")]
            RenameFlags::RENAME_NOREPLACE => Rename::NoReplace,
            #[cfg(target_os = "linux")]
            RenameFlags::RENAME_EXCHANGE => Rename::Exchange,
            _ => return reply.error(Errno::EINVAL),
        };
        let asked = request("rename", from, parent);
        let shown = self.shown.clone();
        let (name, new_name) = (RequestName::new(name), RequestName::new(new_name));
        let operation = async move {
            let fs = shown.drive_of_both(parent.0, new_parent.0)?;
            fs.rename(parent.0, &name, new_parent.0, &new_name, how).await
        };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn link(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let asked = request("link", from, ino);
        let (shown, name) = (self.shown.clone(), RequestName::new(new_name));
        let operation = async move {
            let fs = shown.drive_of_both(ino.0, new_parent.0)?;
            fs.link(ino.0, new_parent.0, &name).await
        };
        self.server.serve(asked, operation, |r| reply_entry(r, reply));
    }

    fn create(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let asked = request("create", from, parent);
        let shown = self.shown.clone();
        let (name, maker) = (RequestName::new(name), caller(from));
        let operation = async move {
            shown.drive_of(parent.0)?.create(parent.0, &name, mode, flags, maker).await
        };
        self.server.serve(asked, operation, move |result| match result {
            Ok((Looked::Found { attributes, attributes_ttl, .. }, opened)) => {
                let (handle, flags) = (FileHandle(opened.handle), unwritten(flags));
                reply.created(&attributes_ttl, &attributes, GENERATION, handle, flags);
            }
            Ok((Looked::Absent { .. }, _)) => reply.error(Errno::EIO),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn write(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        // At most MAX_REQUEST_BYTES.
        let length = data.len() as u32;
        let flagged = write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID);
        let unprivileged = flagged.then(|| caller(from));
        let request = request("write", from, ino);
        let write = || {
            let fs = self.shown.drive_of(ino.0)?;
            Ok((fs.write(handle.0, offset, data, unprivileged)?, fs))
        };
        match self.server.serve_now(request, write) {
            Ok((true, _)) => reply.written(length),
            Err(error) => reply.error(errno(&error)),
            Ok((false, fs)) => {
                let data = data.to_vec();
                let operation =
                    async move { fs.write_copied_up(handle.0, offset, &data, unprivileged).await };
                self.server.serve(request, operation, move |result| match result {
                    Ok(()) => reply.written(length),
                    Err(error) => reply.error(errno(&error)),
                });
            }
        }
    }

    fn fallocate(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        handle: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let asked = request("fallocate", from, ino);
        let shown = self.shown.clone();
        let caller = caller(from);
        let operation = async move {
            shown.drive_of(ino.0)?.fallocate(handle.0, offset, length, mode, caller).await
        };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn copy_file_range(
        &self,
        from: &fuser::Request,
        from_ino: INodeNo,
        from_handle: FileHandle,
        from_offset: u64,
        to_ino: INodeNo,
        to_handle: FileHandle,
        to_offset: u64,
        length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let request = request("copy_file_range", from, from_ino);
        let shown = self.shown.clone();
        let (source, target, by) = (from_handle.0, to_handle.0, caller(from));
        let operation = async move {
            let fs = shown.copy_within(from_ino.0, to_ino.0)?;
            fs.copy_file_range(source, from_offset, target, to_offset, length, by).await
        };
        self.server.serve(request, operation, |result| match result {
            Ok(copied) => reply.written(copied),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn setxattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let asked = request("setxattr", from, ino);
        let shown = self.shown.clone();
        let (name, value) = (RequestName::new(name), value.to_vec());
        let operation =
            async move { shown.drive_of(ino.0)?.setxattr(ino.0, &name, &value, flags).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }

    fn removexattr(&self, from: &fuser::Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let asked = request("removexattr", from, ino);
        let shown = self.shown.clone();
        let name = RequestName::new(name);
        let operation = async move { shown.drive_of(ino.0)?.removexattr(ino.0, &name).await };
        self.server.serve(asked, operation, |r| reply_empty(r, reply));
    }
}
