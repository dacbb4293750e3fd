//! How a command fails: one sentence that names what and why, a hint where a remedy is known, and
//! an exit code a script can act on. The errno an application sees is `fs/errno.rs`'s business.

use std::fmt::Display;
use std::io;
use std::process::ExitCode;

use hypermount_core::StoreKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::terminal::escaped;

/// Exit codes; part of the command's interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    Failed = 1,
    Usage = 2,
    /// No peer, or none that answered in time.
    Unavailable = 3,
    /// Another process has the store.
    Locked = 4,
    /// Something on disk, or signed by the publisher, does not verify.
    Verification = 5,
}

/// Why a command failed. Serialised, it is also the report of a detached process that could not start,
/// and the daemon's answer to a request that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Failure {
    what: String,
    why: String,
    hint: Option<String>,
    code: Code,
}

pub type Result<T = (), E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub fn new(code: Code, what: impl Display, why: impl Display) -> Self {
        Self { what: what.to_string(), why: why.to_string(), hint: None, code }
    }

    pub fn failed(what: impl Display, why: impl Display) -> Self {
        Self::new(Code::Failed, what, why)
    }

    pub fn usage(what: impl Display, why: impl Display) -> Self {
        Self::new(Code::Usage, what, why)
    }

    /// Sets the remedy, in place of the general one.
    pub fn hint_if_none(self, hint: impl Display) -> Self {
        if self.hint.is_some() { self } else { self.hint(hint) }
    }

    pub fn hint(mut self, hint: impl Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    pub fn code(&self) -> Code {
        self.code
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code as u8)
    }

    /// The failure as one line, for a log or a list.
    pub fn sentence(&self) -> String {
        format!("{}: {}", self.what, self.why)
    }

    /// To stderr. Paths and peers' words may be in it, so control characters are escaped.
    pub fn print(&self) {
        eprintln!("error: {}: {}", escaped(&self.what), escaped(&self.why));
        if let Some(hint) = &self.hint {
            eprintln!("hint: {}", escaped(hint));
        }
    }
}

/// Adds to an error what was being attempted.
pub trait Context<T> {
    fn context<W: Display>(self, what: impl FnOnce() -> W) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<W: Display>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|error| Failure::failed(what(), error))
    }
}

impl<T> Context<T> for hypermount_core::Result<T> {
    fn context<W: Display>(self, what: impl FnOnce() -> W) -> Result<T> {
        self.map_err(|error| {
            let (code, hint) = judge(&error);
            Failure { what: what().to_string(), why: error.to_string(), hint, code }
        })
    }
}

fn judge(error: &hypermount_core::Error) -> (Code, Option<String>) {
    use hypermount_core::Error::*;
    if let NotOwner { owner, .. } = error {
        let hint = format!(
            "run the command as that user (for example: sudo -u {owner} hypermount …), or name a store \
             of your own with --store DIR"
        );
        return (Code::Failed, Some(hint));
    }
    if let Storage { path, source, .. } = error
        && source.kind() == io::ErrorKind::StorageFull
    {
        let path = path.display();
        let hint =
            format!("make room on the disk that holds {path}, and run the same command again");
        return (Code::Failed, Some(hint));
    }
    if let Locked { path, .. } = error
        && StoreKind::of(path) == Some(StoreKind::Corestore6)
    {
        let hint = "its files are read while that program does not run; while it runs, name the drive by its \
                    key: hypermount mount hyper://KEY DIR";
        return (Code::Locked, Some(hint.to_owned()));
    }
    let (code, hint) = match error {
        InvalidUrl(_) | InvalidPath(_) | NameTooLong { .. } => (Code::Usage, None),
        Unavailable { .. } => (
            Code::Unavailable,
            Some("name a peer that has the drive with --peer HOST:PORT, or raise --wait"),
        ),
        Locked { .. } => (
            Code::Locked,
            Some(
                "one process uses a store at a time: unmount it there (or `hypermount daemon stop`), \
                 or use --store DIR",
            ),
        ),
        NotAStore { .. } => (
            Code::Failed,
            Some(
                "a store is the directory a drive was made in, with master_key or, of the `drives` \
                 command, primary-key",
            ),
        ),
        OtherProgram { .. } => (
            Code::Failed,
            Some(
                "name the drive by its key while that program runs, which then serves it: \
                 hypermount mount hyper://KEY DIR",
            ),
        ),
        NoSuchDrive(_) => (Code::Failed, Some("`hypermount info DIR` lists the drives of a store")),
        Corrupt { .. } => (
            Code::Verification,
            Some(
                "`hypermount check` names what is damaged on this disk and repairs what it can; a drive of \
                 another publisher can also be fetched again, with a new --store",
            ),
        ),
        Forked { .. } => (
            Code::Verification,
            Some("its owner signed two histories; what was seen first is kept"),
        ),
        Shortened(_) => (
            Code::Unavailable,
            Some("name the drive without a version, or another one, and start again"),
        ),
        Malformed(_) => (Code::Verification, None),
        WrongEncryptionKey(_) | NeedsEncryptionKey(_) => {
            (Code::Verification, Some("give the encryption key: add --encryption-key"))
        }
        ReadOnly(why) if is_stop(why) => (
            Code::Failed,
            Some("write in the newest copy only; if this is it, see `hypermount adopt --help`"),
        ),
        _ => (Code::Failed, None),
    };
    (code, hint.map(str::to_owned))
}

/// Whether a core is read-only because there may be another history of it.
fn is_stop(why: &str) -> bool {
    use hypermount_core::StopReason::*;
    [Moved, Restored, Behind { length: 0 }, Forked].iter().any(|stop| stop.reason() == why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_tells_the_situation() {
        let locked =
            hypermount_core::Error::Locked { path: "/s".into(), holder: "process 7".into() };
        let failure = Err::<(), _>(locked).context(|| "open the store").unwrap_err();
        assert_eq!(failure.code, Code::Locked);
        assert_eq!(failure.why, "store /s is in use by process 7");
        assert!(failure.hint.is_some());
        let plain = Err::<(), _>(hypermount_core::Error::NotFound).context(|| "/x").unwrap_err();
        assert_eq!((plain.code, plain.hint), (Code::Failed, None));
    }

    #[test]
    fn an_explicit_hint_replaces_the_general_one() {
        let unavailable =
            hypermount_core::Error::NoSuchDrive(hypermount_swarm::PublicKey::new([0; 32]));
        let failure = Err::<(), _>(unavailable).context(|| "open").unwrap_err().hint("mine");
        assert_eq!(failure.hint.as_deref(), Some("mine"));
    }

    #[test]
    fn a_failure_is_the_same_after_serialisation() {
        let failure = Failure::new(Code::Unavailable, "what", "why\n\u{1b}[31m").hint("hint");
        let line = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&line).unwrap(), failure);
    }
}
