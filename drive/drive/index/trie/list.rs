//! The children of one directory.

use std::sync::Arc;

use super::Trie;
use super::iterate::MAX_ITERATED;
use super::key::{DIGITS_PER_COMPONENT, END, TrieKey, branches_of};
use super::node::TrieNode;
use crate::index::budget::Budget;
use hypermount_core::{Error, Result, Wait};

/// What follows a prefix by one component. Blocks, not nodes: there may be many children, and their
/// nodes may be large.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) name: String,
    /// The block of its own node; it need not be what it is taken for ([`Trie::child_node`]).
    own: u64,
    /// Its own node or one below it: the newest.
    representative: u64,
    /// How many components the key of the representative has.
    depth: usize,
}

/// The node of a child.
#[derive(Clone, Debug)]
pub(crate) enum ChildNode {
    Own(Arc<TrieNode>),
    /// Only something below it exists.
    Below(Arc<TrieNode>),
}

impl Trie {
    /// The children of `prefix` in the reference's order. The prefix's own node is not among them.
    /// They are within `budget` until the caller gives [`Child::bytes`] back.
    ///
    /// # Errors
    /// `TooLarge` for more than the budget, or [`MAX_ITERATED`] of them.
    pub(crate) async fn children(
        &self,
        prefix: &TrieKey,
        budget: &mut Budget,
        wait: Wait,
    ) -> Result<Vec<Child>> {
        let names = prefix.components();
        let end = prefix.length() - 1 + DIGITS_PER_COMPONENT;
        let mut children = Vec::new();
        self.visit(prefix, false, budget, wait, |node, budget| {
            let components = node.key.components();
            let Some(name) = components.get(names.len()).filter(|_| components.starts_with(&names))
            else {
                return Ok(());
            };
            // Where the child's name ends, its own node takes the last branch of all.
            let own = match node.key.digit(end) {
                END => None,
                _ => node.buckets.slot(end, u32::from(END)),
            };
            let child = Child {
                name: (*name).to_owned(),
                own: own.unwrap_or(node.seq),
                representative: node.seq,
                depth: components.len(),
            };
            budget.take(child.bytes())?;
            if children.len() >= MAX_ITERATED {
                return Err(Error::TooLarge(format!("more than {MAX_ITERATED} entries")));
            }
            children.push(child);
            Ok(())
        })
        .await?;
        // As the reference iterates: by branches, those of equal hash by name; of one name the shallowest.
        children.sort_by(|a, b| {
            let way = branches_of(&a.name).cmp(&branches_of(&b.name));
            way.then_with(|| a.name.cmp(&b.name)).then(a.depth.cmp(&b.depth))
        });
        children.dedup_by(|later, first| later.name == first.name);
        Ok(children)
    }

    /// Asks for the nodes of these children together, for as long as what is returned is kept.
    pub(crate) fn want_children(
        &self,
        children: &[Child],
        wait: Wait,
    ) -> Vec<hypermount_core::Ticket> {
        self.nodes().want(children.iter().map(|child| child.own), wait)
    }

    /// The node of a child of `prefix`; `None` if the index was emptied there.
    pub(crate) async fn child_node(
        &self,
        prefix: &TrieKey,
        child: &Child,
        wait: Wait,
    ) -> Result<Option<ChildNode>> {
        let own = self.nodes().get(child.own, wait).await?;
        if let Some(own) = own.filter(|node| is_child(node, prefix, &child.name)) {
            return Ok(Some(ChildNode::Own(own)));
        }
        Ok(self.nodes().get(child.representative, wait).await?.map(ChildNode::Below))
    }
}

impl Child {
    /// Roughly what it takes in memory, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of::<Self>() + self.name.len()
    }
}

/// Whether the node's key is the prefix, a slash and the name.
fn is_child(node: &TrieNode, prefix: &TrieKey, name: &str) -> bool {
    match prefix.text() {
        "" => node.key.text() == name,
        prefix => {
            node.key.text().strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'))
                == Some(name)
        }
    }
}
