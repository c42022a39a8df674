//! Knows which sequences hold which tokens: a tree in which sequences with a common
//! prefix share its nodes, as they share its cells in the KV cache.
//!
//! A node is a run of tokens, one cell each, and the sequences that hold those
//! cells. The holders of a node hold its ancestors too, so any holder of the
//! last node of a match can be copied from. Sequences that computed the same
//! tokens at the same time each have cells of their own: such nodes are siblings
//! with equal tokens.
//!
//! Each [`PrefixScope`] has roots of its own, so what is found in one scope never depends on the
//! prompts of another. Cells and sequences are counted over all scopes.

use std::collections::HashMap;

use slab::Slab;

use crate::admission::PrefixGroup;
use crate::engine::{AdapterId, SeqId, Token};

/// Which prompts may share cells. Everything that looks for cells asks with a scope, so none can find
/// those of another scope by mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct PrefixScope {
    /// Those of one group of keys, which may learn from each other's timing.
    pub(super) group: PrefixGroup,
    /// Those computed with one adapter, or without any: keys and values depend on it.
    pub(super) adapter: Option<AdapterId>,
}

/// The first tokens of a prompt, with the scope in which they may share cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Prefix<'a> {
    pub(super) scope: PrefixScope,
    pub(super) tokens: &'a [Token],
}

impl Prefix<'_> {
    /// The first `length` of its tokens, or all where it has fewer.
    pub(super) fn first(self, length: usize) -> Self {
        Self {
            tokens: &self.tokens[..length.min(self.tokens.len())],
            ..self
        }
    }
}

type NodeId = usize;

/// Where a node hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Parent {
    /// It begins the prompts of a scope.
    Root(PrefixScope),
    Node(NodeId),
}

#[derive(Debug)]
struct Node {
    parent: Parent,
    tokens: Vec<Token>,
    holders: Vec<SeqId>,
    children: Vec<NodeId>,
}

impl Node {
    fn above(&self) -> Option<NodeId> {
        match self.parent {
            Parent::Root(_) => None,
            Parent::Node(parent) => Some(parent),
        }
    }
}

/// Finds the longest prefix of some tokens that a sequence holds, and counts cells that are shared.
#[derive(Debug, Default)]
pub(super) struct PrefixTree {
    nodes: Slab<Node>,
    /// Scopes without cells are absent.
    roots: HashMap<PrefixScope, Vec<NodeId>>,
    /// The node in which each sequence ends; sequences without cells are absent.
    leaves: HashMap<SeqId, NodeId>,
    cells: usize,
}

/// The longest prefix that some sequence holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct PrefixMatch {
    /// Length of the whole prefix, in tokens.
    length: usize,
    /// The node in which it ends, and how many tokens of that node it has.
    end: Option<(NodeId, usize)>,
}

impl PrefixTree {
    /// Returns the cells in use, each counted once however many sequences hold it.
    pub(super) fn cells(&self) -> usize {
        self.cells
    }

    /// Cells that have at least one holder which `counts`.
    pub(super) fn cells_held_by(&self, counts: impl Fn(SeqId) -> bool) -> usize {
        self.nodes
            .iter()
            .filter(|(_, node)| node.holders.iter().any(|holder| counts(*holder)))
            .map(|(_, node)| node.tokens.len())
            .sum()
    }

    /// How many tokens of a prefix, from the first on, some sequence of its scope holds.
    pub(super) fn match_length(&self, prefix: Prefix) -> usize {
        self.find(prefix).length
    }

    /// The length of the longest match of a prefix, and the sequences that hold all of it.
    pub(super) fn longest_match(&self, prefix: Prefix) -> (usize, &[SeqId]) {
        let found = self.find(prefix);
        let holders = found.end.map(|(node, _)| &*self.nodes[node].holders);
        (found.length, holders.unwrap_or_default())
    }

    /// Cells that nobody but `sequence` holds.
    pub(super) fn lost_with(&self, sequence: SeqId) -> usize {
        self.path(sequence)
            .filter(|node| node.holders.len() == 1)
            .map(|node| node.tokens.len())
            .sum()
    }

    /// How many tokens `sequence` holds.
    pub(super) fn length(&self, sequence: SeqId) -> usize {
        self.path(sequence).map(|node| node.tokens.len()).sum()
    }

    /// The tokens that `sequence` holds.
    pub(super) fn tokens_of(&self, sequence: SeqId) -> Vec<Token> {
        let mut path: Vec<&Node> = self.path(sequence).collect();
        path.reverse();
        let runs: Vec<&[Token]> = path.into_iter().map(|node| &*node.tokens).collect();
        runs.concat()
    }

    /// The nodes that `sequence` holds, the last first.
    fn path(&self, sequence: SeqId) -> impl Iterator<Item = &Node> {
        let leaf = self.leaves.get(&sequence).map(|leaf| &self.nodes[*leaf]);
        std::iter::successors(leaf, |node| Some(&self.nodes[node.above()?]))
    }

    /// Whether other sequences hold every cell of this one.
    pub(super) fn is_redundant(&self, sequence: SeqId) -> bool {
        self.leaves
            .get(&sequence)
            .is_none_or(|leaf| self.nodes[*leaf].holders.len() > 1)
    }

    /// Lets `sequence`, which holds nothing yet, hold the longest match of
    /// a prefix; tells how long it is and who holds all of it already.
    pub(super) fn share(&mut self, sequence: SeqId, prefix: Prefix) -> Option<(usize, Vec<SeqId>)> {
        debug_assert!(!self.leaves.contains_key(&sequence));
        let found = self.find(prefix);
        let (node, within) = found.end?;
        let node = self.split(node, within);
        let sources = self.nodes[node].holders.clone();
        let mut next = Some(node);
        while let Some(id) = next {
            self.nodes[id].holders.push(sequence);
            next = self.nodes[id].above();
        }
        self.leaves.insert(sequence, node);
        Some((found.length, sources))
    }

    /// Records that `sequence` of a scope has computed `tokens` after what it held.
    pub(super) fn extend(&mut self, sequence: SeqId, scope: PrefixScope, tokens: &[Token]) {
        if tokens.is_empty() {
            return;
        }
        self.cells += tokens.len();
        let leaf = self.leaves.get(&sequence).copied();
        if let Some(leaf) = leaf {
            let node = &mut self.nodes[leaf];
            if node.children.is_empty() && node.holders.len() == 1 {
                node.tokens.extend_from_slice(tokens);
                return;
            }
        }
        let parent = leaf.map_or(Parent::Root(scope), Parent::Node);
        let child = self.nodes.insert(Node {
            parent,
            tokens: tokens.to_vec(),
            holders: vec![sequence],
            children: Vec::new(),
        });
        self.children_of(parent).push(child);
        self.leaves.insert(sequence, child);
    }

    /// Lets `sequence` hold nothing any more; cells that nobody else holds are free.
    pub(super) fn release(&mut self, sequence: SeqId) {
        let mut next = self.leaves.remove(&sequence);
        while let Some(id) = next {
            let node = &mut self.nodes[id];
            node.holders.retain(|holder| *holder != sequence);
            next = node.above();
            if node.holders.is_empty() {
                self.remove(id);
            }
        }
    }

    /// Cuts a node after `at` tokens and returns the part before; everyone who
    /// ended in it ends in the part behind.
    fn split(&mut self, id: NodeId, at: usize) -> NodeId {
        if at == self.nodes[id].tokens.len() {
            return id;
        }
        let node = &mut self.nodes[id];
        let behind = node.tokens.split_off(at);
        let front = Node {
            parent: node.parent,
            tokens: std::mem::replace(&mut node.tokens, behind),
            holders: node.holders.clone(),
            children: vec![id],
        };
        let front = self.nodes.insert(front);
        let grandparent = std::mem::replace(&mut self.nodes[id].parent, Parent::Node(front));
        let siblings = self.children_of(grandparent);
        if let Some(place) = siblings.iter_mut().find(|sibling| **sibling == id) {
            *place = front;
        }
        front
    }

    fn remove(&mut self, id: NodeId) {
        let node = self.nodes.remove(id);
        debug_assert!(
            node.children.is_empty(),
            "a holder of a child holds its parent"
        );
        self.cells -= node.tokens.len();
        let siblings = self.children_of(node.parent);
        siblings.retain(|child| *child != id);
        if let Parent::Root(scope) = node.parent
            && siblings.is_empty()
        {
            self.roots.remove(&scope);
        }
    }

    fn children_of(&mut self, parent: Parent) -> &mut Vec<NodeId> {
        match parent {
            Parent::Node(parent) => &mut self.nodes[parent].children,
            Parent::Root(scope) => self.roots.entry(scope).or_default(),
        }
    }

    /// The longest match of a prefix among what its scope holds.
    fn find(&self, prefix: Prefix) -> PrefixMatch {
        match self.roots.get(&prefix.scope) {
            Some(roots) => self.longest(roots, prefix.tokens),
            None => PrefixMatch::default(),
        }
    }

    fn longest(&self, children: &[NodeId], tokens: &[Token]) -> PrefixMatch {
        let mut best = PrefixMatch::default();
        for &id in children {
            let node = &self.nodes[id];
            let within = common_length(&node.tokens, tokens);
            if within == 0 {
                continue;
            }
            let mut found = PrefixMatch {
                length: within,
                end: Some((id, within)),
            };
            if within == node.tokens.len() {
                let deeper = self.longest(&node.children, &tokens[within..]);
                if deeper.length > 0 {
                    found.length += deeper.length;
                    found.end = deeper.end;
                }
            }
            if found.length > best.length {
                best = found;
            }
        }
        best
    }

    /// Panics unless everything above holds.
    #[cfg(test)]
    pub(super) fn check_integrity(&self) {
        let mut cells = 0;
        for (id, node) in &self.nodes {
            cells += node.tokens.len();
            assert!(!node.tokens.is_empty() && !node.holders.is_empty());
            let siblings = match node.parent {
                Parent::Node(parent) => {
                    let above = &self.nodes[parent];
                    assert!(node.holders.iter().all(|h| above.holders.contains(h)));
                    &above.children
                }
                Parent::Root(scope) => &self.roots[&scope],
            };
            assert_eq!(siblings.iter().filter(|child| **child == id).count(), 1);
            for holder in &node.holders {
                assert_eq!(node.holders.iter().filter(|h| *h == holder).count(), 1);
                assert!(self.path(*holder).any(|held| std::ptr::eq(held, node)));
            }
        }
        assert_eq!(cells, self.cells);
        assert!(self.roots.values().all(|roots| !roots.is_empty()));
    }

    /// The scope of a sequence that holds something.
    pub(super) fn scope_of(&self, sequence: SeqId) -> Option<PrefixScope> {
        match self.path(sequence).last()?.parent {
            Parent::Root(scope) => Some(scope),
            Parent::Node(_) => None,
        }
    }
}

/// Length of the longest common prefix.
pub(super) fn common_length(a: &[Token], b: &[Token]) -> usize {
    // Prompts often agree for hundreds of tokens: without an early end, a block is compared at once.
    const BLOCK: usize = 16;
    let are_equal = |(a, b): &(&[Token; BLOCK], &[Token; BLOCK])| {
        let tokens = a.iter().zip(b.iter());
        tokens.filter(|(a, b)| a != b).count() == 0
    };
    let blocks = a.as_chunks().0.iter().zip(b.as_chunks().0);
    let same = BLOCK * blocks.take_while(are_equal).count();
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const A: SeqId = SeqId(0);
    const B: SeqId = SeqId(1);
    const C: SeqId = SeqId(2);

    const OURS: PrefixScope = PrefixScope {
        group: PrefixGroup(0),
        adapter: None,
    };
    const THEIRS: PrefixScope = PrefixScope {
        group: PrefixGroup(1),
        adapter: None,
    };
    const ADAPTED: PrefixScope = PrefixScope {
        group: PrefixGroup(0),
        adapter: Some(AdapterId(0)),
    };
    const SCOPES: [PrefixScope; 3] = [OURS, THEIRS, ADAPTED];

    fn tokens(text: &str) -> Vec<Token> {
        text.bytes().map(|byte| Token(i32::from(byte))).collect()
    }

    fn extend(tree: &mut PrefixTree, sequence: SeqId, text: &str) {
        tree.extend(sequence, OURS, &tokens(text));
    }

    fn share_of(
        tree: &mut PrefixTree,
        sequence: SeqId,
        scope: PrefixScope,
        tokens: &[Token],
    ) -> Option<(usize, Vec<SeqId>)> {
        tree.share(sequence, Prefix { scope, tokens })
    }

    fn share(tree: &mut PrefixTree, sequence: SeqId, text: &str) -> Option<(usize, Vec<SeqId>)> {
        share_of(tree, sequence, OURS, &tokens(text))
    }

    #[test]
    fn a_common_prefix_is_held_once() {
        let mut tree = PrefixTree::default();
        extend(&mut tree, A, "store prompt, question one");
        let shared = share(&mut tree, B, "store prompt, question two");
        assert_eq!(shared, Some(("store prompt, question ".len(), vec![A])));
        extend(&mut tree, B, "two");
        tree.check_integrity();
        assert_eq!(tree.cells(), "store prompt, question one".len() + 3);
        assert_eq!(tree.tokens_of(B), tokens("store prompt, question two"));
        assert_eq!(tree.cells_held_by(|id| id == B), tree.cells() - 3);
    }

    #[test]
    fn a_prefix_outlives_the_sequence_that_computed_it() {
        let mut tree = PrefixTree::default();
        extend(&mut tree, A, "abcdef");
        share(&mut tree, B, "abcx");
        extend(&mut tree, B, "x");
        tree.release(A);
        tree.check_integrity();
        assert_eq!(tree.cells(), 4);
        assert_eq!(share(&mut tree, C, "abcdef"), Some((3, vec![B])));
        assert!(tree.is_redundant(C) && !tree.is_redundant(B));
    }

    #[test]
    fn twins_are_told_apart_and_the_longer_one_is_found() {
        let mut tree = PrefixTree::default();
        extend(&mut tree, A, "abc");
        extend(&mut tree, B, "abcd");
        assert_eq!(tree.cells(), 7);
        assert_eq!(share(&mut tree, C, "abcde"), Some((4, vec![B])));
        tree.release(B);
        tree.check_integrity();
        assert_eq!(tree.tokens_of(C), tokens("abcd"));
    }

    #[test]
    fn a_common_prefix_ends_where_the_first_token_differs() {
        let all: Vec<Token> = (0..40).map(Token).collect();
        assert_eq!(common_length(&all, &all), 40);
        for place in 0..40 {
            let mut other = all.clone();
            other[place] = Token(-1);
            assert_eq!(common_length(&all, &other), place);
            assert_eq!(common_length(&all, &all[..place]), place);
        }
    }

    #[test]
    fn what_a_scope_holds_is_found_in_it_alone() {
        let mut tree = PrefixTree::default();
        extend(&mut tree, A, "abcdef");
        let theirs = tokens("abcdef");
        assert_eq!(share_of(&mut tree, B, THEIRS, &theirs), None);
        assert_eq!(share_of(&mut tree, C, ADAPTED, &theirs), None);
        tree.extend(B, THEIRS, &theirs);
        tree.check_integrity();
        assert_eq!(tree.cells(), 12, "each has its own");
        assert_eq!(share(&mut tree, C, "abcdefg"), Some((6, vec![A])));
        assert!(tree.is_redundant(A) && !tree.is_redundant(B));
        tree.release(B);
        tree.check_integrity();
        assert_eq!((tree.cells(), tree.roots.len()), (6, 1));
    }

    #[derive(Debug, Clone)]
    enum Action {
        Start(PrefixScope, String),
        Grow(usize, String),
        End(usize),
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            (0..SCOPES.len(), "[ab]{1,12}")
                .prop_map(|(scope, text)| Action::Start(SCOPES[scope], text)),
            (0_usize..8, "[ab]{1,4}").prop_map(|(who, what)| Action::Grow(who, what)),
            (0_usize..8).prop_map(Action::End),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_and_goes_everyone_holds_what_it_computed(
            actions in prop::collection::vec(action(), 1..60),
        ) {
            let mut tree = PrefixTree::default();
            let mut held: HashMap<SeqId, (PrefixScope, Vec<Token>)> = HashMap::new();
            let mut next = 0;
            for action in actions {
                let mut ids: Vec<SeqId> = held.keys().copied().collect();
                ids.sort();
                match action {
                    Action::Start(scope, text) => {
                        let id = SeqId(next);
                        next += 1;
                        let all = tokens(&text);
                        let related = held.values().filter(|(other, _)| *other == scope);
                        let expected = related.map(|(_, held)| common_length(held, &all)).max();
                        let shared = share_of(&mut tree, id, scope, &all);
                        let shared = shared.map_or(0, |(length, _)| length);
                        prop_assert_eq!(shared, expected.unwrap_or(0));
                        tree.extend(id, scope, &all[shared..]);
                        held.insert(id, (scope, all));
                    }
                    Action::Grow(who, text) if !ids.is_empty() => {
                        let id = ids[who % ids.len()];
                        let (scope, all) = held.get_mut(&id).expect("it is held");
                        tree.extend(id, *scope, &tokens(&text));
                        all.extend(tokens(&text));
                    }
                    Action::End(who) if !ids.is_empty() => {
                        let id = ids[who % ids.len()];
                        tree.release(id);
                        held.remove(&id);
                    }
                    _ => {}
                }
                tree.check_integrity();
                for (id, (scope, tokens)) in &held {
                    prop_assert_eq!(&tree.tokens_of(*id), tokens);
                    prop_assert_eq!(tree.scope_of(*id), Some(*scope));
                }
            }
            for id in held.keys() {
                tree.release(*id);
            }
            prop_assert_eq!((tree.cells(), tree.roots.len()), (0, 0));
        }
    }
}
