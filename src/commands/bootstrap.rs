//! `hypermount bootstrap`.

use serde_json::json;

use super::{Ending, print_json};
use crate::cli::Bootstrap;
use crate::failure::{Context, Result};
use crate::network::bootstrap_node;
use crate::terminal;

pub async fn run(args: &Bootstrap) -> Result {
    let mut ending = Ending::new()?;
    let node = bootstrap_node(args.listen, &args.bootstrap).await?;
    if args.json {
        print_json(&json!({ "address": node.address() }))?;
    } else {
        terminal::print_line(&node.address().to_string()).context(|| "print")?;
    }
    tokio::select! {
        () = node.run() => (),
        () = ending.wait() => (),
    }
    log::info!("{} nodes were known", node.nodes());
    Ok(())
}
