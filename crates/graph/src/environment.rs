use std::fmt;
use std::sync::{Arc, OnceLock};

use hash::{StableHash, StableHasher};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// So many variables are a piece; only the last piece may have fewer.
const PIECE: usize = 32;

/// So many pieces are a group; only the last group may have fewer.
const GROUP: usize = 32;

/// The variables of a process in order.
///
/// Environments are many and alike: every RUN has one, and a thousand variables may be set one by one between a thousand of them. So
/// each is a list of groups of pieces, and one that was made from another by a change shares all but the variable that changed, its
/// piece and its group. A piece, and an environment, is hashed once, when somebody asks.
///
/// Where a piece ends follows from the number of variables before it alone. So equal environments have equal pieces, however they
/// were made, and the hash stands for the variables and nothing else. It knows nothing of groups.
#[derive(Clone, Default)]
pub struct Environment(Arc<Groups>);

#[derive(Clone, Default)]
struct Groups {
    all: Vec<Arc<Group>>,
    /// The number of variables.
    length: usize,
    digest: OnceLock<[u8; 32]>,
}

#[derive(Default)]
struct Group {
    /// Never empty.
    pieces: Vec<Arc<Piece>>,
    /// Those of the pieces, one after the other.
    digests: OnceLock<Vec<u8>>,
}

#[derive(Clone, Default)]
struct Piece {
    /// Never empty.
    variables: Vec<Arc<(String, String)>>,
    digest: OnceLock<[u8; 32]>,
}

impl Environment {
    /// The variables, as name and value.
    pub fn iter(&self) -> impl Iterator<Item = &(String, String)> {
        let pieces = self.0.all.iter().flat_map(|group| &group.pieces);
        pieces.flat_map(|piece| &piece.variables).map(|variable| &**variable)
    }

    /// The variables but for those that this environment shares with another. Where thousands have nearly everything in common, that is
    /// nearly nothing.
    pub fn unshared<'a>(&'a self, other: &'a Environment) -> impl Iterator<Item = &'a (String, String)> {
        unshared(&self.0.all, Some(&other.0.all))
            .flat_map(|(group, other)| unshared(&group.pieces, other.map(|other| &other.pieces)))
            .flat_map(|(piece, other)| unshared(&piece.variables, other.map(|other| &other.variables)))
            .map(|(variable, _)| variable)
    }

    /// The number of variables.
    pub fn len(&self) -> usize {
        self.0.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.length == 0
    }

    /// Adds a variable at the end. Whether there is one of that name is for the caller to know.
    pub fn push(&mut self, name: String, value: String) {
        let variable = Arc::new((name, value));
        let index = self.0.length;
        Arc::make_mut(&mut self.0).length += 1;
        match self.piece(index) {
            Some(piece) => piece.push(variable),
            None => {
                let piece = Arc::new(Piece { variables: vec![variable], ..Piece::default() });
                let groups = Arc::make_mut(&mut self.0);
                match groups.all.get_mut(index / PIECE / GROUP) {
                    Some(group) => Arc::make_mut(group).pieces.push(piece),
                    None => groups.all.push(Arc::new(Group { pieces: vec![piece], ..Group::default() })),
                }
            }
        }
    }

    /// Gives the variable at `index` another value. There is nothing to do for one that is not there.
    pub fn set(&mut self, index: usize, value: String) {
        let variables = self.piece(index);
        if let Some(variable) = variables.and_then(|variables| variables.get_mut(index % PIECE)) {
            match Arc::get_mut(variable) {
                Some((_, old)) => *old = value,
                None => *variable = Arc::new((variable.0.clone(), value)),
            }
        }
    }

    /// Keeps the first `length` variables.
    pub fn truncate(&mut self, length: usize) {
        if length >= self.len() {
            return;
        }
        let groups = Arc::make_mut(&mut self.0);
        groups.length = length;
        groups.digest = OnceLock::new();
        let pieces = length.div_ceil(PIECE);
        groups.all.truncate(pieces.div_ceil(GROUP));
        if !pieces.is_multiple_of(GROUP)
            && let Some(group) = groups.all.last_mut()
            && group.pieces.len() > pieces % GROUP
        {
            let group = Arc::make_mut(group);
            group.digests = OnceLock::new();
            group.pieces.truncate(pieces % GROUP);
        }
        if !length.is_multiple_of(PIECE)
            && let Some(piece) = self.piece(length)
        {
            piece.truncate(length % PIECE);
        }
    }

    /// The variables of the piece that has the one at `index`, or where it would be, to be changed: no digest outlives what it is of.
    fn piece(&mut self, index: usize) -> Option<&mut Vec<Arc<(String, String)>>> {
        let groups = Arc::make_mut(&mut self.0);
        groups.digest = OnceLock::new();
        let group = Arc::make_mut(groups.all.get_mut(index / PIECE / GROUP)?);
        group.digests = OnceLock::new();
        let piece = Arc::make_mut(group.pieces.get_mut(index / PIECE % GROUP)?);
        piece.digest = OnceLock::new();
        Some(&mut piece.variables)
    }

    fn digest(&self) -> [u8; 32] {
        let make = || {
            let mut hasher = StableHasher::new("environment-v2");
            (self.len() as u64).stable_hash(&mut hasher);
            self.0.all.iter().for_each(|group| hasher.raw(group.digests()));
            hasher.finish()
        };
        *self.0.digest.get_or_init(make)
    }
}

/// Those of `all` that do not stand in `others` at the same place, each with what stands there.
fn unshared<'a, T>(
    all: &'a [Arc<T>],
    others: Option<&'a Vec<Arc<T>>>,
) -> impl Iterator<Item = (&'a T, Option<&'a T>)> {
    let others = others.map_or([].as_slice(), Vec::as_slice);
    let pairs = all.iter().enumerate().map(|(place, one)| (one, others.get(place)));
    let unshared = pairs.filter(|(one, other)| !other.is_some_and(|other| Arc::ptr_eq(one, other)));
    unshared.map(|(one, other)| (&**one, other.map(|other| &**other)))
}

/// Copies are made to be changed: they do not begin with digests.
impl Clone for Group {
    fn clone(&self) -> Group {
        Group { pieces: self.pieces.clone(), digests: OnceLock::new() }
    }
}

impl Group {
    fn digests(&self) -> &[u8] {
        self.digests.get_or_init(|| {
            let digests: Vec<[u8; 32]> = self.pieces.iter().map(|piece| piece.digest()).collect();
            digests.concat()
        })
    }
}

impl Piece {
    fn digest(&self) -> [u8; 32] {
        let make = || {
            let mut hasher = StableHasher::new("environment-piece-v1");
            (self.variables.len() as u64).stable_hash(&mut hasher);
            self.variables.iter().for_each(|variable| variable.stable_hash(&mut hasher));
            hasher.finish()
        };
        *self.digest.get_or_init(make)
    }
}

/// A hash of the variables, of the same length whatever they are: it costs the same for one and for thousands.
impl StableHash for Environment {
    fn stable_hash(&self, hasher: &mut StableHasher) {
        self.digest().stable_hash(hasher);
    }
}

impl PartialEq for Environment {
    fn eq(&self, other: &Environment) -> bool {
        // What is shared is not looked at; what is not may still be equal.
        self.len() == other.len()
            && unshared(&self.0.all, Some(&other.0.all))
                .flat_map(|(group, other)| unshared(&group.pieces, other.map(|other| &other.pieces)))
                .all(|(piece, other)| other.is_some_and(|other| piece.variables == other.variables))
    }
}

impl Eq for Environment {}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Environment {
        let mut environment = Environment::default();
        variables.into_iter().for_each(|(name, value)| environment.push(name, value));
        environment
    }
}

impl<const N: usize> From<[(String, String); N]> for Environment {
    fn from(variables: [(String, String); N]) -> Environment {
        variables.into_iter().collect()
    }
}

impl Serialize for Environment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Environment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Environment, D::Error> {
        Vec::<(String, String)>::deserialize(deserializer).map(|variables| variables.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Variables = Vec<(String, String)>;

    fn environment(variables: &Variables) -> Environment {
        variables.iter().cloned().collect()
    }

    fn numbered(count: usize) -> Variables {
        (0..count).map(|n| (format!("N{n}"), n.to_string())).collect()
    }

    #[derive(Debug, Clone)]
    enum Change {
        Push(String, String),
        Set(usize, String),
        Truncate(usize),
        /// Somebody else has the same one, and looks at its hash.
        Share,
    }

    fn change() -> impl Strategy<Value = Change> {
        let index = prop_oneof![0..80usize, 990..1_100usize];
        prop_oneof![
            4 => ("[AB]{0,2}", "[ab]{0,2}").prop_map(|(name, value)| Change::Push(name, value)),
            1 => (index.clone(), "[ab]{0,2}").prop_map(|(index, value)| Change::Set(index, value)),
            1 => index.prop_map(Change::Truncate),
            1 => Just(Change::Share),
        ]
    }

    proptest! {
        /// However it was made: it is what its variables are.
        #[test]
        fn changes_are_those_of_a_list(
            before in prop_oneof![3 => Just(0usize), 1 => 1_000..1_100usize],
            start in proptest::collection::vec(("[AB]{0,2}", "[ab]{0,2}"), 0..70),
            changes in proptest::collection::vec(change(), 0..80),
        ) {
            let mut list: Variables = [numbered(before), start].concat();
            let mut changed = environment(&list);
            let mut shared = Vec::new();
            for change in changes {
                match change {
                    Change::Push(name, value) => {
                        list.push((name.clone(), value.clone()));
                        changed.push(name, value);
                    }
                    Change::Set(index, value) => {
                        if let Some(variable) = list.get_mut(index) {
                            variable.1 = value.clone();
                        }
                        changed.set(index, value);
                    }
                    Change::Truncate(length) => {
                        list.truncate(length);
                        changed.truncate(length);
                    }
                    Change::Share => {
                        shared.push((list.clone(), changed.clone(), changed.digest()));
                    }
                }
                let anew = environment(&list);
                prop_assert!(changed.iter().eq(&list));
                prop_assert_eq!(changed.len(), list.len());
                prop_assert_eq!(&changed, &anew);
                prop_assert_eq!(changed.digest(), anew.digest());
            }
            for (list, environment, digest) in shared {
                prop_assert!(environment.iter().eq(&list), "others do not see what was changed later");
                prop_assert_eq!(environment.digest(), digest);
            }
        }

        /// The hash is in keys: it tells apart whatever is not the same, wherever names, values and pieces end.
        #[test]
        fn different_environments_have_different_hashes(
            common in 0..70usize,
            one in proptest::collection::vec(("[AB=]{0,2}", "[AB=]{0,2}"), 0..5),
            other in proptest::collection::vec(("[AB=]{0,2}", "[AB=]{0,2}"), 0..5),
        ) {
            let with = |rest: &Variables| [numbered(common), rest.clone()].concat();
            let (one, other) = (with(&one), with(&other));
            prop_assert_eq!(one == other, environment(&one).digest() == environment(&other).digest());
            prop_assert_eq!(one == other, environment(&one) == environment(&other));
        }
    }

    #[test]
    fn the_hash_of_a_piece_is_not_that_of_an_environment() {
        let one = environment(&numbered(3));
        assert_ne!(one.digest(), one.0.all[0].pieces[0].digest());
        assert_ne!(environment(&numbered(0)).digest(), environment(&numbered(1)).digest());
    }

    #[test]
    fn what_did_not_change_is_shared() {
        let one = environment(&numbered(3_000));
        let mut other = one.clone();
        other.set(1_040, "other".to_owned());
        other.push("MORE".to_owned(), String::new());
        let unshared: Vec<&str> = other.unshared(&one).map(|(name, _)| name.as_str()).collect();
        assert_eq!(unshared, ["N1040", "MORE"]);
        assert_eq!(one.unshared(&other).count(), 1);
        let equal: Vec<bool> =
            one.0.all.iter().zip(&other.0.all).map(|(one, other)| Arc::ptr_eq(one, other)).collect();
        assert_eq!(equal, [true, false, false]);
        assert_eq!(other.unshared(&Environment::default()).count(), 3_001);
    }

    #[test]
    fn it_is_written_as_a_list() {
        let written = serde_json::to_string(&environment(&numbered(2))).unwrap();
        assert_eq!(written, r#"[["N0","0"],["N1","1"]]"#);
        assert_eq!(serde_json::from_str::<Environment>(&written).unwrap(), environment(&numbered(2)));
    }
}
