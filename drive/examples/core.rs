//! Looks into a store and appends to it, one core at a time: for trying things out, and for
//! checking by hand that the original implementation reads what we write and the other way round.
//!
//! ```text
//! core <store> keys
//! core <store> append <name> <text>…
//! core <store> cat <key>
//! core <store> clear <key> <start> <end>
//! core <store> audit <key>
//! ```

use std::path::Path;

use bytes::Bytes;
use drive::{Core, Error, PublicKey, Result, Store};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let core = |store: &str, key: &str| -> Result<Core> {
        let key = PublicKey::from_hex(key)
            .ok_or_else(|| Error::InvalidUrl(format!("{key} is not a key of 64 hex digits")))?;
        Store::open(Path::new(store), false)?.core(&key)
    };
    match arguments.as_slice() {
        [store, "keys"] => {
            for key in Store::open(Path::new(store), false)?.keys()? {
                println!("{}", key.to_hex());
            }
        }
        [store, "append", name, texts @ ..] => {
            let core = Store::open(Path::new(store), true)?.core_named(name.as_bytes())?;
            let blocks: Vec<Bytes> =
                texts.iter().map(|text| Bytes::from(text.to_string())).collect();
            let head = core.append(&blocks)?;
            core.sync()?;
            println!("{} {}", core.key().to_hex(), head.length);
        }
        [store, "cat", key] => {
            let core = core(store, key)?;
            for block in 0..core.head().length {
                match core.get_local(block)? {
                    Some(bytes) => println!("{block} {}", String::from_utf8_lossy(&bytes)),
                    None => println!("{block} -"),
                }
            }
        }
        [store, "clear", key, start, end] => {
            let number = |text: &str| {
                text.parse().map_err(|_| Error::InvalidUrl(format!("{text} is not a number")))
            };
            core(store, key)?.clear(number(start)?..number(end)?)?;
        }
        [store, "audit", key] => println!("{:?}", core(store, key)?.audit()?),
        _ => println!("core <store> keys|append|cat|clear|audit …"),
    }
    Ok(())
}
