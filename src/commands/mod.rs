//! One file per command. A command calls the libraries and prints; it decides nothing about drives.

mod adopt;
mod bootstrap;
mod cat;
mod check;
mod completions;
mod convert;
mod create;
mod daemon;
pub mod helper;
mod info;
mod limit;
mod list;
mod ls;
mod man;
mod mount;
mod recover;
mod seed;
mod serve;
mod service;
mod stat;
mod status;
mod top;
mod transfer;
mod unmount;

use std::io;

use serde::Serialize;

use crate::cli::{Cli, Command};
use crate::failure::{Context, Result};
use crate::process::runtime;
use crate::terminal;

pub fn run(cli: Cli) -> Result {
    match cli.command {
        Command::Create(args) => runtime()?.block_on(create::run(&args)),
        Command::Mount(args) => mount::run(&args),
        Command::Unmount(args) => unmount::run(&args),
        Command::Ls(args) => runtime()?.block_on(ls::run(&args)),
        Command::Cat(args) => runtime()?.block_on(cat::run(&args)),
        Command::Stat(args) => runtime()?.block_on(stat::run(&args)),
        Command::List(args) => runtime()?.block_on(list::run(&args)),
        Command::Import(args) => runtime()?.block_on(transfer::run_import(&args)),
        Command::Export(args) => runtime()?.block_on(transfer::run_export(&args)),
        Command::Convert(args) => runtime()?.block_on(convert::run(&args)),
        Command::Adopt(args) => adopt::run(&args),
        Command::Check(args) => runtime()?.block_on(check::run(&args)),
        Command::Recover(args) => runtime()?.block_on(recover::run(&args)),
        Command::Info(args) => runtime()?.block_on(info::run(&args)),
        Command::Serve(args) => runtime()?.block_on(serve::run(&args)),
        Command::Bootstrap(args) => runtime()?.block_on(bootstrap::run(&args)),
        Command::Share(args) => runtime()?.block_on(seed::run_share(&args)),
        Command::Seed(args) => runtime()?.block_on(seed::run_seed(&args)),
        Command::Unseed(args) => runtime()?.block_on(seed::run_unseed(&args)),
        Command::Publish(args) => runtime()?.block_on(seed::run_publish(&args)),
        Command::Status(args) => runtime()?.block_on(status::run_status(&args)),
        Command::Peers(args) => runtime()?.block_on(status::run_peers(&args)),
        Command::Why(args) => runtime()?.block_on(status::run_why(&args)),
        Command::Watch(args) => runtime()?.block_on(status::run_watch(&args)),
        Command::Top(args) => runtime()?.block_on(top::run(&args)),
        Command::Limit(args) => runtime()?.block_on(limit::run(&args)),
        Command::Service(args) => service::run(&args),
        Command::Daemon(args) => daemon::run(&args, cli.detached),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

fn print_json(value: &impl Serialize) -> Result {
    let what = || "print";
    let line = serde_json::to_string(value).map_err(io::Error::other).context(what)?;
    terminal::print_line(&line).context(what)
}
