//! FUSE requests to operations of [`Fs`] and back: unpack, run through [`Server`], pack.
//!
//! Requests that would change something all answer the same for now, so they share one line each.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileAttr, FileHandle, FileType,
    Filesystem, FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags,
    RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty,
    ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, TimeOrNow, WriteFlags,
};

use crate::errno::{Result, errno};
use crate::filesystem::{Fs, Looked};
use crate::serve::{Request, Server};
use crate::xattr::Answer;

/// Largest request in bytes; the kernel sends reads of at most this too.
const MAX_REQUEST_BYTES: u32 = 1024 * 1024;
/// Requests the kernel may have under way that nobody waits for directly, like readahead. Each
/// may be parked for the network, so more than the kernel's default of 12.
const MAX_BACKGROUND: u16 = 64;
/// A number and a generation together are unique; numbers are, so one generation will do.
const GENERATION: Generation = Generation(0);
/// Unit of the numbers in statfs, in bytes.
const STATFS_UNIT_BYTES: u32 = 4096;

const CAPABILITIES: [InitFlags; 7] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_MAX_PAGES,
    // There are none, but only so does the kernel remember that: else `ls -l` asks for each file.
    InitFlags::FUSE_POSIX_ACL,
];

pub struct Adapter {
    fs: Arc<Fs>,
    server: Arc<Server>,
}

impl Adapter {
    pub fn new(fs: Arc<Fs>, server: Arc<Server>) -> Self {
        Self { fs, server }
    }

    fn refuse(&self, name: &'static str, from: &fuser::Request, ino: INodeNo) -> Errno {
        log::debug!("{name} of inode {} by {}: the mount is read-only", ino.0, from.pid());
        errno(&self.fs.refuse_change(ino.0))
    }
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

fn reply_xattr(result: Result<Answer>, reply: ReplyXattr) {
    match result {
        Ok(Answer::Size(size)) => reply.size(size),
        Ok(Answer::Data(data)) => reply.data(&data),
        Err(error) => reply.error(errno(&error)),
    }
}

/// One piece is sent as it lies in the cache; several have to be joined, since a reply is one slice.
fn reply_data(pieces: &[Bytes], reply: ReplyData) {
    match pieces {
        [] => reply.data(&[]),
        [piece] => reply.data(piece),
        pieces => reply.data(&pieces.concat()),
    }
}

/// What a look-up answers to keep "no such file" in the kernel: inode 0, whose attributes nobody
/// reads.
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
        Ok(Looked::Found { ino, mut attributes, entry_ttl, mut attributes_ttl }) => {
            // fuser names the inode by its attributes. Beside a detached inode the number shown is
            // another one; the kernel then asks for the attributes by themselves.
            if attributes.ino.0 != ino {
                attributes.ino = INodeNo(ino);
                attributes_ttl = Duration::ZERO;
            }
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
        // Each answers with the nearest value the kernel takes, which then is the one in force.
        let _ = config.set_max_write(MAX_REQUEST_BYTES);
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, from: &fuser::Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let operation = async move { fs.lookup(parent.0, &name).await };
        self.server.serve(request("lookup", from, parent), operation, |r| reply_entry(r, reply));
    }

    fn forget(&self, _from: &fuser::Request, ino: INodeNo, count: u64) {
        self.fs.forget(ino.0, count);
    }

    fn getattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _handle: Option<FileHandle>,
        reply: ReplyAttr,
    ) {
        let fs = self.fs.clone();
        let operation = async move { fs.getattr(ino.0).await };
        self.server.serve(request("getattr", from, ino), operation, |result| match result {
            Ok((attributes, ttl)) => reply.attr(&ttl, &attributes),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn readlink(&self, from: &fuser::Request, ino: INodeNo, reply: ReplyData) {
        let fs = self.fs.clone();
        let operation = async move { fs.readlink(ino.0).await };
        self.server.serve(request("readlink", from, ino), operation, |result| match result {
            Ok(target) => reply.data(target.as_bytes()),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn access(&self, from: &fuser::Request, ino: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        let operation = async move { fs.access(ino.0, mask.bits()).await };
        self.server.serve(request("access", from, ino), operation, |r| reply_empty(r, reply));
    }

    fn open(&self, from: &fuser::Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        let operation = async move { fs.open(ino.0, flags.0).await };
        self.server.serve(request("open", from, ino), operation, |result| match result {
            Ok(opened) => {
                let keep = FopenFlags::FOPEN_KEEP_CACHE;
                let flags = if opened.keep_cache { keep } else { FopenFlags::empty() };
                // Nothing is written, so nothing is to be flushed at close.
                reply.opened(FileHandle(opened.handle), flags | FopenFlags::FOPEN_NOFLUSH);
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
        let fs = self.fs.clone();
        let operation = async move { fs.read(handle.0, offset, size).await };
        self.server.serve(request("read", from, ino), operation, |result| match result {
            Ok(pieces) => reply_data(&pieces, reply),
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn flush(
        &self,
        _from: &fuser::Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _from: &fuser::Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(self.fs.release(handle.0), reply);
    }

    fn fsync(
        &self,
        _from: &fuser::Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn lseek(
        &self,
        _from: &fuser::Request,
        _ino: INodeNo,
        handle: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.fs.lseek(handle.0, offset, whence) {
            Ok(position) => reply.offset(position),
            Err(error) => reply.error(errno(&error)),
        }
    }

    fn opendir(&self, from: &fuser::Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = self.fs.clone();
        let operation = async move { fs.opendir(ino.0).await };
        self.server.serve(request("opendir", from, ino), operation, |result| match result {
            Ok(handle) => {
                // Listings are kept by the kernel until it is told that the directory changed.
                let flags = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
                reply.opened(FileHandle(handle), flags);
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
        let (fs, shown_by) = (self.fs.clone(), self.fs.clone());
        let operation = async move { fs.readdir(handle.0, offset).await };
        self.server.serve(request("readdir", from, ino), operation, move |result| match result {
            Ok(page) => {
                page.fill(&shown_by, false, |listed| {
                    reply.add(INodeNo(listed.shown), listed.next, listed.kind, listed.name)
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
        let (fs, counted_by) = (self.fs.clone(), self.fs.clone());
        let operation = async move { fs.readdir(handle.0, offset).await };
        let request = request("readdirplus", from, ino);
        self.server.serve(request, operation, move |result| match result {
            Ok(page) => {
                page.fill(&counted_by, true, |listed| {
                    // Inode 0 tells the kernel a name without giving it an inode; the number that
                    // readdir(3) shows then comes from the attributes.
                    let unnamed =
                        || FileAttr { ino: INodeNo(listed.shown), kind: listed.kind, ..absent() };
                    let attributes = listed.attributes.unwrap_or_else(unnamed);
                    let (ino, name) = (INodeNo(listed.ino), listed.name);
                    reply.add(ino, listed.next, name, &listed.ttl, &attributes, GENERATION)
                });
                reply.ok();
            }
            Err(error) => reply.error(errno(&error)),
        });
    }

    fn releasedir(
        &self,
        _from: &fuser::Request,
        _ino: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        reply_empty(self.fs.releasedir(handle.0), reply);
    }

    fn fsyncdir(
        &self,
        _from: &fuser::Request,
        _ino: INodeNo,
        _handle: FileHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn statfs(&self, _from: &fuser::Request, _ino: INodeNo, reply: ReplyStatfs) {
        match self.fs.statfs() {
            Ok(room) => {
                let unit = u64::from(STATFS_UNIT_BYTES);
                let (total, free) = (room.total / unit, room.available / unit);
                let names = drive::path::MAX_NAME_BYTES as u32;
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
        let (fs, name) = (self.fs.clone(), name.to_owned());
        let operation = async move { fs.getxattr(ino.0, &name, size).await };
        self.server.serve(request("getxattr", from, ino), operation, |r| reply_xattr(r, reply));
    }

    fn listxattr(&self, from: &fuser::Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = self.fs.clone();
        let operation = async move { fs.listxattr(ino.0, size).await };
        self.server.serve(request("listxattr", from, ino), operation, |r| reply_xattr(r, reply));
    }

    // What would change something.

    fn setattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(self.refuse("setattr", from, ino));
    }

    fn mknod(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse("mknod", from, parent));
    }

    fn mkdir(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse("mkdir", from, parent));
    }

    fn unlink(&self, from: &fuser::Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse("unlink", from, parent));
    }

    fn rmdir(&self, from: &fuser::Request, parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse("rmdir", from, parent));
    }

    fn symlink(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse("symlink", from, parent));
    }

    fn rename(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse("rename", from, parent));
    }

    fn link(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _new_parent: INodeNo,
        _new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(self.refuse("link", from, ino));
    }

    fn create(
        &self,
        from: &fuser::Request,
        parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(self.refuse("create", from, parent));
    }

    fn write(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse("write", from, ino));
    }

    fn fallocate(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse("fallocate", from, ino));
    }

    fn copy_file_range(
        &self,
        from: &fuser::Request,
        _from_ino: INodeNo,
        _from_handle: FileHandle,
        _from_offset: u64,
        to_ino: INodeNo,
        _to_handle: FileHandle,
        _to_offset: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(self.refuse("copy_file_range", from, to_ino));
    }

    fn setxattr(
        &self,
        from: &fuser::Request,
        ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(self.refuse("setxattr", from, ino));
    }

    fn removexattr(&self, from: &fuser::Request, ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(self.refuse("removexattr", from, ino));
    }
}
