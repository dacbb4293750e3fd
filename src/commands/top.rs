//! `hypermount top`: which process, file and drive fetches how much, live.

use std::time::Duration;

use super::print_json;
use crate::cli::Top;
use crate::client::{self, Client};
use crate::directories;
use crate::failure::{Context, Failure, Result};
use crate::model::Activity;
use crate::process::Ending;
use crate::terminal::{self, escaped, size, stdout_is_terminal, table};

/// Pause between two updates of the screen.
const REFRESH: Duration = Duration::from_secs(1);
/// Lines of each kind.
const MAX_LINES: usize = 8;
/// To the top left corner, and everything below it cleared.
const CLEAR: &str = "\x1b[H\x1b[J";

pub async fn run(args: &Top) -> Result {
    let store = directories::store(args.store.as_deref())?;
    let client = client::find(&store).await?.ok_or_else(|| {
        Failure::failed("top", format!("no daemon runs for {}", store.display()))
            .hint("mount a drive first")
    })?;
    if args.json {
        return print_json(&activity(&client).await?);
    }
    if args.once || !stdout_is_terminal() || terminal::is_dumb() {
        return terminal::print(screen(&activity(&client).await?).as_bytes()).context(|| "print");
    }
    let mut ending = Ending::new()?;
    loop {
        let screen = screen(&activity(&client).await?);
        terminal::print(format!("{CLEAR}{screen}").as_bytes()).context(|| "print")?;
        tokio::select! {
            () = tokio::time::sleep(REFRESH) => {}
            () = ending.wait() => return Ok(()),
        }
    }
}

async fn activity(client: &Client) -> Result<Activity> {
    client.get("/activity").await
}

fn screen(activity: &Activity) -> String {
    let traffic = activity.traffic;
    let mut text = format!(
        "receiving {}/s, sending {}/s; received {}, sent {}\n\n",
        size(traffic.receive_rate),
        size(traffic.send_rate),
        size(traffic.received),
        size(traffic.sent)
    );
    let mut rows = vec![["FETCHED", "PID", "PROGRAM", "MOUNT"].map(str::to_owned)];
    rows.extend(activity.processes.iter().take(MAX_LINES).map(|process| {
        let at = escaped(&process.mountpoint.to_string_lossy()).into_owned();
        let program = escaped(&process.program).into_owned();
        [size(process.fetched), process.pid.to_string(), program, at]
    }));
    text.push_str(&table(&rows));
    text.push('\n');
    let mut rows = vec![["FETCHED", "FILE"].map(str::to_owned)];
    rows.extend(activity.files.iter().take(MAX_LINES).map(|file| {
        let path = file.mountpoint.join(&file.path);
        [size(file.fetched), escaped(&path.to_string_lossy()).into_owned()]
    }));
    text.push_str(&table(&rows));
    text.push('\n');
    let mut rows = vec![["FETCHED", "DRIVE AT"].map(str::to_owned)];
    rows.extend(activity.drives.iter().take(MAX_LINES).map(|drive| {
        [size(drive.fetched), escaped(&drive.mountpoint.to_string_lossy()).into_owned()]
    }));
    text.push_str(&table(&rows));
    text
}
