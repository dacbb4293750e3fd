//! Uses a filesystem as a kernel does: looks names up one by one, and opens, reads and closes
//! files.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::sync::Arc;

use drivefs::{Caller, Error, Fs, FsOptions, Looked, Owner, Patience, errno};
use fuser::FileType;
use hypermount_drive::{Drive, Store};
use tokio::runtime::Handle;

use crate::tree::{Answer, Content, Is};

pub const ROOT: u64 = 1;
const OPTIONS: FsOptions =
    FsOptions { owner: Owner { uid: 1, gid: 2 }, patience: Patience::Offline, read_only: false };

pub fn number<T>(result: Result<T, Error>) -> Answer<T> {
    result.map_err(|error| errno(&error).code())
}

pub struct Kernel {
    pub fs: Arc<Fs>,
}

impl Kernel {
    pub fn new(drive: &Drive, store: &Store, read_only: bool) -> Self {
        let options = FsOptions { read_only, ..OPTIONS };
        let fs = Fs::new(drive.clone(), store.clone(), options, Handle::current());
        // There is no kernel to notify.
        fs.invalidations().close();
        Self { fs }
    }

    pub async fn look(&self, directory: u64, name: &str) -> Answer<Option<(u64, FileType)>> {
        match number(self.fs.lookup(directory, OsStr::new(name)).await)? {
            Looked::Found { ino, attributes, .. } => Ok(Some((ino, attributes.kind))),
            Looked::Absent { .. } => Ok(None),
        }
    }

    /// The directory of the last name of the path, and that name.
    pub async fn walk<'a>(&self, path: &'a str) -> Answer<(u64, &'a str)> {
        let (above, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut at = ROOT;
        for step in above.split('/').filter(|step| !step.is_empty()) {
            match self.look(at, step).await? {
                None => return Err(libc::ENOENT),
                Some((_, kind)) if kind != FileType::Directory => return Err(libc::ENOTDIR),
                Some((ino, _)) => at = ino,
            }
        }
        Ok((at, name))
    }

    pub async fn find(&self, path: &str) -> Answer<(u64, FileType)> {
        let (directory, name) = self.walk(path).await?;
        self.look(directory, name).await?.ok_or(libc::ENOENT)
    }

    pub async fn write(&self, handle: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
        while !number(self.fs.write(handle, offset, bytes, None))? {
            number(self.fs.copy_up(handle).await)?;
        }
        Ok(())
    }

    pub async fn read(&self, handle: u64, offset: u64, length: u64) -> Answer<Vec<u8>> {
        let length = u32::try_from(length).expect("a short read");
        Ok(number(self.fs.read(handle, offset, length).await)?.concat())
    }

    /// close(2) of the only descriptor.
    pub async fn close(&self, handle: u64) -> Answer<()> {
        let flushed = number(self.fs.flush(handle).await);
        let _ = self.fs.release(handle).await;
        flushed
    }

    pub async fn is(&self, ino: u64, kind: FileType, open: Option<u64>) -> Answer<Is> {
        let mode = number(self.fs.getattr(ino).await)?.0;
        let content = match (kind, open) {
            (FileType::Directory, _) => Content::Directory,
            (FileType::Symlink, _) => Content::Link(number(self.fs.readlink(ino).await)?),
            (_, Some(handle)) => Content::File(self.read(handle, 0, u32::MAX.into()).await?),
            (_, None) => {
                let opened = number(self.fs.open(ino, libc::O_RDONLY, Caller::SELF).await)?;
                let bytes = self.read(opened.handle, 0, u32::MAX.into()).await;
                number(self.fs.release(opened.handle).await)?;
                Content::File(bytes?)
            }
        };
        if let Content::File(bytes) = &content {
            assert_eq!(mode.size, bytes.len() as u64);
        }
        let attribute = match self.fs.getxattr(ino, OsStr::new("user.a"), 100).await {
            Ok(drivefs::XattrAnswer::Data(data)) => data.first().copied(),
            Ok(other) => panic!("{other:?}"),
            Err(_) => None,
        };
        let (names, first) = match kind {
            FileType::Directory => (0, String::new()),
            _ => (mode.nlink, mode.ino.0.to_string()),
        };
        Ok(Is { content, mode: mode.perm.into(), attribute, names, first })
    }

    /// The whole tree. `open` maps the paths of open files to their handles.
    pub async fn shown(&self, open: &BTreeMap<&str, u64>) -> Answer<BTreeMap<String, Is>> {
        let mut all = BTreeMap::new();
        let mut directories = vec![(String::new(), ROOT)];
        while let Some((path, directory)) = directories.pop() {
            let handle = number(self.fs.opendir(directory).await)?;
            let page = number(self.fs.readdir(handle, 0).await)?;
            let mut names = Vec::new();
            page.fill(&self.fs, false, |listed| {
                names.push(listed.name.to_owned());
                false
            });
            number(self.fs.releasedir(handle))?;
            for name in names.into_iter().filter(|name| name != "." && name != "..") {
                let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
                let (ino, kind) = self.look(directory, &name).await?.ok_or(libc::ENOENT)?;
                let is = self.is(ino, kind, open.get(path.as_str()).copied()).await?;
                if is.content == Content::Directory {
                    directories.push((path.clone(), ino));
                }
                assert!(all.insert(path.clone(), is).is_none(), "{path} is listed twice");
            }
        }
        let mut firsts: BTreeMap<String, String> = BTreeMap::new();
        for (path, is) in all.iter_mut().filter(|(_, is)| !is.first.is_empty()) {
            let first = firsts.entry(is.first.clone()).or_insert_with(|| path.clone());
            is.first.clone_from(first);
        }
        Ok(all)
    }
}
