//! The children of one directory.

use std::collections::HashSet;
use std::sync::Arc;

use super::Trie;
use super::iterate::MAX_ITERATED;
use super::key::{DIGITS_PER_COMPONENT, END, TrieKey};
use super::node::Node;
use crate::error::Result;
use crate::wait::Wait;

/// What follows a prefix by one component.
#[derive(Clone, Debug)]
pub struct Child {
    pub name: String,
    /// Its own node; `None` if only something below it exists.
    pub node: Option<Arc<Node>>,
    /// Its own node or one below it: the newest.
    pub representative: Arc<Node>,
}

impl Trie {
    /// The children of `prefix` in the reference's order. The prefix's own node is not among them.
    pub async fn children(&self, prefix: &TrieKey, wait: Wait) -> Result<Vec<Child>> {
        let depth = prefix.components().len();
        let end = prefix.length() - 1 + DIGITS_PER_COMPONENT;
        let mut names = HashSet::new();
        let mut children = Vec::new();
        for representative in self.representatives(prefix, MAX_ITERATED, wait).await? {
            let components = representative.key.components();
            let below = components.starts_with(&prefix.components());
            let Some(name) = components.get(depth).filter(|_| below) else {
                continue;
            };
            if !names.insert((*name).to_owned()) {
                continue;
            }
            let name = (*name).to_owned();
            // Where the child's name ends, its own node takes the last branch of all.
            let own = match representative.key.digit(end) {
                END => None,
                _ => representative.buckets.slot(end, u32::from(END)),
            };
            children.push((Child { name, node: None, representative }, own));
        }
        let own: Vec<u64> = children.iter().filter_map(|(_, own)| *own).collect();
        let mut nodes = self.nodes().get_all(&own, wait).await?.into_iter();
        let mut listed = Vec::with_capacity(children.len());
        for (mut child, own) in children {
            let node = match own {
                Some(_) => nodes.next().flatten(),
                None => Some(Arc::clone(&child.representative)),
            };
            child.node = node.filter(|node| is_child(node, prefix, &child.name));
            listed.push(child);
        }
        Ok(listed)
    }
}

/// Whether the node's key is the prefix, a slash and the name.
fn is_child(node: &Node, prefix: &TrieKey, name: &str) -> bool {
    match prefix.text() {
        "" => node.key.text() == name,
        prefix => {
            node.key.text().strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'))
                == Some(name)
        }
    }
}
