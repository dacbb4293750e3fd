//! Where the programs are that the benchmark runs.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

pub struct Tools {
    /// The program under test.
    pub hypermount: PathBuf,
    pub passthrough: PathBuf,
    pub relay: PathBuf,
    reference: PathBuf,
    /// The program of Hyperdrive 13, which finds its packages by itself.
    modern: PathBuf,
    /// Holds the FUSE library the reference brings along, under the name it looks for.
    libraries: PathBuf,
}

impl Tools {
    /// Programs of this package are beside the one that runs.
    pub fn find(hypermount: PathBuf, reference: PathBuf, work: &Path) -> io::Result<Tools> {
        let beside = |name: &str| Ok::<_, io::Error>(env::current_exe()?.with_file_name(name));
        let libraries = work.join("lib");
        fs::create_dir_all(&libraries)?;
        let shipped = reference.join("node_modules/fuse-native/prebuilds/linux-x64/libfuse.so");
        let link = libraries.join("libfuse.so.2");
        if fs::symlink_metadata(&link).is_err() && shipped.exists() {
            std::os::unix::fs::symlink(fs::canonicalize(shipped)?, link)?;
        }
        Ok(Tools {
            hypermount,
            passthrough: beside("passthrough")?,
            relay: beside("relay")?,
            modern: reference.join("modern.js"),
            reference: reference.join("reference.js"),
            libraries,
        })
    }

    /// A command of the reference's program.
    pub fn reference(&self, command: &str) -> Command {
        let mut node = Command::new("node");
        node.arg(&self.reference).arg(command).env("LD_LIBRARY_PATH", &self.libraries);
        node
    }

    /// A command of the reference's program for Hyperdrive 13.
    pub fn modern(&self, command: &str) -> Command {
        let mut node = Command::new("node");
        node.arg(&self.modern).arg(command);
        node
    }
}

/// git with a neutral identity, independent of this user's configuration.
pub fn git() -> Command {
    let mut git = Command::new("git");
    for role in ["AUTHOR", "COMMITTER"] {
        git.env(format!("GIT_{role}_NAME"), "bench")
            .env(format!("GIT_{role}_EMAIL"), "bench@example.org");
        git.env(format!("GIT_{role}_DATE"), "2020-09-13T12:26:40Z");
    }
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null");
    git
}
