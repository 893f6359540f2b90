//! What becomes of a database that is damaged: nothing is thrown away by those who only look, and what can be read is saved.

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use cache::{CacheBackend, CacheError, NewRecord, Opening, PruneOptions, StepRun, Store, StoreOptions};
use common::{Lookup, Random, TestStore, content, key, put_image};

const PAGE: usize = 4096;
const STEPS: u64 = 120;

/// A store with images and many cached steps, all of it in the database file and nothing in its log.
fn filled() -> TestStore {
    let test = TestStore::new();
    for (name, bytes) in [("app:1", "one"), ("app:2", "two"), ("registry.example/base", "three")] {
        put_image(&test, name, "linux/amd64", bytes.as_bytes()).unwrap();
    }
    let layer = test.layer(&[], |dir| fs::write(dir.join("f"), "").unwrap()).id();
    for n in 0..STEPS {
        let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
        let description = format!("RUN {n} {}", "x".repeat(300));
        let record = NewRecord { content: content(n), layers: vec![layer], description, run };
        test.store.records().save(&[key(n)], &record).unwrap();
        test.store.records().remember(&[(key(1000 + n), vec![n as u8; 500])]).unwrap();
    }
    test.database().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    test
}

fn database(root: &Path) -> PathBuf {
    root.join("cache-v1.db")
}

/// The same state directory somewhere else, with another database.
fn with_database(test: &TestStore, bytes: &[u8]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let copied = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", test.dir.path().display()))
        .arg(dir.path())
        .status();
    assert!(copied.unwrap().success());
    for suffix in ["-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", database(dir.path()).display()));
    }
    fs::write(database(dir.path()), bytes).unwrap();
    dir
}

fn names(store: &Store) -> Vec<String> {
    store.list_images().unwrap().iter().map(|image| image.name.to_string()).collect()
}

fn open(root: &Path, opening: Opening) -> Result<Store, CacheError> {
    Store::open_as(root, StoreOptions::default(), opening)
}

fn found(store: &Store) -> u64 {
    (0..STEPS).filter(|n| !store.records().lookup(&key(*n)).unwrap().is_empty()).count() as u64
}

/// The tests run in one process, and some start programs: between `fork` and `exec` such a child has the locks of all of them.
fn checked(store: &Store, repair: bool) -> cache::Checked {
    let end = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        match store.check(repair) {
            Err(CacheError::Busy { .. }) if std::time::Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => return other.unwrap(),
        }
    }
}

/// As `builder fsck --repair` does it.
fn repair(root: &Path) -> Store {
    let store = open(root, Opening::Repair).unwrap();
    let told = checked(&store, true);
    if !told.findings.iter().any(|finding| finding.kind == cache::FindingKind::Database) {
        return store;
    }
    drop(store);
    let store = open(root, Opening::Repair).unwrap();
    assert!(store.replaced().is_some());
    checked(&store, true);
    store
}

#[test]
fn images_outlive_every_page_of_the_database() {
    let test = filled();
    let whole = fs::read(database(test.dir.path())).unwrap();
    let want = names(&test.store);
    assert_eq!(want.len(), 3);
    let random = &mut Random::new(5);
    let pages = whole.len() / PAGE;
    let mut saved = Vec::new();
    for page in (0..pages).filter(|page| *page < 3 || page % 4 == 3) {
        let mut bytes = whole.clone();
        let garbage = page % 2 == 0;
        bytes[page * PAGE..][..PAGE].fill_with(|| if garbage { random.below(256) as u8 } else { 0 });
        let dir = with_database(&test, &bytes);
        let store = repair(dir.path());
        assert_eq!(names(&store), want, "page {page}");
        assert_eq!(checked(&store, false).findings, [], "page {page}");
        let found = found(&store);
        saved.push(found);
        // Some pages are free, or hold nothing that would be missed.
        if let Some(replaced) = store.replaced() {
            assert_eq!((replaced.images, replaced.records), (3, found), "page {page}: {replaced}");
            assert_eq!(fs::read(replaced.kept.as_ref().unwrap()).unwrap(), bytes, "page {page}");
        }
        // An id is not given again.
        let before = fs::read_dir(dir.path().join("snapshots-v1")).unwrap().count();
        let fresh = store.begin(&[]).unwrap();
        let changes = fresh.changes().unwrap();
        fresh.commit(&changes).unwrap();
        assert_eq!(fs::read_dir(dir.path().join("snapshots-v1")).unwrap().count(), before + 1, "page {page}");
    }
    // Nearly all pages cost a few steps at most; the first one and the roots cost all of them.
    let few = saved.iter().filter(|found| **found >= STEPS - 40).count();
    assert!(few * 2 > saved.len(), "{saved:?}");
    println!("{pages} pages, some of them damaged: {saved:?} of {STEPS} steps saved");
}

#[test]
fn a_damaged_index_costs_nothing() {
    let test = filled();
    let db = test.database();
    let root: i64 = db
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'keys_record'", [], |row| row.get(0))
        .unwrap();
    let mut bytes = fs::read(database(test.dir.path())).unwrap();
    // Wherever an index entry leads to, it is another one's.
    bytes[(root as usize - 1) * PAGE..][..PAGE].fill(0);
    let dir = with_database(&test, &bytes);
    let store = repair(dir.path());
    assert_eq!((names(&store).len(), found(&store)), (3, STEPS));
    let told = store.replaced().unwrap().to_string();
    assert!(told.contains("3 images and 120 cached steps were saved"), "{told}");
}

#[test]
fn those_who_look_leave_it_as_it_is() {
    let test = filled();
    let mut bytes = fs::read(database(test.dir.path())).unwrap();
    bytes[..PAGE].fill(7);
    let dir = with_database(&test, &bytes);
    for opening in [Opening::Existing, Opening::New, Opening::Existing] {
        match open(dir.path(), opening) {
            Err(CacheError::Damaged { path, why }) => {
                assert_eq!(path, dir.path());
                assert!(why.contains("not a database"), "{why}");
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(fs::read(database(dir.path())).unwrap(), bytes);
    }
    let store = open(dir.path(), Opening::Repair).unwrap();
    let told = store.thrown_away();
    assert!(told.len() == 1 && told[0].contains("3 images and 0 cached steps were saved"), "{told:?}");
    drop(store);
    assert_eq!(open(dir.path(), Opening::Existing).unwrap().replaced(), None);
}

#[test]
fn what_is_found_while_reading_is_remembered() {
    let test = filled();
    let root: i64 = test
        .database()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'images'", [], |row| row.get(0))
        .unwrap();
    let mut bytes = fs::read(database(test.dir.path())).unwrap();
    bytes[(root as usize - 1) * PAGE..][..PAGE].fill(0xff);
    let dir = with_database(&test, &bytes);
    let store = open(dir.path(), Opening::Existing).unwrap();
    assert!(matches!(store.list_images(), Err(CacheError::Damaged { .. })));
    // A change that cannot read what is there must not lose it beside the database either.
    let name = "app:1".parse().unwrap();
    assert!(store.remove_image(&name).is_err());
    assert!(matches!(open(dir.path(), Opening::Existing), Err(CacheError::Damaged { .. })));
    drop(store);
    let store = open(dir.path(), Opening::Repair).unwrap();
    assert_eq!((names(&store).len(), found(&store)), (3, STEPS));
}

/// The description of a table is in the database as well.
#[test]
fn a_table_that_is_described_otherwise_is_damaged() {
    let test = filled();
    let images = names(&test.store).len();
    let rename = "PRAGMA writable_schema = ON;
                  UPDATE sqlite_schema SET sql = replace(sql, 'description', 'descriptiom') WHERE name = 'records'";
    test.database().execute_batch(rename).unwrap();
    let store = open(test.dir.path(), Opening::Existing).unwrap();
    let record = cache::NewRecord {
        content: common::content(1),
        layers: Vec::new(),
        description: String::new(),
        run: cache::StepRun { started: std::time::UNIX_EPOCH, duration: std::time::Duration::ZERO },
    };
    let saved = store.records().save(&[common::key(1)], &record);
    assert!(matches!(saved, Err(CacheError::Damaged { .. })), "{saved:?}");
    assert!(!store.thrown_away().is_empty(), "the build is done again");
    drop(store);
    let store = open(test.dir.path(), Opening::Repair).unwrap();
    assert!(store.replaced().is_some());
    assert_eq!(names(&store).len(), images);
    store.records().save(&[common::key(1)], &record).unwrap();
}

#[test]
fn a_database_that_is_gone_or_empty_is_damaged_too() {
    let test = filled();
    for bytes in [None, Some(Vec::new()), Some(vec![0; 100])] {
        let dir = with_database(&test, bytes.as_deref().unwrap_or_default());
        if bytes.is_none() {
            fs::remove_file(database(dir.path())).unwrap();
        }
        assert!(matches!(open(dir.path(), Opening::New), Err(CacheError::Damaged { .. })), "{bytes:?}");
        let store = open(dir.path(), Opening::Repair).unwrap();
        assert_eq!(names(&store).len(), 3, "{bytes:?}");
        assert_eq!(store.replaced().unwrap().kept.is_some(), bytes.is_some());
        // The number of the layer that has no row any more is not given again.
        let active = store.begin(&[]).unwrap();
        let changes = active.changes().unwrap();
        assert!(active.commit(&changes).unwrap().id().0 > 1);
    }
}

#[test]
fn an_image_without_its_blobs_is_told_and_not_saved() {
    let test = filled();
    let image =
        test.store.get_image(&"app:2".parse().unwrap(), &"linux/amd64".parse().unwrap()).unwrap().unwrap();
    let hex = image.manifest.digest.hex();
    let dir = with_database(&test, &[1; 100]);
    fs::remove_file(dir.path().join(format!("blobs/sha256-v1/{}/{hex}", &hex[..2]))).unwrap();
    let store = open(dir.path(), Opening::Repair).unwrap();
    assert_eq!(names(&store).len(), 2);
    let replaced = store.replaced().unwrap();
    assert_eq!(replaced.lost, ["app:2 (linux/amd64)"]);
    assert!(replaced.to_string().contains("app:2"), "{replaced}");
}

/// A list that is itself damaged, or of an older program, is done without.
#[test]
fn names_are_read_from_the_table_where_the_list_is_no_use() {
    let test = filled();
    let mut bytes = fs::read(database(test.dir.path())).unwrap();
    let steps: i64 = test
        .database()
        .query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'keys'", [], |row| row.get(0))
        .unwrap();
    bytes[(steps as usize - 1) * PAGE..][..PAGE].fill(0xff);
    let dir = with_database(&test, &bytes);
    let list = dir.path().join("images-v1");
    let mut text = fs::read_to_string(&list).unwrap();
    text = text.replace("app", "lie");
    fs::write(&list, text).unwrap();
    assert_eq!(names(&repair(dir.path())), names(&test.store));
}

/// One flipped bit is enough: SQLite sees nothing wrong with it.
#[test]
fn a_name_outlives_a_row_that_says_nothing() {
    for (column, spoilt) in [("manifest", "'{'"), ("platform", "'//'"), ("manifest", "CAST(x'ff' AS TEXT)")] {
        let test = filled();
        let want = names(&test.store);
        let spoil = format!("UPDATE OR IGNORE images SET {column} = {spoilt} WHERE name LIKE '%app:1'");
        let db = test.database();
        db.execute_batch("PRAGMA foreign_keys = OFF").unwrap();
        assert_eq!(db.execute(&spoil, []).unwrap(), 1);
        drop(db);
        let dir = test.dir.path();
        let told = checked(&open(dir, Opening::Existing).unwrap(), false);
        assert_eq!(told.findings[0].kind, cache::FindingKind::Database, "{spoilt}");
        // As if nobody had looked yet.
        let _ = fs::remove_file(dir.join("cache-v1.db.damaged"));
        let listed = fs::read(dir.join("images-v1")).unwrap();
        let tagged = put_image(&test, "app:3", "linux/amd64", b"four");
        assert!(matches!(tagged, Err(CacheError::Damaged { .. })), "{spoilt}: {tagged:?}");
        assert!(matches!(test.store.list_images(), Err(CacheError::Damaged { .. })), "{spoilt}");
        assert_eq!(fs::read(dir.join("images-v1")).unwrap(), listed, "{spoilt}");
        let store = repair(dir);
        assert_eq!((names(&store), found(&store)), (want, STEPS), "{spoilt}");
        assert_eq!(checked(&store, false).findings, [], "{spoilt}");
    }
}

/// The index that a name means is saved with it, from the list and from the database; without its blob an image is one of its platform.
#[test]
fn the_index_of_a_name_is_saved() {
    for (list_is_lost, blob_is_lost) in [(false, false), (true, false), (false, true)] {
        let test = filled();
        let blobs = test.store.blobs() as &dyn image::ContentStore;
        let index = image::Descriptor::new(image::MediaType::INDEX, blobs.put(b"an index").unwrap(), 8);
        let name = "app:1".parse().unwrap();
        let stored = test.store.images_named(&name).unwrap().remove(0);
        let manifests = [(stored.platform, stored.manifest)];
        test.store.name_images(&name, &manifests, Some(&index)).unwrap();
        let hex = index.digest.hex();
        test.store.session().unwrap().finish().unwrap();
        test.database().execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test").unwrap();
        if list_is_lost {
            fs::remove_file(test.dir.path().join("images-v1")).unwrap();
        }
        if blob_is_lost {
            fs::remove_file(test.dir.path().join("blobs/sha256-v1").join(&hex[..2]).join(&hex)).unwrap();
        }
        let store = repair(test.dir.path());
        assert_eq!(store.list_images().unwrap().len(), 3);
        let saved = store.images_named(&name).unwrap().remove(0).index;
        assert_eq!(saved, (!blob_is_lost).then_some(index.clone()), "{list_is_lost} {blob_is_lost}");
        store.prune(PruneOptions::default()).unwrap();
        assert_eq!(image::ContentStore::size(store.blobs(), &index.digest).unwrap().is_some(), !blob_is_lost);
    }
    // Of a program that knew of none.
    let test = filled();
    let want = names(&test.store);
    test.database()
        .execute_batch("ALTER TABLE images DROP COLUMN of_index; PRAGMA wal_checkpoint(TRUNCATE)")
        .unwrap();
    fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test").unwrap();
    fs::remove_file(test.dir.path().join("images-v1")).unwrap();
    assert_eq!(names(&repair(test.dir.path())), want);
}

#[test]
fn results_on_the_word_of_others_are_saved_with_it() {
    let test = filled();
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
    let record = NewRecord { content: content(5000), layers: Vec::new(), description: "RUN far".into(), run };
    let origins = ["registry.example/cache".to_owned()].into();
    test.store.records().save_from(&[key(5000)], &record, &origins).unwrap();
    fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test\n").unwrap();
    let store = repair(test.dir.path());
    assert_eq!(store.replaced().unwrap().records, STEPS + 1);
    assert_eq!(store.records().lookup(&key(5000)).unwrap()[0].origins, origins);
    // What is not known now may have been built before.
    assert!(store.records().lost().unwrap().is_some());
    assert_eq!(TestStore::new().store.records().lost().unwrap(), None);
    assert_eq!(checked(&store, false).findings, []);
}

/// A damaged page could say anything about what has no seal.
#[test]
fn what_nothing_vouches_for_is_not_saved() {
    let test = filled();
    let layer = |name: &str| test.layer(&[], |dir| fs::write(dir.join(name), "").unwrap()).id();
    let (base, version, plain) = (layer("base"), layer("version"), layer("plain"));
    let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
    for (n, layer) in [(5001, version), (5002, plain)] {
        let record = NewRecord { content: content(n), layers: vec![layer], description: "COPY".into(), run };
        test.store.records().save(&[key(n)], &record).unwrap();
    }
    test.database()
        .execute("INSERT INTO versions (snapshot, base, own) VALUES (?1, ?2, 1)", [version.0, base.0])
        .unwrap();
    let place = |top: &str| test.dir.path().join(top).join(version.to_string());
    fs::rename(place("snapshots-v1"), place("versions-v1")).unwrap();
    assert_eq!(test.store.records().lookup(&key(5001)).unwrap()[0].layers, [version]);
    let chain = hash::Digest::of(b"chain");
    test.store.set_chain(&chain, plain).unwrap();
    test.database()
        .execute(
            "INSERT INTO packed (snapshot, form, digest, diff_id, descriptor) VALUES (?1, 'f', ?2, ?2, '{}')",
            (plain.0, chain.as_bytes()),
        )
        .unwrap();
    test.database()
        .execute("INSERT INTO downloads (url, digest, used) VALUES ('u', ?1, 1)", [chain.as_bytes()])
        .unwrap();
    fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test\n").unwrap();
    let store = open(test.dir.path(), Opening::Repair).unwrap();
    assert_eq!(store.chain(&chain).unwrap(), None);
    assert!(store.records().lookup(&key(5001)).unwrap().is_empty());
    assert_eq!(store.records().lookup(&key(5002)).unwrap()[0].layers, [plain]);
    for table in ["chains", "packed", "downloads", "versions WHERE base IS NOT NULL"] {
        let count = format!("SELECT count(*) FROM {table}");
        let rows: i64 = test.database().query_row(&count, [], |row| row.get(0)).unwrap();
        assert_eq!(rows, 0, "{table}");
    }
    assert_eq!(found(&store), STEPS);
    checked(&store, true);
    assert_eq!(checked(&store, false).findings, []);
}

/// Killed when the damaged database has its second name, and perhaps its log has moved there.
#[test]
fn a_replacement_that_was_cut_short_loses_no_log() {
    for moved in [false, true] {
        let test = filled();
        // From here on all is in the log only.
        put_image(&test, "app:late", "linux/amd64", b"late").unwrap();
        let run = StepRun { started: UNIX_EPOCH, duration: Duration::ZERO };
        let record = NewRecord { content: content(5000), layers: Vec::new(), description: "RUN".into(), run };
        test.store.records().save(&[key(5000)], &record).unwrap();
        let path = database(test.dir.path());
        let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", path.display()));
        let dir = test.dir.path();
        let log = fs::read(beside("-wal")).unwrap();
        assert!(!log.is_empty());
        let bytes = fs::read(&path).unwrap();
        drop(test.store);
        // Names have to come from the table then.
        fs::remove_file(dir.join("images-v1")).unwrap();
        let _ = fs::remove_file(beside("-shm"));
        fs::write(&path, &bytes).unwrap();
        fs::write(beside("-wal"), &log).unwrap();
        fs::write(beside(".damaged"), "for a test\n").unwrap();
        let aside = ".damaged-1700000000000";
        fs::hard_link(&path, beside(aside)).unwrap();
        if moved {
            fs::rename(beside("-wal"), beside(&format!("{aside}-wal"))).unwrap();
            // Whoever looks begins a new log.
            assert!(matches!(open(dir, Opening::Existing), Err(CacheError::Damaged { .. })));
        }
        let store = open(dir, Opening::Repair).unwrap();
        assert_eq!((names(&store).len(), found(&store)), (4, STEPS), "{moved}");
        assert_eq!(store.records().lookup(&key(5000)).unwrap().len(), 1, "{moved}");
        assert_eq!(store.replaced().unwrap().kept, Some(beside(aside)));
        assert_eq!(fs::read(beside(&format!("{aside}-wal"))).unwrap(), log, "{moved}");
        assert_eq!(checked(&store, false).findings, [], "{moved}");
    }
}

#[test]
fn damaged_databases_do_not_pile_up() {
    let test = filled();
    let dir = with_database(&test, &[1; 100]);
    let kept = || {
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        names.filter(|name| name.to_string_lossy().contains(".damaged-")).count()
    };
    for _ in 0..4 {
        drop(open(dir.path(), Opening::Repair).unwrap());
        fs::write(database(dir.path()), [1; 100]).unwrap();
        for suffix in ["-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", database(dir.path()).display()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let store = open(dir.path(), Opening::Repair).unwrap();
    assert_eq!(kept(), 2);
    assert_eq!(names(&store).len(), 3);
    store.prune(PruneOptions { all: true }).unwrap();
    assert_eq!(kept(), 0);
}

#[test]
fn a_directory_is_made_by_those_who_want_it() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("mistyped");
    assert!(matches!(open(&root, Opening::Existing), Err(CacheError::Absent { path }) if path == root));
    assert!(!root.exists());
    assert!(matches!(open(dir.path(), Opening::Existing), Err(CacheError::Absent { .. })));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    assert!(!Store::is_at(&root));
    drop(open(&root, Opening::New).unwrap());
    assert!(Store::is_at(&root));
    assert_eq!(open(&root, Opening::Existing).unwrap().replaced(), None);
    // Nothing can be made there, by nobody.
    match open(Path::new("/proc/nothing/here"), Opening::New) {
        Err(CacheError::Unusable { reason, .. }) => assert!(reason.contains("cannot be made"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Whoever opened the database, and waited until somebody else had replaced it, would give the same ids once more.
#[test]
fn a_database_that_was_replaced_is_not_gone_on_with() {
    let test = filled();
    let late = test.again();
    let mark = test.dir.path().join("cache-v1.db.damaged");
    fs::write(&mark, "for a test\n").unwrap();
    // Found damaged since it was opened, and not replaced yet.
    assert!(matches!(late.session(), Err(CacheError::Damaged { why, .. }) if why == "for a test"));
    assert!(late.thrown_away()[0].contains("for a test"));
    let late = {
        fs::remove_file(&mark).unwrap();
        let late = test.again();
        fs::write(&mark, "for a test\n").unwrap();
        late
    };
    let repairing = open(test.dir.path(), Opening::Repair).unwrap();
    assert!(repairing.replaced().is_some());
    let fresh = repairing.begin(&[]).unwrap();
    let changes = fresh.changes().unwrap();
    let fresh = fresh.commit(&changes).unwrap().id();
    assert!(matches!(late.session(), Err(CacheError::Replaced { path }) if path == test.dir.path()));
    assert!(late.thrown_away()[0].contains("was replaced"), "a build is done again");
    // Nor does it take the new one's layers for rubbish, or find it damaged.
    for all in [false, true] {
        let pruned = late.prune(PruneOptions { all });
        assert!(matches!(pruned, Err(CacheError::Replaced { .. })), "{pruned:?}");
    }
    let limits = cache::Limits { max_used_space: 1, ..cache::Limits::default() };
    let whys = cache::Whys { over: String::new(), full: String::new() };
    assert!(matches!(late.collect(limits, &whys), Err(CacheError::Replaced { .. })));
    assert!(matches!(late.check(true), Err(CacheError::Replaced { .. } | CacheError::Busy { .. })));
    // A name that is taken away there would come back, and the list of names be the old one.
    let list = || fs::read_to_string(test.dir.path().join("images-v1")).unwrap();
    let (name, before) = (repairing.list_images().unwrap()[0].name.clone(), list());
    assert!(matches!(late.remove_image(&name), Err(CacheError::Replaced { .. })));
    assert_eq!(list(), before);
    assert!(!mark.exists());
    assert!(repairing.snapshot(fresh).unwrap().is_some());
    test.again().session().unwrap().finish().unwrap();
    assert_eq!(found(&test.again()), STEPS);
}

/// Tagged anew after the list was written, or before it: a name means what it was given to last.
#[test]
fn a_name_means_what_it_was_given_to_last() {
    for newer_in_table in [false, true] {
        let test = filled();
        let list = test.dir.path().join("images-v1");
        let older = fs::read(&list).unwrap();
        let tagged = put_image(&test, "app:1", "linux/amd64", b"another").unwrap();
        let db = test.database();
        if newer_in_table {
            // The list was written before the name was given anew.
            fs::write(&list, &older).unwrap();
            let long_ago = std::time::SystemTime::now() - Duration::from_secs(60);
            fs::File::options().write(true).open(&list).unwrap().set_modified(long_ago).unwrap();
        } else {
            db.execute_batch("UPDATE images SET created = created - 60000").unwrap();
        }
        drop(db);
        fs::write(test.dir.path().join("cache-v1.db.damaged"), "for a test\n").unwrap();
        let store = repair(test.dir.path());
        let image = store.get_image(&"app:1".parse().unwrap(), &"linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(image.unwrap().manifest.digest, tagged.digest, "{newer_in_table}");
        assert_eq!(names(&store).len(), 3);
    }
}

/// All places of a text: pages may hold what was moved elsewhere.
fn places(bytes: &[u8], text: &str) -> Vec<usize> {
    let found = bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes());
    found.map(|(place, _)| place).collect()
}

/// The names of columns stand in the descriptions of their tables. Nothing is lost with one that stands there once.
#[test]
fn a_column_that_lost_its_name_is_saved() {
    let test = filled();
    let bytes = fs::read(database(test.dir.path())).unwrap();
    for (table, column) in [
        ("snapshots", "entries INTEGER"),
        ("records", "content     BLOB"),
        ("records", "description TEXT"),
        ("keys", "seal   BLOB    NOT NULL"),
    ] {
        let mut bytes = bytes.clone();
        for begin in places(&bytes, &format!("CREATE TABLE {table} (")) {
            let place = places(&bytes[begin..], column)[0];
            bytes[begin + place] = b'q';
        }
        let dir = with_database(&test, &bytes);
        let store = repair(dir.path());
        assert_eq!(found(&store), STEPS, "{table}.{column}");
        assert_eq!(names(&store).len(), 3, "{table}.{column}");
    }
}

/// Where the description of one table is no statement, the tables that were described before it can be read.
#[test]
fn a_table_without_a_description_costs_those_after_it_at_most() {
    let test = filled();
    let bytes = fs::read(database(test.dir.path())).unwrap();
    for table in ["packed", "image_blobs", "kept", "sums"] {
        let mut bytes = bytes.clone();
        for begin in places(&bytes, &format!("CREATE TABLE {table} (")) {
            bytes[begin + 7] = b'q';
        }
        let dir = with_database(&test, &bytes);
        let store = repair(dir.path());
        assert_eq!(found(&store), STEPS, "{table}");
        assert_eq!(names(&store).len(), 3, "{table}");
    }
}
