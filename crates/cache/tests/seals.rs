//! Rows that a failing disk changed, in a database that still opens: what they say is not believed.

mod common;

use std::fs;

use cache::{FindingKind, SnapshotId, Store};
use common::TestStore;
use hash::Digest;
use image::{Compression, ContentStore, Descriptor, Layer};

struct Sealed {
    test: TestStore,
    chain: Digest,
    layer: SnapshotId,
    other: SnapshotId,
    packed: Layer,
}

fn sealed() -> Sealed {
    let test = TestStore::new();
    let layer = test.layer(&[], |dir| fs::write(dir.join("f"), "one").unwrap()).id();
    let other = test.layer(&[], |dir| fs::write(dir.join("f"), "two").unwrap()).id();
    let chain = Digest::of(b"chain");
    test.store.set_chain(&chain, layer).unwrap();
    let store = test.store.blobs() as &dyn ContentStore;
    let blob = store.put(b"packed").unwrap();
    let packed = Layer {
        descriptor: Descriptor::new(Compression::Gzip.layer_media_type(), blob, 6),
        diff_id: Digest::of(b"tar"),
    };
    test.store.set_packed(layer, "gzip:6", &packed).unwrap();
    Sealed { test, chain, layer, other, packed }
}

impl Sealed {
    fn is_known(&self) -> (bool, bool) {
        let store: &Store = &self.test.store;
        let chain = store.chain(&self.chain).unwrap();
        assert!(chain.is_none_or(|layer| layer == self.layer), "another layer: {chain:?}");
        let packed = store.packed(self.layer, "gzip:6").unwrap();
        assert!(packed.as_ref().is_none_or(|packed| *packed == self.packed), "another blob: {packed:?}");
        (chain.is_some(), packed.is_some())
    }

    fn change(&self, statement: &str) {
        assert_eq!(self.test.database().execute(statement, []).unwrap(), 1, "{statement}");
    }
}

#[test]
fn a_changed_row_leads_nowhere() {
    let changes = [
        ("UPDATE chains SET snapshot = snapshot + 1", (false, true)),
        ("UPDATE chains SET seal = randomblob(16)", (false, true)),
        ("UPDATE chains SET seal = 7", (false, true)),
        ("UPDATE packed SET diff_id = randomblob(32)", (true, false)),
        ("UPDATE packed SET digest = randomblob(32)", (true, false)),
        ("UPDATE packed SET descriptor = replace(descriptor, '\"size\":6', '\"size\":7')", (true, false)),
        ("UPDATE packed SET snapshot = snapshot + 1", (true, false)),
    ];
    for (change, want) in changes {
        let sealed = sealed();
        assert_eq!(sealed.is_known(), (true, true));
        sealed.change(change);
        let told = sealed.test.store.check(false).unwrap().findings;
        assert_eq!(
            told.iter().map(|finding| finding.kind).collect::<Vec<_>>(),
            [FindingKind::Record],
            "{change}"
        );
        assert_eq!(sealed.is_known(), want, "{change}");
        // What is moved to another layer's name is not even looked at.
        if !change.contains("SET snapshot = snapshot + 1") || change.contains("chains") {
            assert!(!sealed.test.store.thrown_away().is_empty(), "{change}");
            // It was thrown away, and can be filed anew.
            assert_eq!(sealed.test.store.check(false).unwrap().findings, [], "{change}");
        } else {
            assert_eq!(sealed.test.store.packed(sealed.other, "gzip:6").unwrap(), None);
        }
        sealed.test.store.set_chain(&sealed.chain, sealed.layer).unwrap();
        sealed.test.store.set_packed(sealed.layer, "gzip:6", &sealed.packed).unwrap();
        assert_eq!(sealed.is_known(), (true, true), "{change}");
    }
}

#[test]
fn a_check_repairs_them() {
    let sealed = sealed();
    sealed.change("UPDATE chains SET snapshot = snapshot + 1");
    sealed.change("UPDATE packed SET diff_id = randomblob(32)");
    let kinds: Vec<_> = sealed.test.store.check(true).unwrap().findings.into_iter().map(|f| f.kind).collect();
    assert_eq!(kinds, [FindingKind::Record; 2]);
    assert_eq!(sealed.test.store.check(false).unwrap().findings, []);
}

/// Whether it says something about the root directory decides what is packed of it.
#[test]
fn a_layer_of_which_something_else_is_known_is_forgotten() {
    let changes = [
        "root = 1 - root",
        "entries = entries + 1",
        "size = size + 1",
        "changes = randomblob(32)",
        "created = created + 1",
        "seal = randomblob(16)",
    ];
    for change in changes {
        let sealed = sealed();
        sealed.change(&format!("UPDATE snapshots SET {change} WHERE id = {}", sealed.layer));
        let told = sealed.test.store.check(false).unwrap().findings;
        // Its files are nobody's then.
        assert_eq!(
            told.iter().map(|finding| finding.kind).collect::<Vec<_>>(),
            [FindingKind::Record, FindingKind::Stray],
            "{change}"
        );
        assert!(sealed.test.store.snapshot(sealed.layer).unwrap().is_none(), "{change}");
        assert!(!sealed.test.store.thrown_away().is_empty(), "{change}");
        assert!(sealed.test.store.snapshot(sealed.other).unwrap().is_some());
    }
    // As an older program writes it: without a seal, and believed.
    let sealed = sealed();
    sealed.change(&format!("UPDATE snapshots SET seal = NULL, size = size + 1 WHERE id = {}", sealed.layer));
    assert!(sealed.test.store.snapshot(sealed.layer).unwrap().is_some());
    assert_eq!(sealed.test.store.check(false).unwrap().findings, []);
}

/// A version over another layer than its own would be another tree.
#[test]
fn a_version_over_another_layer_is_forgotten() {
    let test = TestStore::new();
    let layer = |name: &str| test.layer(&[], |dir| fs::write(dir.join(name), "").unwrap()).id();
    let (base, other, version) = (layer("base"), layer("other"), layer("version"));
    // As an older program writes it: without a seal, and believed.
    test.database()
        .execute("INSERT INTO versions (snapshot, base, own) VALUES (?1, ?2, 1)", [version.0, base.0])
        .unwrap();
    let place = |top: &str| test.dir.path().join(top).join(version.to_string());
    fs::rename(place("snapshots-v1"), place("versions-v1")).unwrap();
    assert_eq!(test.store.snapshot(version).unwrap().unwrap().dirs().count(), 2);
    let seal = hash::StableHasher::new("version-seal-v1").with(&version.0).with(&Some(base.0)).finish();
    test.database().execute("UPDATE versions SET seal = ?1", [&seal[..16]]).unwrap();
    assert_eq!(test.store.snapshot(version).unwrap().unwrap().dirs().count(), 2);
    test.database().execute("UPDATE versions SET base = ?1", [other.0]).unwrap();
    assert!(test.store.snapshot(version).unwrap().is_none());
    assert!(!test.store.thrown_away().is_empty());
    assert!(test.store.snapshot(base).unwrap().is_some() && test.store.snapshot(other).unwrap().is_some());
}

/// A database of a program that knew no seals gets them, row by row, as they are written.
#[test]
fn an_older_database_gets_seals() {
    let sealed = sealed();
    let db = sealed.test.database();
    for table in ["chains", "versions", "packed", "snapshots"] {
        db.execute_batch(&format!("ALTER TABLE {table} DROP COLUMN seal")).unwrap();
    }
    drop(db);
    let Sealed { test, chain, layer, other, packed } = sealed;
    let TestStore { store, dir } = test;
    drop(store);
    let test = TestStore { store: Store::open(dir.path(), Default::default()).unwrap(), dir };
    let sealed = Sealed { test, chain, layer, other, packed };
    assert_eq!(sealed.is_known(), (true, true), "as it was");
    sealed.test.store.set_chain(&chain, layer).unwrap();
    sealed.change("UPDATE chains SET snapshot = snapshot + 1");
    assert_eq!(sealed.is_known(), (false, true));
}
