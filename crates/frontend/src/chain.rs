//! A list that shares its beginning with other lists.

use std::sync::Arc;

/// A list that grows at its end. Lists that begin alike share that beginning: a stage on top of a stage on top of a stage costs what
/// it adds, not what they all have.
#[derive(Clone, Debug)]
pub(crate) struct Chain<T> {
    below: Option<Arc<Link<T>>>,
    own: Vec<T>,
    length: usize,
}

#[derive(Debug)]
struct Link<T> {
    below: Option<Arc<Link<T>>>,
    items: Vec<T>,
}

impl<T> Chain<T> {
    pub(crate) fn new(items: Vec<T>) -> Self {
        Self { below: None, length: items.len(), own: items }
    }

    pub(crate) fn push(&mut self, item: T) {
        self.own.push(item);
        self.length += 1;
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// All items, first to last.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        let mut links = Vec::new();
        let mut link = self.below.as_ref();
        while let Some(here) = link {
            links.push(here);
            link = here.below.as_ref();
        }
        links.into_iter().rev().flat_map(|link| &link.items).chain(&self.own)
    }
}

impl<T: Clone> Chain<T> {
    /// Another list with the same items.
    pub(crate) fn share(&mut self) -> Self {
        if !self.own.is_empty() {
            let items = std::mem::take(&mut self.own);
            self.below = Some(Arc::new(Link { below: self.below.take(), items }));
        }
        Self { below: self.below.clone(), own: Vec::new(), length: self.length }
    }

    /// The same as a list of its own.
    pub(crate) fn to_vec(&self) -> Vec<T> {
        self.iter().cloned().collect()
    }
}

/// One after the other: the usual way would use stack for each link.
impl<T> Drop for Link<T> {
    fn drop(&mut self) {
        let mut below = self.below.take();
        while let Some(mut link) = below.and_then(Arc::into_inner) {
            below = link.below.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_share_and_part() {
        let mut first = Chain::new(vec![1]);
        first.push(2);
        let mut second = first.share();
        second.push(3);
        first.push(4);
        let third = second.share();
        assert_eq!(first.to_vec(), [1, 2, 4]);
        assert_eq!(second.to_vec(), [1, 2, 3]);
        assert_eq!(third.to_vec(), [1, 2, 3]);
        assert_eq!((first.len(), third.len(), third.is_empty()), (3, 3, false));
        drop(first);
        assert_eq!(third.to_vec(), [1, 2, 3]);
    }

    #[test]
    fn long_chains_need_no_stack() {
        let mut chain = Chain::new(Vec::new());
        for item in 0..300_000 {
            chain.push(item);
            chain = chain.share();
        }
        assert_eq!(chain.to_vec().len(), 300_000);
        drop(chain);
    }
}
