//! What a process inherits from the one that started it, and must not depend on: signal dispositions
//! and the signal mask here, descriptors for what it starts itself.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

/// Highest descriptor that is looked at where the system does not list those that are open.
const MAX_DESCRIPTOR: i32 = 65_535;

/// To be called first of all, before any thread is started: a file size limit fails a write with
/// EFBIG instead of ending the process and its mounts (SIGXFSZ), programs that we start can be waited
/// for (SIGCHLD), and no signal is blocked.
pub fn settle_signals() {
    for (which, handler) in
        [(Signal::SIGXFSZ, SigHandler::SigIgn), (Signal::SIGCHLD, SigHandler::SigDfl)]
    {
        // SAFETY: neither disposition is a function, so no code runs in a signal handler. That another
        // thread relies on the disposition before is excluded, since there is no other thread.
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

/// A process that is started from here on gets no descriptors but its standard ones. Descriptors that
/// were inherited stay open here.
pub fn keep_descriptors_to_ourselves() {
    let listed = std::fs::read_dir("/dev/fd").map(|entries| {
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    });
    let descriptors: Vec<i32> = listed.unwrap_or_else(|_| (0..MAX_DESCRIPTOR).collect());
    for descriptor in descriptors.into_iter().filter(|descriptor| *descriptor > 2) {
        // SAFETY: fcntl(F_SETFD) takes two integers and no pointer. It sets a flag that only counts at
        // execve(2): no descriptor is closed, so its owner can still use it, and for one that is not
        // open any more fcntl fails and changes nothing.
        #[allow(unsafe_code)]
        let _ = unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
}
