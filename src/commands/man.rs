//! `hypermount man`.

use clap::CommandFactory;

use crate::cli::{Cli, Man};
use crate::failure::{Context, Result};
use crate::terminal;

pub fn run(args: &Man) -> Result {
    let Some(directory) = &args.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(Cli::command()).render(&mut page).context(|| "write the manual")?;
        return terminal::print(&page).context(|| "print");
    };
    let what = || format!("write the manual to {}", directory.display());
    std::fs::create_dir_all(directory).context(what)?;
    clap_mangen::generate_to(Cli::command(), directory).context(what)
}
