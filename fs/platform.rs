//! The differences between operating systems. Outside of tests, every compile-time switch by system
//! is in this file, except two flags of rename(2) in `adapter.rs`.
//!
//! On Linux this program mounts by itself: as root with mount(2), otherwise with the setuid helper
//! `fusermount3`, which passes the device over a socket. (fuser's own unmounting is not used: it
//! mistakes an ended connection for a live one, and could then unmount what lies below.) On other
//! systems fuser mounts, and information from `/proc` is not available.

#[cfg(target_os = "linux")]
pub(crate) use self::linux::*;
#[cfg(not(target_os = "linux"))]
pub(crate) use self::other::*;

/// The name of a mount, and how to attach it.
pub(crate) struct Attachment {
    /// Source of the mount, as df(1) shows it.
    pub source: String,
    pub allow_other: bool,
    pub read_only: bool,
}

/// File system type after `fuse.`, which identifies the mounts of this program.
pub(crate) const SUBTYPE: &str = "hypermount";

/// The program that makes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Its user id.
    pub uid: u32,
    /// Its primary group id.
    pub gid: u32,
    /// Its thread id; 0 if unknown.
    pub thread: u32,
}

/// Makes the allocator return the memory of a mount when the mount is gone. Call this before
/// any thread starts.
///
/// FUSE's buffers are 16 MiB per thread. glibc takes the first of them from the system and,
/// when it is freed, raises its threshold (mallopt(3), M_MMAP_THRESHOLD). The next buffers come
/// from the heap of some thread and stay there, so a daemon grows by 16 MiB with every mount
/// that comes and goes.
pub fn settle_allocator() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        /// Allocations of at least this size in bytes come from the system, and are returned to
        /// it at once.
        const LARGE: libc::c_int = 4 << 20;
        /// Free bytes kept at the end of a heap: about what a stream of blocks needs.
        const KEPT: libc::c_int = 2 << 20;
        const HEAPS: libc::c_int = 2;
        let settings = [
            (libc::M_MMAP_THRESHOLD, LARGE),
            (libc::M_TRIM_THRESHOLD, KEPT),
            (libc::M_ARENA_MAX, HEAPS),
        ];
        for (parameter, value) in settings {
            // SAFETY: mallopt takes two integers and no pointers, and refuses parameters that
            // it does not know. Its manual warns of other threads that allocate meanwhile
            // (MT-Unsafe init const:mallopt): there are none yet, and glibc takes the lock of
            // the heap anyway.
            #[allow(unsafe_code)]
            let _ = unsafe { libc::mallopt(parameter, value) };
        }
    }
}

#[cfg(target_os = "linux")]
mod linux {
    use std::fs;
    use std::io::{self, IoSliceMut};
    use std::mem::MaybeUninit;
    use std::os::fd::{AsFd, AsRawFd, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::path::Path;
    use std::process::{Command, Output, Stdio};

    use fuser::{Config, Session};
    use nix::errno::Errno;
    use nix::mount::{MntFlags, MsFlags, mount, umount2};
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::{Attachment, Caller, SUBTYPE};

    /// Errno of getxattr(2) for a missing attribute.
    pub(crate) const NO_ATTRIBUTE: i32 = libc::ENODATA;

    const DEVICE: &str = "/dev/fuse";
    /// Names of the setuid helper, newest first.
    const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];
    /// Environment variable that tells the helper on which descriptor to send the device.
    const HELPER_SOCKET: &str = "_FUSE_COMMFD";

    /// Several threads may read requests of one mount.
    pub(crate) const MANY_THREADS: bool = true;

    /// Whether the thread has ended, or has a pending signal that its program expects to end a
    /// system call. SIGKILL counts always; the kernel turns every deadly signal into it. Of the
    /// signals that a program handles itself, only those that people send count (as with `intr`
    /// mounts of NFS): a program that measures time with SIGALRM does not expect stat(2) to fail.
    pub(crate) fn is_interrupted(thread: u32) -> bool {
        if thread == 0 {
            return false;
        }
        let ends = || {
            fs::read_to_string(format!("/proc/{thread}/stat")).is_ok_and(|stat| was_killed(&stat))
        };
        match fs::read_to_string(format!("/proc/{thread}/status")) {
            Ok(status) => says_interrupted(&status) || ends(),
            Err(error) => {
                error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESRCH)
            }
        }
    }

    /// Flag of a task that ends (include/linux/sched.h).
    const PF_EXITING: u64 = 4;
    /// Fields of /proc/PID/stat after the name of the program, proc_pid_stat(5), counted from 0.
    const FLAGS: usize = 6;
    const EXIT_CODE: usize = 49;
    /// The part of an exit code that has the signal, wait(2).
    const SIGNAL: u64 = 0x7f;

    /// Whether a signal has ended the task, which now closes its files: the signal is not pending any more.
    fn was_killed(stat: &str) -> bool {
        let Some((_, fields)) = stat.rsplit_once(") ") else { return false };
        let mut fields = fields.split_ascii_whitespace().map(|field| field.parse::<u64>());
        let mut field = |skipped| fields.nth(skipped).and_then(|field| field.ok()).unwrap_or(0);
        let (flags, exit_code) = (field(FLAGS), field(EXIT_CODE - FLAGS - 1));
        flags & PF_EXITING != 0 && exit_code & SIGNAL != 0
    }

    const INTERRUPTING: [i32; 4] = [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM];

    fn says_interrupted(status: &str) -> bool {
        let mask = |name: &str| u64::from_str_radix(field(status, name), 16).unwrap_or(0);
        let bit = |signal: i32| 1u64 << (signal - 1);
        let pending = mask("SigPnd:") | mask("ShdPnd:");
        let deliverable = pending & !mask("SigBlk:") & !mask("SigIgn:");
        let interrupting = INTERRUPTING.iter().fold(0, |all, signal| all | bit(*signal));
        let killed = pending & bit(libc::SIGKILL) != 0;
        killed || deliverable & interrupting != 0 || field(status, "State:").starts_with(['Z', 'X'])
    }

    /// Number of CAP_FSETID (linux/capability.h).
    const CAP_FSETID: u32 = 4;
    const USER_NAMESPACE: &str = "ns/user";

    /// Whether the program may keep set-id bits of files that it changes: whether it has CAP_FSETID
    /// in our user namespace. If `/proc` does not tell, root may.
    pub(crate) fn may_keep_set_ids(caller: Caller) -> bool {
        let root = caller.uid == 0;
        let directory = format!("/proc/{}", caller.thread);
        let Ok(status) = fs::read_to_string(format!("{directory}/status")) else { return root };
        let effective = field(&status, "CapEff:");
        let effective = u64::from_str_radix(effective, 16).unwrap_or(0);
        if effective & 1 << CAP_FSETID == 0 {
            return false;
        }
        // A program has all capabilities in a user namespace that it made.
        let theirs = fs::read_link(format!("{directory}/{USER_NAMESPACE}"));
        let ours = fs::read_link(format!("/proc/self/{USER_NAMESPACE}"));
        match (theirs, ours) {
            (Ok(theirs), Ok(ours)) => theirs == ours,
            _ => root,
        }
    }

    /// Whether the program is in the group.
    pub(crate) fn is_in_group(caller: Caller, group: u32) -> bool {
        if caller.gid == group {
            return true;
        }
        let status = fs::read_to_string(format!("/proc/{}/status", caller.thread));
        let group = group.to_string();
        status.is_ok_and(|status| field(&status, "Groups:").split(' ').any(|one| one == group))
    }

    fn field<'a>(status: &'a str, name: &str) -> &'a str {
        status.lines().find_map(|line| line.strip_prefix(name)).map_or("", str::trim)
    }

    /// The process of a thread and the name of its program; `None` if it has ended.
    pub(crate) fn process_of(thread: u32) -> Option<(u32, String)> {
        let status = fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
        let group = status.lines().find_map(|line| line.strip_prefix("Tgid:"))?;
        let pid = group.trim().parse().ok()?;
        let program = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        Some((pid, program.trim().to_owned()))
    }

    /// Whether the kernel offers FUSE.
    pub(crate) fn has_device() -> bool {
        Path::new(DEVICE).exists()
    }

    /// Mounts, and does the handshake with the kernel.
    pub(crate) fn attach<F: fuser::Filesystem>(
        filesystem: F,
        mountpoint: &Path,
        attachment: &Attachment,
        config: Config,
    ) -> io::Result<Session<F>> {
        let device = match attach_directly(mountpoint, attachment) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                attach_by_helper(mountpoint, attachment)?
            }
            attached => attached?,
        };
        let session = Session::from_fd(filesystem, device, config.acl, config);
        session.inspect_err(|_| {
            let _ = detach(mountpoint, true, false);
        })
    }

    fn attach_directly(mountpoint: &Path, attachment: &Attachment) -> io::Result<OwnedFd> {
        let device: OwnedFd = fs::File::options().read(true).write(true).open(DEVICE)?.into();
        let data = format!(
            "fd={},rootmode=40000,user_id={},group_id={},default_permissions,subtype={SUBTYPE}{}",
            device.as_raw_fd(),
            nix::unistd::getuid(),
            nix::unistd::getgid(),
            if attachment.allow_other { ",allow_other" } else { "" },
        );
        let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
        flags.set(MsFlags::MS_RDONLY, attachment.read_only);
        let source = Some(attachment.source.as_str());
        mount(source, mountpoint, Some("fuse"), flags, Some(data.as_str()))?;
        Ok(device)
    }

    fn attach_by_helper(mountpoint: &Path, attachment: &Attachment) -> io::Result<OwnedFd> {
        let (ours, theirs) = UnixStream::pair()?;
        let options = format!(
            "{},nosuid,nodev,noatime,default_permissions,fsname={},subtype={SUBTYPE}{}",
            if attachment.read_only { "ro" } else { "rw" },
            attachment.source.replace('\\', "\\\\").replace(',', "\\,"),
            if attachment.allow_other { ",allow_other" } else { "" },
        );
        let arguments = ["-o".as_ref(), options.as_ref(), "--".as_ref(), mountpoint.as_os_str()];
        let output = run_helper(|helper| {
            // The socket is the helper's standard input, so that no other child process can inherit
            // it.
            let theirs = OwnedFd::from(theirs.try_clone()?);
            helper.args(arguments).env(HELPER_SOCKET, "0").stdin(Stdio::from(theirs));
            Ok(())
        })?;
        drop(theirs);
        if !output.status.success() {
            return Err(helper_error(&output));
        }
        receive_descriptor(&ours)
    }

    fn receive_descriptor(socket: &UnixStream) -> io::Result<OwnedFd> {
        let mut byte = [0];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut byte)];
        recvmsg(socket.as_fd(), &mut pieces, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
        let descriptor = ancillary.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
            _ => None,
        });
        descriptor.ok_or_else(|| io::Error::other("the mount helper sent no device"))
    }

    /// Runs the first helper that is installed.
    fn run_helper(mut prepare: impl FnMut(&mut Command) -> io::Result<()>) -> io::Result<Output> {
        for name in HELPERS {
            let mut helper = Command::new(name);
            prepare(&mut helper)?;
            match helper.stdout(Stdio::null()).stderr(Stdio::piped()).spawn() {
                Ok(child) => return child.wait_with_output(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let message = "mounting as a normal user needs fusermount3 (package fuse3)";
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }

    fn helper_error(output: &Output) -> io::Error {
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if text.contains("busy") {
            return Errno::EBUSY.into();
        }
        io::Error::other(if text.is_empty() { "the mount helper failed".into() } else { text })
    }

    /// Unmounts. `lazily` detaches the mount at once and ends it with its last user; `forcibly`
    /// makes all requests fail, including those that hang.
    pub(crate) fn detach(mountpoint: &Path, lazily: bool, forcibly: bool) -> io::Result<()> {
        let mut flags = MntFlags::UMOUNT_NOFOLLOW;
        flags.set(MntFlags::MNT_DETACH, lazily);
        flags.set(MntFlags::MNT_FORCE, forcibly);
        match umount2(mountpoint, flags) {
            Err(Errno::EPERM) => {}
            done => return done.map_err(Into::into),
        }
        let output = run_helper(|helper| {
            helper.arg(if lazily { "-uz" } else { "-u" }).arg("--").arg(mountpoint);
            helper.stdin(Stdio::null());
            Ok(())
        })?;
        if output.status.success() { Ok(()) } else { Err(helper_error(&output)) }
    }

    /// Ends a connection to the kernel; all requests that wait on it fail. Works from any process
    /// of the user who mounted. Best effort: needs the FUSE control filesystem, which distributions
    /// mount.
    pub(crate) fn abort(connection: u32) -> io::Result<()> {
        fs::write(format!("/sys/fs/fuse/connections/{connection}/abort"), "1")
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        fn status(state: &str, thread: u64, shared: u64, blocked: u64, ignored: u64) -> String {
            format!(
                "Name:\tcat\nState:\t{state}\nSigPnd:\t{thread:016x}\nShdPnd:\t{shared:016x}\n\
                 SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t0000000000000000\n"
            )
        }

        #[test]
        fn signals_that_end_a_wait() {
            let bit = |signal: i32| 1u64 << (signal - 1);
            let (int, kill, alarm) = (bit(libc::SIGINT), bit(libc::SIGKILL), bit(libc::SIGALRM));
            let table = [
                (status("S (sleeping)", 0, 0, 0, 0), false),
                (status("D (disk sleep)", kill, 0, 0, 0), true),
                (status("S (sleeping)", 0, int, 0, 0), true),
                (status("S (sleeping)", int, 0, 0, 0), true),
                (status("S (sleeping)", 0, int, int, 0), false),
                (status("S (sleeping)", 0, int, 0, int), false),
                (status("S (sleeping)", 0, alarm | bit(libc::SIGURG), 0, 0), false),
                (status("Z (zombie)", 0, 0, 0, 0), true),
                (status("X (dead)", 0, 0, 0, 0), true),
                (String::new(), false),
            ];
            for (status, expected) in table {
                assert_eq!(says_interrupted(&status), expected, "{status}");
            }
        }

        #[test]
        fn neither_a_running_nor_an_unknown_thread_is_interrupted() {
            let thread = nix::unistd::gettid().as_raw();
            assert!(!is_interrupted(u32::try_from(thread).expect("positive")));
            assert!(!is_interrupted(0));
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod other {
    use std::io;
    use std::path::Path;

    use fuser::{Config, MountOption, Session};

    use super::{Attachment, Caller, SUBTYPE};

    /// Errno of getxattr(2) for a missing attribute.
    pub(crate) const NO_ATTRIBUTE: i32 = libc::ENOATTR;
    /// Only Linux lets several threads read requests of one mount.
    pub(crate) const MANY_THREADS: bool = false;

    /// Not available here: a parked request ends at its deadline.
    pub(crate) fn is_interrupted(_thread: u32) -> bool {
        false
    }

    /// Not available here: root may.
    pub(crate) fn may_keep_set_ids(caller: Caller) -> bool {
        caller.uid == 0
    }

    /// Not available here, except for the group that the request names.
    pub(crate) fn is_in_group(caller: Caller, group: u32) -> bool {
        caller.gid == group
    }

    /// Not available here.
    pub(crate) fn process_of(_thread: u32) -> Option<(u32, String)> {
        None
    }

    /// Assumed here: mounting shows whether it is so.
    pub(crate) fn has_device() -> bool {
        true
    }

    pub(crate) fn attach<F: fuser::Filesystem>(
        filesystem: F,
        mountpoint: &Path,
        attachment: &Attachment,
        mut config: Config,
    ) -> io::Result<Session<F>> {
        config.mount_options = vec![
            if attachment.read_only { MountOption::RO } else { MountOption::RW },
            MountOption::NoSuid,
            MountOption::NoDev,
            MountOption::DefaultPermissions,
            MountOption::FSName(attachment.source.clone()),
            MountOption::Subtype(SUBTYPE.into()),
        ];
        Session::new(filesystem, mountpoint, &config)
    }

    pub(crate) fn detach(mountpoint: &Path, lazily: bool, forcibly: bool) -> io::Result<()> {
        let force = lazily || forcibly;
        let output = std::process::Command::new("umount")
            .args(force.then_some("-f"))
            .arg(mountpoint)
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if text.to_lowercase().contains("busy") {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        Err(io::Error::other(text))
    }

    pub(crate) fn abort(_connection: u32) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
