//! `mount.hypermount`: this program under the name by which mount(8) calls it for a line of fstab(5)
//! such as
//!
//! ```text
//! hyper://KEY  /mnt/drive  hypermount  ro,peer=example.org:3282,nofail,_netdev,allow_other  0 0
//! ```
//!
//! It understands the line and then does what `hypermount mount` does.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The name it is called by, as a link to this program in `/sbin`.
const NAME: &str = "mount.hypermount";
/// Options of mount(8) and systemd that are not for us, or that always hold for our mounts.
const IGNORED: [&str; 20] = [
    "rw",
    "defaults",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "user",
    "nouser",
    "users",
    "owner",
    "group",
    "nosuid",
    "nodev",
    "noatime",
    "relatime",
    "async",
    "loud",
    "noiversion",
    "exec",
    "suid",
];

/// The arguments of `hypermount mount` for those of `mount.hypermount SOURCE DIR [-sfnv] [-o
/// OPTIONS]`; `None` if the program was not called by that name. Fails in words.
pub fn arguments(called: &[OsString]) -> Option<Result<Vec<OsString>, String>> {
    let name = called.first().map(Path::new).and_then(Path::file_name);
    if name != Some(OsStr::new(NAME)) {
        return None;
    }
    Some(translate(called.get(1..).unwrap_or_default()))
}

fn translate(arguments: &[OsString]) -> Result<Vec<OsString>, String> {
    let mut plain = Vec::new();
    let mut options = Vec::new();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        match argument.to_str() {
            Some("-o") => options.push(rest.next().ok_or("-o takes options")?.clone()),
            Some("-t") => drop(rest.next()),
            Some("-f") => return Err("-f: faking a mount is not supported".to_owned()),
            // Sloppy, no mtab, verbose.
            Some(flags) if flags.starts_with('-') && flags.len() > 1 => {}
            _ => plain.push(argument.clone()),
        }
    }
    let [source, directory] = plain.as_slice() else {
        return Err(format!("usage: {NAME} SOURCE DIR [-o OPTIONS]"));
    };
    let mut words: Vec<OsString> = vec!["hypermount".into(), "mount".into()];
    for options in &options {
        let options = options.as_bytes().split(|byte| *byte == b',').map(OsStr::from_bytes);
        for option in options.filter(|option| !option.is_empty()) {
            words.extend(translate_option(option)?);
        }
    }
    words.extend(["--".into(), source.clone(), directory.clone()]);
    Ok(words)
}

fn translate_option(option: &OsStr) -> Result<Option<OsString>, String> {
    let word = |text: String| Ok(Some(OsString::from(text)));
    let Some(option) = option.to_str() else {
        // Only the path of the store may be other than UTF-8.
        let path = option.as_bytes().strip_prefix(b"store=").map(OsStr::from_bytes);
        let path = path.ok_or_else(|| format!("{}: not UTF-8", option.display()))?;
        let mut word = OsString::from("--store=");
        word.push(path);
        return Ok(Some(word));
    };
    match option.split_once('=') {
        Some((name @ ("store" | "peer" | "wait" | "listen"), value)) => {
            word(format!("--{name}={value}"))
        }
        None if option == "ro" => word("--read-only".to_owned()),
        None if option == "allow_other" => word("--allow-other".to_owned()),
        None if IGNORED.contains(&option) => Ok(None),
        // For systemd.mount(5), or a comment.
        _ if option.starts_with("x-") || option.starts_with("comment=") => Ok(None),
        _ => Err(format!("{option}: no such option of a hypermount line in fstab")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split(' ').map(OsString::from).collect()
    }

    #[test]
    fn a_line_of_fstab_becomes_a_command() {
        let called = words(
            "/sbin/mount.hypermount hyper://KEY /mnt/d -n -o \
             ro,nofail,_netdev,allow_other,store=/srv/s,peer=a:1,peer=b:2,x-systemd.automount",
        );
        let command = arguments(&called).unwrap().unwrap();
        let expected = "hypermount mount --read-only --allow-other --store=/srv/s --peer=a:1 \
                        --peer=b:2 -- hyper://KEY /mnt/d";
        assert_eq!(command, words(expected));
    }

    #[test]
    fn the_path_of_a_store_need_not_be_utf8() {
        let option = OsStr::from_bytes(b"ro,store=/srv/\xfc");
        let mut called = words("mount.hypermount x /y -o");
        called.push(option.to_owned());
        let command = arguments(&called).unwrap().unwrap();
        assert_eq!(command[3].as_bytes(), b"--store=/srv/\xfc");
        called[4] = OsStr::from_bytes(b"\xfc").to_owned();
        assert!(arguments(&called).unwrap().is_err());
    }

    #[test]
    fn unknown_options_of_fstab_are_refused() {
        for options in ["typo", "store", "uid=5", "read_only"] {
            let called = words(&format!("mount.hypermount x /y -o {options}"));
            assert!(arguments(&called).unwrap().is_err(), "{options}");
        }
        assert!(arguments(&words("mount.hypermount x")).unwrap().is_err());
        assert!(arguments(&words("mount.hypermount x /y -f")).unwrap().is_err());
        assert!(arguments(&words("/usr/bin/hypermount mount x y")).is_none());
    }
}
