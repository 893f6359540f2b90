//! A map from names that shares what it has with maps that were made from it.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;

/// A map from names. A copy costs nothing, and a change to one of two copies costs about as much as a change to a map of a few names:
/// a thousand stages, each on top of the one before and with a variable of its own, have a thousand variables, not half a million.
///
/// It is a tree, each level of which looks at the next four bits of the hash of a name. In no order that means anything.
#[derive(Clone, Debug)]
pub(crate) struct Names<V> {
    root: Arc<Node<V>>,
    hashes: RandomState,
}

#[derive(Clone, Debug)]
enum Node<V> {
    Branch([Option<Arc<Node<V>>>; BRANCHES]),
    /// A few, or more of equal hashes.
    Leaf(Vec<Arc<Entry<V>>>),
}

#[derive(Clone, Debug)]
struct Entry<V> {
    hash: u64,
    name: String,
    value: V,
}

/// So many bits of a hash a level looks at.
const BITS: u32 = 4;

const BRANCHES: usize = 1 << BITS;

/// A leaf of more becomes a branch.
const LEAF: usize = 8;

impl<V> Default for Names<V> {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), hashes: RandomState::new() }
    }
}

impl<V> Names<V> {
    pub(crate) fn get(&self, name: &str) -> Option<&V> {
        let hash = self.hashes.hash_one(name);
        let (mut node, mut level) = (&self.root, 0);
        loop {
            match &**node {
                Node::Branch(below) => node = below[branch(hash, level)].as_ref()?,
                Node::Leaf(entries) => {
                    return entries.iter().find(|entry| entry.is(hash, name)).map(|entry| &entry.value);
                }
            }
            level += 1;
        }
    }

    /// All names with their values.
    pub(crate) fn all(&self) -> Vec<(&str, &V)> {
        let mut all = Vec::new();
        let mut open = vec![&self.root];
        while let Some(node) = open.pop() {
            match &**node {
                Node::Branch(below) => open.extend(below.iter().flatten()),
                Node::Leaf(entries) => {
                    all.extend(entries.iter().map(|entry| (entry.name.as_str(), &entry.value)));
                }
            }
        }
        all
    }
}

impl<V: Clone + Default> Names<V> {
    /// The value of a name, to be changed; it begins as nothing.
    pub(crate) fn entry(&mut self, name: &str) -> &mut V {
        let hash = self.hashes.hash_one(name);
        let (mut node, mut level) = (&mut self.root, 0);
        loop {
            let here = Arc::make_mut(node);
            here.part(hash, name, level);
            match here {
                Node::Branch(below) => {
                    node = below[branch(hash, level)].get_or_insert_with(|| Arc::new(Node::Leaf(Vec::new())));
                }
                Node::Leaf(entries) => {
                    let place = entries.iter().position(|entry| entry.is(hash, name));
                    let place = place.unwrap_or_else(|| {
                        entries.push(Arc::new(Entry { hash, name: name.to_owned(), value: V::default() }));
                        entries.len() - 1
                    });
                    return &mut Arc::make_mut(&mut entries[place]).value;
                }
            }
            level += 1;
        }
    }
}

impl<V> Entry<V> {
    fn is(&self, hash: u64, name: &str) -> bool {
        self.hash == hash && self.name == name
    }
}

impl<V> Node<V> {
    /// Makes a branch of a leaf that has no room for a name, unless its hashes have no more bits.
    fn part(&mut self, hash: u64, name: &str, level: u32) {
        let Node::Leaf(entries) = self else { return };
        if entries.len() < LEAF
            || level == u64::BITS / BITS
            || entries.iter().any(|entry| entry.is(hash, name))
        {
            return;
        }
        let mut leaves: [Vec<Arc<Entry<V>>>; BRANCHES] = Default::default();
        for entry in entries.drain(..) {
            leaves[branch(entry.hash, level)].push(entry);
        }
        *self = Node::Branch(leaves.map(|leaf| (!leaf.is_empty()).then(|| Arc::new(Node::Leaf(leaf)))));
    }
}

fn branch(hash: u64, level: u32) -> usize {
    (hash >> (level * BITS)) as usize % BRANCHES
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn sorted(names: &Names<usize>) -> BTreeMap<String, usize> {
        names.all().into_iter().map(|(name, value)| (name.to_owned(), *value)).collect()
    }

    #[test]
    fn copies_part_and_share() {
        let mut names: Names<usize> = Names::default();
        let mut model = BTreeMap::new();
        let mut copies = Vec::new();
        for n in 0..5_000 {
            // Some for the second time.
            let name = format!("N{}", n % 3_500);
            *names.entry(&name) += n;
            *model.entry(name).or_default() += n;
            if n % 1_000 == 0 {
                copies.push((names.clone(), model.clone()));
            }
        }
        copies.push((names.clone(), model.clone()));
        for (names, model) in &copies {
            assert_eq!(sorted(names), *model);
            assert!(model.iter().all(|(name, value)| names.get(name) == Some(value)));
        }
        assert_eq!(names.get("N"), None);
    }

    /// What two maps do not have in common after a change is the way to what changed.
    #[test]
    fn a_change_copies_little() {
        fn nodes(node: &Arc<Node<usize>>, into: &mut Vec<usize>) {
            into.push(Arc::as_ptr(node) as usize);
            if let Node::Branch(below) = &**node {
                below.iter().flatten().for_each(|node| nodes(node, into));
            }
        }
        let mut names: Names<usize> = Names::default();
        (0..10_000).for_each(|n| *names.entry(&n.to_string()) = n);
        let before = names.clone();
        *names.entry("77") = 0;
        let (mut old, mut new) = (Vec::new(), Vec::new());
        nodes(&before.root, &mut old);
        nodes(&names.root, &mut new);
        let copied = new.iter().filter(|node| !old.contains(node)).count();
        assert!((1..=8).contains(&copied), "{copied} of {}", new.len());
    }

    /// Names whose hashes have no bit that parts them.
    #[test]
    fn equal_hashes_share_a_leaf() {
        let mut node = Node::Leaf((0..LEAF).map(entry).collect());
        for level in 0..u64::BITS / BITS {
            node.part(7, "other", level);
            let Node::Branch(below) = node else { panic!("level {level} has bits") };
            let leaf = below.into_iter().flatten().next().unwrap();
            node = (*leaf).clone();
        }
        node.part(7, "other", u64::BITS / BITS);
        assert!(matches!(&node, Node::Leaf(entries) if entries.len() == LEAF));
    }

    fn entry(n: usize) -> Arc<Entry<usize>> {
        Arc::new(Entry { hash: 7, name: n.to_string(), value: n })
    }
}
