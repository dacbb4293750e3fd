//! The errors of filesystem operations, and the one place that maps them to an errno.
//!
//! Both matches are exhaustive on purpose: each new variant must be given its number here.

use std::io;

use fuser::Errno;

/// The result of an operation on a mount.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a filesystem operation failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An error of the drive or of its store.
    #[error(transparent)]
    Drive(#[from] hypermount_drive::Error),
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// The format cannot represent it, or this program refuses it.
    #[error("not permitted: {0}")]
    NotPermitted(&'static str),
    /// The file would be longer than a file may be.
    #[error("file too large")]
    FileTooLarge,
    /// The disk that holds the store, or the room for attributes in an entry, is full.
    #[error("no space left on the disk that holds the store")]
    NoSpace,
    /// The operation is not implemented; says which.
    #[error("not supported: {0}")]
    NotSupported(&'static str),
    /// A rename, link or copy between two drives.
    #[error("source and destination are in different drives")]
    OtherDrive,
    /// A nested drive is at this path: it is unmounted, not removed or replaced.
    #[error("in use")]
    Busy,
    /// The kernel named an inode that the table does not hold (any more): it looks the path up
    /// again.
    #[error("stale inode")]
    Stale,
    /// An import or another mount has changed the file since this one was opened. One name cannot
    /// hold both.
    #[error(
        "the file was replaced or removed meanwhile; what was written here is kept in scratch, \
             see `hypermount recover`"
    )]
    Overtaken,
    /// No open file or directory has this handle, or it does not allow the operation.
    #[error("bad file handle")]
    BadHandle,
    /// The operation does not apply to this kind of file.
    #[error("not possible on this kind of file")]
    WrongKind,
    /// The file has no extended attribute of this name.
    #[error("no such extended attribute")]
    NoAttribute,
    /// The caller's buffer is too small for the value.
    #[error("buffer too small")]
    BufferTooSmall,
    /// The answer is larger than the kernel can carry in one reply.
    #[error("answer larger than the kernel allows")]
    AnswerTooLarge,
    /// The position of a search lies beyond the end of the file.
    #[error("position beyond the end of the file")]
    BeyondEnd,
    /// The arguments contradict each other, or one has no meaning for this operation.
    #[error("invalid argument")]
    InvalidArgument,
    /// Signed content that no filesystem can represent, or bytes that contradict each other.
    #[error("unusable content: {0}")]
    BadContent(String),
    /// All drives that the mount may have open are in use.
    #[error("more than {limit} drives open at once")]
    TooManyDrives {
        /// Most drives that are open at once.
        limit: usize,
    },
    /// The calling process has received a signal, or has ended.
    #[error("interrupted")]
    Interrupted,
    /// The mount is being taken down.
    #[error("the mount is shutting down")]
    ShuttingDown,
    /// A bug in this program; the log has the message.
    #[error("internal failure")]
    Panicked,
}

/// The errno that a program gets for `error` (see errno(3) for the names).
pub fn errno(error: &Error) -> Errno {
    let number = match error {
        Error::Drive(error) => drive_errno(error),
        Error::ReadOnly => libc::EROFS,
        Error::NotPermitted(_) => libc::EPERM,
        Error::FileTooLarge => libc::EFBIG,
        Error::NoSpace => libc::ENOSPC,
        Error::NotSupported(_) => libc::EOPNOTSUPP,
        Error::OtherDrive => libc::EXDEV,
        Error::Busy => libc::EBUSY,
        Error::Stale | Error::Overtaken => libc::ESTALE,
        Error::BadHandle => libc::EBADF,
        Error::WrongKind | Error::InvalidArgument => libc::EINVAL,
        Error::NoAttribute => crate::platform::NO_ATTRIBUTE,
        Error::BufferTooSmall => libc::ERANGE,
        Error::AnswerTooLarge => libc::E2BIG,
        Error::BeyondEnd => libc::ENXIO,
        Error::BadContent(_) | Error::Panicked => libc::EIO,
        Error::TooManyDrives { .. } => libc::ENFILE,
        Error::Interrupted => libc::EINTR,
        Error::ShuttingDown => libc::ENOTCONN,
    };
    Errno::from_i32(number)
}

fn drive_errno(error: &hypermount_drive::Error) -> i32 {
    use hypermount_drive::Error;
    match error {
        Error::NotFound => libc::ENOENT,
        Error::NotADirectory => libc::ENOTDIR,
        Error::IsADirectory => libc::EISDIR,
        Error::AlreadyExists => libc::EEXIST,
        Error::NotEmpty => libc::ENOTEMPTY,
        Error::InvalidPath(_) | Error::InvalidUrl(_) => libc::EINVAL,
        Error::NameTooLong { .. } => libc::ENAMETOOLONG,
        Error::ReadOnly(_) => libc::EROFS,
        Error::Unsupported(_) => libc::EOPNOTSUPP,
        Error::TooLarge(_) => libc::EFBIG,
        Error::TooManyCores { .. } => libc::ENFILE,
        Error::TooManyLevels => libc::ELOOP,
        Error::TooManyLinks { .. } => libc::EMLINK,
        Error::Unavailable { .. } => libc::ETIMEDOUT,
        Error::Corrupt { .. } | Error::Malformed(_) | Error::Forked { .. } => libc::EIO,
        Error::Shortened(_) => libc::ESTALE,
        Error::WrongEncryptionKey(_) | Error::NeedsEncryptionKey(_) => libc::EACCES,
        Error::Locked { .. } => libc::EBUSY,
        Error::NotAStore { .. } | Error::OtherProgram { .. } | Error::NoSuchDrive(_) => libc::EIO,
        Error::NotOwner { .. } => libc::EACCES,
        Error::Closed => libc::ENOTCONN,
        Error::Storage { source, .. } => storage_errno(source),
    }
}

/// Passes on what a program can act on; every other failure of the local disk is EIO.
fn storage_errno(source: &io::Error) -> i32 {
    match source.raw_os_error() {
        Some(number @ (libc::ENOSPC | libc::EDQUOT | libc::EROFS | libc::EFBIG)) => number,
        Some(_) | None => libc::EIO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypermount_drive::{DiscoveryKey, PublicKey};

    fn number(error: Error) -> i32 {
        errno(&error).code()
    }

    #[test]
    fn every_situation_of_a_drive_has_its_errno() {
        let core = DiscoveryKey::new([1; 32]);
        let text = || String::from("x");
        let storage = |code: i32| hypermount_drive::Error::Storage {
            op: "write",
            path: "/s".into(),
            source: io::Error::from_raw_os_error(code),
        };
        let table = [
            (hypermount_drive::Error::NotFound, libc::ENOENT),
            (hypermount_drive::Error::NotADirectory, libc::ENOTDIR),
            (hypermount_drive::Error::IsADirectory, libc::EISDIR),
            (hypermount_drive::Error::AlreadyExists, libc::EEXIST),
            (hypermount_drive::Error::NotEmpty, libc::ENOTEMPTY),
            (hypermount_drive::Error::InvalidPath(text()), libc::EINVAL),
            (hypermount_drive::Error::InvalidUrl(text()), libc::EINVAL),
            (hypermount_drive::Error::NameTooLong { max: 255 }, libc::ENAMETOOLONG),
            (hypermount_drive::Error::ReadOnly("x"), libc::EROFS),
            (hypermount_drive::Error::Unsupported(text()), libc::EOPNOTSUPP),
            (hypermount_drive::Error::TooLarge(text()), libc::EFBIG),
            (hypermount_drive::Error::TooManyCores { open: 64 }, libc::ENFILE),
            (hypermount_drive::Error::TooManyLevels, libc::ELOOP),
            (hypermount_drive::Error::TooManyLinks { max: 1024 }, libc::EMLINK),
            (
                hypermount_drive::Error::Unavailable {
                    core,
                    block: 1,
                    waited: std::time::Duration::from_secs(1),
                    why: text(),
                },
                libc::ETIMEDOUT,
            ),
            (
                hypermount_drive::Error::Corrupt { core, file: "data", at: 0, what: text() },
                libc::EIO,
            ),
            (hypermount_drive::Error::Malformed(text()), libc::EIO),
            (hypermount_drive::Error::Forked { core, what: text() }, libc::EIO),
            (hypermount_drive::Error::Shortened(core), libc::ESTALE),
            (hypermount_drive::Error::Locked { path: "/s".into(), holder: text() }, libc::EBUSY),
            (hypermount_drive::Error::NotAStore { path: "/s".into(), why: text() }, libc::EIO),
            (hypermount_drive::Error::OtherProgram { path: "/s".into(), program: "x" }, libc::EIO),
            (hypermount_drive::Error::NoSuchDrive(PublicKey::new([1; 32])), libc::EIO),
            (hypermount_drive::Error::Closed, libc::ENOTCONN),
            (storage(libc::ENOSPC), libc::ENOSPC),
            (storage(libc::EDQUOT), libc::EDQUOT),
            (storage(libc::EROFS), libc::EROFS),
            (storage(libc::ENOENT), libc::EIO),
        ];
        for (error, expected) in table {
            let text = error.to_string();
            assert_eq!(number(Error::Drive(error)), expected, "{text}");
        }
    }

    #[test]
    fn every_situation_of_the_filesystem_has_its_errno() {
        let table = [
            (Error::ReadOnly, libc::EROFS),
            (Error::NotPermitted("x"), libc::EPERM),
            (Error::FileTooLarge, libc::EFBIG),
            (Error::NoSpace, libc::ENOSPC),
            (Error::NotSupported("x"), libc::EOPNOTSUPP),
            (Error::OtherDrive, libc::EXDEV),
            (Error::Busy, libc::EBUSY),
            (Error::Stale, libc::ESTALE),
            (Error::BadHandle, libc::EBADF),
            (Error::WrongKind, libc::EINVAL),
            (Error::InvalidArgument, libc::EINVAL),
            (Error::NoAttribute, crate::platform::NO_ATTRIBUTE),
            (Error::BufferTooSmall, libc::ERANGE),
            (Error::AnswerTooLarge, libc::E2BIG),
            (Error::BeyondEnd, libc::ENXIO),
            (Error::BadContent(String::new()), libc::EIO),
            (Error::TooManyDrives { limit: 1 }, libc::ENFILE),
            (Error::Interrupted, libc::EINTR),
            (Error::ShuttingDown, libc::ENOTCONN),
            (Error::Panicked, libc::EIO),
        ];
        for (error, expected) in table {
            assert_eq!(errno(&error).code(), expected, "{error}");
        }
    }
}
