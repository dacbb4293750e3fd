//! `hypermount completions`.

use clap::CommandFactory;

use crate::cli::{Cli, Completions};
use crate::failure::{Context, Result};
use crate::terminal;

pub fn run(args: &Completions) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "hypermount", &mut script);
    terminal::print(&script).context(|| "print")
}
