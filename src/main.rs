//! The `hypermount` command: parse, set up logging, run one command, turn its failure into an exit
//! code. What a command does is in `commands/`, what a drive is in the `drive` library.
#![forbid(unsafe_code)]

// In import order: a module may use those above it (scripts/layers.sh).
mod terminal;
mod path_text;
mod failure;
mod process;
mod directories;
mod model;
mod values;
mod source;
mod network;
mod record;
mod presence;
mod saved;
mod launch;
mod client;
mod stored;
mod target;
mod session;
mod access;
mod answers;
mod mountpoint;
mod daemon;
mod cli;
mod commands;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    drivefs::settle_allocator();
    drivefs::settle_signals();
    process::allow_open_files();
    let called: Vec<_> = std::env::args_os().collect();
    let words = match commands::helper::arguments(&called) {
        None => called,
        Some(Ok(words)) => words,
        Some(Err(why)) => {
            eprintln!("error: {why}");
            return ExitCode::from(2);
        }
    };
    let cli = match cli::Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return cli::explain(&error),
    };
    terminal::init_logging(cli.verbose);
    match commands::run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            failure.exit_code()
        }
    }
}
