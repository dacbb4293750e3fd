//! What a process inherits from its parent and must not depend on: signal dispositions and the
//! signal mask here, descriptors for child processes.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

/// Highest descriptor that is checked where the system does not list the open ones.
const MAX_DESCRIPTOR: i32 = 65_535;

/// Call this first, before any thread starts. Ignores SIGXFSZ, so a file size limit fails a write
/// with EFBIG instead of ending the process and its mounts; resets SIGCHLD, so that child processes
/// can be waited for; and unblocks all signals.
pub fn settle_signals() {
    for (which, handler) in
        [(Signal::SIGXFSZ, SigHandler::SigIgn), (Signal::SIGCHLD, SigHandler::SigDfl)]
    {
        // SAFETY: neither disposition is a function, so no code runs in a signal handler. No other
        // thread exists that could rely on the previous disposition.
        #[allow(unsafe_code)]
        let settled = unsafe { signal(which, handler) };
        if let Err(errno) = settled {
            log::warn!("cannot settle {which}: {errno}");
        }
    }
    if let Err(errno) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None) {
        log::warn!("cannot unblock signals: {errno}");
    }
}

/// Marks inherited descriptors close-on-exec: child processes started from now on get only the
/// standard descriptors. The inherited descriptors stay open in this process.
pub fn set_close_on_exec() {
    let listed = std::fs::read_dir("/dev/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    });
    let descriptors: Vec<i32> = listed.unwrap_or_else(|_| (0..MAX_DESCRIPTOR).collect());
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
        // SAFETY: fcntl(F_SETFD) takes two integers and no pointer. It sets a flag that only counts
        // at execve(2): no descriptor is closed, so its owner can still use it. For a descriptor
        // that is no longer open, fcntl fails and changes nothing.
        #[allow(unsafe_code)]
        let _ = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
