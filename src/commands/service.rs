//! `hypermount service`: a systemd user unit, or on macOS a launchd agent, that starts the daemon of a
//! store when its user logs in. Saved mounts and seeds come back with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::cli::{Service, ServiceCommand, ServiceInstall};
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::presence::name_of;

pub fn run(args: &Service) -> Result {
    match &args.command {
        ServiceCommand::Install(args) => install(args),
        ServiceCommand::Uninstall(args) => uninstall(args),
    }
}

/// One service per store.
struct Unit {
    /// The name for the service manager.
    name: String,
    path: PathBuf,
    text: String,
}

fn unit(args: &ServiceInstall) -> Result<Unit> {
    let store = directories::store(args.store.as_deref())?;
    let program = std::env::current_exe().context(|| "find this program")?;
    let default = directories::default_store().is_ok_and(|default| default == store);
    let suffix = if default { String::new() } else { format!("-{}", name_of(&store)) };
    let home = directories::home()?;
    if cfg!(target_os = "macos") {
        let name = format!("org.hypermount.daemon{suffix}");
        let path = home.join("Library/LaunchAgents").join(format!("{name}.plist"));
        let text = agent(&name, &program, &store)?;
        return Ok(Unit { name, path, text });
    }
    let name = format!("hypermount{suffix}.service");
    let path = directories::config_home()?.join("systemd/user").join(&name);
    Ok(Unit { name, path, text: systemd_unit(&program, &store)? })
}

fn install(args: &ServiceInstall) -> Result {
    let unit = unit(args)?;
    let what = || format!("write {}", unit.path.display());
    if let Some(directory) = unit.path.parent() {
        fs::create_dir_all(directory).context(what)?;
    }
    fs::write(&unit.path, &unit.text).context(what)?;
    eprintln!("wrote {}", unit.path.display());
    if args.no_start {
        return Ok(());
    }
    if cfg!(target_os = "macos") {
        return manage("launchctl", &["load", "-w", &unit.path.to_string_lossy()]);
    }
    manage("systemctl", &["--user", "daemon-reload"])?;
    manage("systemctl", &["--user", "enable", "--now", &unit.name])?;
    eprintln!("to have it run while you are not logged in: loginctl enable-linger");
    Ok(())
}

fn uninstall(args: &ServiceInstall) -> Result {
    let unit = unit(args)?;
    if !args.no_start {
        if cfg!(target_os = "macos") {
            manage("launchctl", &["unload", "-w", &unit.path.to_string_lossy()])?;
        } else {
            manage("systemctl", &["--user", "disable", "--now", &unit.name])?;
        }
    }
    fs::remove_file(&unit.path).context(|| format!("remove {}", unit.path.display()))
}

fn manage(program: &str, arguments: &[&str]) -> Result {
    let what = || format!("{program} {}", arguments.join(" "));
    let hint = "with --no-start only the file is written; enable it by hand";
    let status = Command::new(program)
        .args(arguments)
        .status()
        .map_err(|error| Failure::failed(what(), error).hint(hint))?;
    if !status.success() {
        return Err(Failure::failed(what(), status).hint(hint));
    }
    Ok(())
}

/// systemd.service(5). Only what the daemon needs: it runs as the user and mounts through the setuid
/// helper, which `NoNewPrivileges` would forbid.
fn systemd_unit(program: &Path, store: &Path) -> Result<String> {
    Ok(format!(
        "[Unit]\n\
         Description=hypermount: mounts and seeds of {}\n\
         Documentation=man:hypermount(1)\n\
         \n\
         [Service]\n\
         ExecStart={} daemon run --create --store {}\n\
         Restart=on-failure\n\
         RestartSec=1\n\
         # Programs in the mounts may have much to store.\n\
         TimeoutStopSec=300\n\
         \n\
         [Install]\n\
         WantedBy=default.target\n",
        text(store)?.replace('%', "%%").replace('\n', " "),
        quoted(text(program)?)?,
        quoted(text(store)?)?
    ))
}

/// A word of a command line as systemd reads it: quoted, with specifiers and variables as they are.
fn quoted(word: &str) -> Result<String> {
    if word.contains(['\n', '\r', '\0']) {
        return Err(Failure::failed("write the unit", format!("{word:?} has a line break")));
    }
    let escaped = word.replace('\\', "\\\\").replace('"', "\\\"");
    Ok(format!("\"{}\"", escaped.replace('%', "%%").replace('$', "$$")))
}

/// launchd.plist(5).
fn agent(name: &str, program: &Path, store: &Path) -> Result<String> {
    let words = [text(program)?, "daemon", "run", "--create", "--store", text(store)?];
    let words: String =
        words.iter().map(|word| format!("    <string>{}</string>\n", xml(word))).collect();
    Ok(format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <plist version=\"1.0\"><dict>\n\
         \x20 <key>Label</key><string>{}</string>\n\
         \x20 <key>ProgramArguments</key><array>\n{words}  </array>\n\
         \x20 <key>RunAtLoad</key><true/>\n\
         \x20 <key>KeepAlive</key><dict><key>SuccessfulExit</key><false/></dict>\n\
         </dict></plist>\n",
        xml(name)
    ))
}

fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().ok_or_else(|| Failure::failed(path.display(), "it is not UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn special_characters_of_a_path_are_quoted() {
        let store = Path::new("/a b/%h/\"x\" $HOME\\");
        let unit = systemd_unit(Path::new("/usr/bin/hypermount"), store).unwrap();
        let line = unit.lines().find(|line| line.starts_with("ExecStart=")).unwrap();
        let word = "\"/a b/%%h/\\\"x\\\" $$HOME\\\\\"";
        assert!(line.ends_with(&format!("--store {word}")), "{line}");
        assert!(systemd_unit(Path::new("/x"), Path::new("/a\nExecStart=/bin/sh")).is_err());
        assert!(agent("n", Path::new("/x"), Path::new("/<&>")).unwrap().contains("/&lt;&amp;&gt;"));
    }
}
