//! Set-user-id and set-group-id bits: which calls remove them.
//!
//! The kernel leaves this to the filesystem (FUSE_HANDLE_KILLPRIV_V2) and expects the behaviour of
//! a local disk (inode(7)): chown(2) removes the bits for every caller; a write, a change of size,
//! fallocate(2) and copy_file_range(2) remove them unless the caller has CAP_FSETID. A set-group-id
//! bit without group-execute stays if the caller is in the file's group.
//!
//! Only WRITE requests say, by a flag, whether the caller has the capability. For the others this
//! file reads `/proc`, and only if the file has such bits.

use std::time::Duration;

use hypermount_drive::{Entry, Kind, Stat, TYPE_DIRECTORY, TYPE_MASK};

use crate::platform::{self, Caller};

const SET_USER_ID: u32 = 0o4000;
const SET_GROUP_ID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o010;
const SET_IDS: u32 = SET_USER_ID | SET_GROUP_ID;

impl Caller {
    /// This process, which acts with root's rights.
    pub const SELF: Self = Self { uid: 0, gid: 0, thread: 0 };

    /// Whether a file of this mode loses its set-id bits when this program changes its content.
    fn loses_by_writing(self, mode: u32) -> bool {
        mode & SET_IDS != 0 && !platform::may_keep_set_ids(self)
    }

    /// The mode after this program, without CAP_FSETID, has changed the content.
    fn without(self, stat: &Stat) -> u32 {
        let mode = stat.mode & !SET_USER_ID;
        let keeps_group = mode & GROUP_EXECUTE == 0 && platform::is_in_group(self, stat.gid);
        if keeps_group { mode } else { mode & !SET_GROUP_ID }
    }

    /// Removes the bits that a write removes. `flagged` says that the kernel reported the caller to
    /// be without CAP_FSETID.
    pub(crate) fn writes(self, stat: &mut Stat, flagged: bool) {
        if stat.mode & SET_IDS != 0 && (flagged || self.loses_by_writing(stat.mode)) {
            stat.mode = self.without(stat);
        }
    }

    /// Removes the bits that chown(2) removes, from anything but a directory. Call this before the
    /// owner changes: the old group decides.
    pub(crate) fn changes_owner(self, stat: &mut Stat) {
        if stat.mode & TYPE_MASK == TYPE_DIRECTORY || stat.mode & SET_IDS == 0 {
            return;
        }
        let group_is_mark = stat.mode & GROUP_EXECUTE == 0;
        let keeps_group = group_is_mark && platform::may_keep_set_ids(self);
        let kept = if keeps_group { stat.mode & SET_GROUP_ID } else { 0 };
        stat.mode = self.without(stat) | kept;
    }
}

/// How long the kernel may cache the attributes of an entry that this mount can change: not at all
/// while it has set-id bits, otherwise for `otherwise`. The kernel does not read the mode again
/// after a write or an open with O_TRUNC, which may have removed the bits.
pub(crate) fn lifetime(entry: &Entry, otherwise: Duration) -> Duration {
    let has_bits = entry.kind == Kind::File && entry.stat.mode & SET_IDS != 0;
    if has_bits { Duration::ZERO } else { otherwise }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hypermount_drive::TYPE_FILE;

    fn after(mode: u32, change: impl FnOnce(&mut Stat)) -> u32 {
        let mut stat = Stat { mode, gid: 77, ..Stat::default() };
        change(&mut stat);
        stat.mode
    }

    #[test]
    fn a_caller_without_the_capability_removes_the_bits_by_writing() {
        let stranger = Caller { uid: 65_534, gid: 65_534, thread: 0 };
        let member = Caller { gid: 77, ..stranger };
        let written = |caller: Caller, mode| after(mode, |stat| caller.writes(stat, true));
        assert_eq!(written(stranger, TYPE_FILE | 0o6755), TYPE_FILE | 0o755);
        assert_eq!(written(stranger, TYPE_FILE | 0o2745), TYPE_FILE | 0o745);
        assert_eq!(written(member, TYPE_FILE | 0o6745), TYPE_FILE | 0o2745);
        assert_eq!(written(member, TYPE_FILE | 0o2755), TYPE_FILE | 0o755);
        let unflagged = |caller: Caller| after(0o6755, |stat| caller.writes(stat, false));
        assert_eq!(unflagged(stranger), 0o755);
        assert_eq!(unflagged(Caller::SELF), 0o6755);
    }

    #[test]
    fn chown_removes_the_bits_of_files_for_every_caller() {
        let owned = |mode| after(mode, |stat| Caller::SELF.changes_owner(stat));
        assert_eq!(owned(TYPE_FILE | 0o6755), TYPE_FILE | 0o755);
        assert_eq!(
            owned(TYPE_FILE | 0o6745),
            TYPE_FILE | 0o2745,
            "root keeps the bit where it only marks locking"
        );
        assert_eq!(owned(TYPE_DIRECTORY | 0o2755), TYPE_DIRECTORY | 0o2755);
    }
}
