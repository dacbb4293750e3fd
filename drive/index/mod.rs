//! From path to entry. (stub: trie helper)
