//! Output for people: escaped names, sizes and times as text, the spinner, the log.
//!
//! Convention: data goes to stdout, messages to stderr. Neither is coloured or animated unless it is a
//! terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressStyle};

/// Time between two steps of the spinner.
const SPINNER_TICK: Duration = Duration::from_millis(120);
/// The last millisecond of the year 9999, the end of the dates RFC 3339 can write.
const LAST_DATE_MS: u64 = 253_402_300_799_999;

/// `text` with each character that could control a terminal written as `\xNN` or `\u{…}`: control
/// characters, and those that reorder or hide text. A backslash is doubled, so that the result is
/// unambiguous.
pub fn escaped(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c == '\\' || deceptive(c)) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        match c {
            '\\' => shown.push_str("\\\\"),
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if deceptive(c) && u32::from(c) < 0x100 => {
                shown.push_str(&format!("\\x{:02x}", u32::from(c)));
            }
            c if deceptive(c) => shown.push_str(&format!("\\u{{{:x}}}", u32::from(c))),
            c => shown.push(c),
        }
    }
    Cow::Owned(shown)
}

fn deceptive(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

/// File content on its way to a terminal: text stays text, control bytes other than newline and
/// tab become visible.
pub fn escaped_content(bytes: &[u8]) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\n' | b'\t' => shown.push(byte),
            0..=0x1f | 0x7f => shown.extend([b'^', byte ^ 0x40]),
            _ => shown.push(byte),
        }
    }
    shown
}

/// Writes to stdout. If the reader has closed the pipe (`| head`), ends the program without a message.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => result,
    }
}

/// As [`print()`], one line.
pub fn print_line(line: &str) -> io::Result<()> {
    print(format!("{line}\n").as_bytes())
}

pub fn stdout_is_terminal() -> bool {
    io::stdout().is_terminal()
}

/// Milliseconds since 1970 as `2020-09-13T12:26:40Z`; a time outside of the years 1970 to 9999 as a number.
pub fn date(milliseconds: i64) -> String {
    let since = u64::try_from(milliseconds).ok().filter(|since| *since <= LAST_DATE_MS);
    let Some(since) = since else { return format!("@{milliseconds}ms") };
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(since);
    humantime::format_rfc3339_seconds(time).to_string()
}

/// A number of bytes in binary units: `204800` is `200.0 KiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = UNITS[0];
    for next in &UNITS[1..] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// Whether the terminal cannot move the cursor (TERM is `dumb`).
pub fn is_dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// A spinner on stderr with a message; hidden unless stderr is a terminal.
pub fn spinner(message: String) -> ProgressBar {
    if !io::stderr().is_terminal() || is_dumb() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message);
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        bar.set_style(style);
    }
    bar.enable_steady_tick(SPINNER_TICK);
    bar
}

/// The log goes to stderr: warnings by default, `-v` info, `-vv` debug, `-vvv` everything.
/// RUST_LOG, when set, decides alone.
pub fn init_logging(verbose: u8) {
    let level = match verbose {
        0 => "warn",
        1 => "info",
        2 => "debug",
        _ => "trace",
    };
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or(level)).init();
}

/// Columns as wide as their widest cell, two spaces apart.
pub fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let width = width(column).unwrap_or(0);
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_drive_the_terminal() {
        assert_eq!(escaped("plain ünï 日本"), "plain ünï 日本");
        assert_eq!(escaped("a\u{1b}[2Jb"), "a\\x1b[2Jb");
        assert_eq!(escaped("two\nlines\\"), "two\\nlines\\\\");
        assert_eq!(escaped("exe\u{202e}gpj"), "exe\\u{202e}gpj");
        assert_eq!(escaped("\u{9b}31m"), "\\x9b31m");
    }

    #[test]
    fn content_shows_its_control_bytes() {
        assert_eq!(escaped_content(b"a\tb\n\x1b[31m\x7f"), b"a\tb\n^[[31m^?");
    }

    #[test]
    fn dates_a_publisher_invents_do_not_panic() {
        assert_eq!(date(1_600_000_000_000), "2020-09-13T12:26:40Z");
        assert_eq!(date(253_402_300_799_999), "9999-12-31T23:59:59Z");
        assert_eq!(date(253_402_300_800_000), "@253402300800000ms");
        assert_eq!(date(-1), "@-1ms");
    }

    #[test]
    fn sizes_have_one_decimal() {
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(204_800), "200.0 KiB");
        assert_eq!(size(u64::MAX), "16.0 EiB");
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb"], ["ccc", "d"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(&rows), "a    bb\nccc  d\n");
    }
}
