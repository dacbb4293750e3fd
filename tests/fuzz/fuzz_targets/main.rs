//! The fuzz targets in one program, which is built faster than one for each: `FUZZ_TARGET` names the one to run.
#![no_main]

mod alpha;
mod bee_extension;
mod core_files;
mod extension;
mod handshake;
mod hyperdht;
mod manifest;
mod messages;
mod oplog;
mod packets;
mod protomux;
mod records;
mod run_length;
mod secret_stream;
mod session;
mod stat;
mod text;
mod trie;
mod udx;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

const TARGETS: [(&str, Target); 19] = [
    ("alpha", alpha::run),
    ("bee_extension", bee_extension::run),
    ("core_files", core_files::run),
    ("extension", extension::run),
    ("handshake", handshake::run),
    ("hyperdht", hyperdht::run),
    ("manifest", manifest::run),
    ("messages", messages::run),
    ("oplog", oplog::run),
    ("packets", packets::run),
    ("protomux", protomux::run),
    ("records", records::run),
    ("run_length", run_length::run),
    ("secret_stream", secret_stream::run),
    ("session", session::run),
    ("stat", stat::run),
    ("text", text::run),
    ("trie", trie::run),
    ("udx", udx::run),
];

static CHOSEN: OnceLock<Target> = OnceLock::new();

/// # Panics
/// If `FUZZ_TARGET` names none of [`TARGETS`].
fn chosen() -> Target {
    let name = std::env::var("FUZZ_TARGET").expect("FUZZ_TARGET names a target");
    let found = TARGETS.iter().find(|(target, _)| *target == name);
    found.unwrap_or_else(|| panic!("FUZZ_TARGET={name}: there is no such target")).1
}

fuzz_target!(|input: &[u8]| CHOSEN.get_or_init(chosen)(input));
