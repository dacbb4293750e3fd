//! The `hypermount` command: parse, set up logging, run one command, turn its failure into an exit
//! code. What a command does is in `commands/`, what a drive is in the `drive` library.
#![forbid(unsafe_code)]

mod answers;
mod background;
mod cli;
mod client;
mod commands;
mod config;
mod daemon;
mod everything;
mod failure;
mod limits;
mod mounted;
mod mounting;
mod named;
mod network;
mod path_text;
mod reach;
mod record;
mod session;
mod target;
mod terminal;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    drivefs::settle_allocator();
    drivefs::settle_signals();
    limits::allow_open_files();
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
