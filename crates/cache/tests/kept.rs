//! Failed steps, logs and downloads.

mod common;

use std::fs;
use std::path::Path;
use std::time::Duration;

use cache::{Download, KeptId, LogPiece, LogSource, PruneOptions, RootForm, SnapshotId, TreeView};
use common::TestStore;
use files::FileTree;
use hash::Digest;
use image::ContentStore;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_failed_step_is_kept_for_a_time() {
    let test = TestStore::new();
    let base = test.layer(&[], |dir| fs::write(dir.join("base"), "").unwrap());
    let root = test.store.begin_root(&[base.id()]).unwrap();
    let RootForm::Overlay { upper, .. } = root.form() else { panic!("overlay") };
    fs::write(upper.join("half"), vec![1; 10_000]).unwrap();
    let failed = root.finish([]).unwrap();
    let kept = failed.keep(&[base.id()], &[], "RUN make", r#"{"args":["make"]}"#, HOUR).unwrap();
    assert_eq!(kept.layers[0], base.id());

    let again = test.again();
    assert_eq!(again.kept_step(kept.id).unwrap().as_ref(), Some(&kept));
    assert_eq!(again.kept_steps().unwrap(), std::slice::from_ref(&kept));
    let usage = again.usage().unwrap();
    assert_eq!((usage.kept.count, usage.kept.bytes), (1, 10_000));
    let layer = usage.layers.iter().find(|layer| layer.id == kept.layers[1]).unwrap();
    assert!(layer.referenced && layer.description == "RUN make");
    // Nothing else names the base either.
    let pruned = again.prune(PruneOptions::default()).unwrap();
    assert_eq!((pruned.snapshots, pruned.kept), (0, 0));
    let view = TreeView::new(&again, &kept.layers).unwrap();
    for name in ["base", "half"] {
        assert!(view.metadata(Path::new(name)).unwrap().is_some(), "{name}");
    }
    drop(again.begin_root(&kept.layers).unwrap());

    again.forget_kept_step(kept.id).unwrap();
    assert_eq!(again.prune(PruneOptions::default()).unwrap().snapshots, 2);
    assert_eq!(again.kept_step(kept.id).unwrap(), None);
    assert_eq!(again.kept_step(KeptId(99)).unwrap(), None);
}

#[test]
fn a_time_that_is_over_and_layers_that_are_lost() {
    let test = TestStore::new();
    let keep = |time| {
        let active = test.store.begin(&[]).unwrap();
        active.keep(&[], &[], "RUN x", "{}", time).unwrap()
    };
    let (short, long) = (keep(Duration::ZERO), keep(HOUR));
    std::thread::sleep(Duration::from_millis(5));
    let pruned = test.store.prune(PruneOptions::default()).unwrap();
    assert_eq!((pruned.kept, pruned.snapshots), (1, 1));
    assert_eq!(test.store.kept_step(short.id).unwrap(), None);
    fs::remove_dir_all(test.dir.path().join(format!("snapshots-v1/{}", long.layers[0]))).unwrap();
    assert_eq!(test.store.kept_step(long.id).unwrap(), None);
    assert_eq!(test.store.kept_steps().unwrap(), []);
}

fn pieces(test: &TestStore, layer: SnapshotId) -> Vec<LogPiece> {
    test.again().log(layer).unwrap().unwrap().map(Result::unwrap).collect()
}

#[test]
fn a_log_is_read_back_as_it_was() {
    let test = TestStore::new();
    let layer = test.layer(&[], |_| {}).id();
    assert!(test.store.log(layer).unwrap().is_none());
    let mut log = test.store.log_writer(1 << 20).unwrap();
    let wanted = [
        (LogSource::Stdout, 5, b"one\n".to_vec()),
        (LogSource::Stderr, 70_000, vec![0xff, 0, 13]),
        (LogSource::Stdout, 70_001, b"no end of line".to_vec()),
    ];
    for (source, millis, data) in &wanted {
        log.write(*source, Duration::from_millis(*millis), data).unwrap();
    }
    log.finish(layer).unwrap();
    let expected: Vec<_> = wanted
        .into_iter()
        .map(|(source, millis, data)| LogPiece::Output { source, after: Duration::from_millis(millis), data })
        .collect();
    assert_eq!(pieces(&test, layer), expected);
    assert_eq!(test.store.usage().unwrap().logs.count, 1);
    // It goes with its layer.
    test.store.prune(PruneOptions::default()).unwrap();
    assert!(test.store.log(layer).unwrap().is_none());
    drop(test.store.log_writer(1).unwrap());
    let own = fs::read_dir(test.dir.path().join("tmp-v1")).unwrap().map(Result::unwrap);
    let own = own.map(|entry| entry.path()).find(|path| path.is_dir()).unwrap();
    assert_eq!(fs::read_dir(own).unwrap().count(), 0, "a log that nobody finished");
}

#[test]
fn a_log_that_is_too_long_keeps_both_ends() {
    let test = TestStore::new();
    let layer = test.layer(&[], |_| {}).id();
    let mut log = test.store.log_writer(1_000_000).unwrap();
    let mut all = Vec::new();
    for line in 0..200_000 {
        let line = format!("line {line}\n");
        log.write(LogSource::Stdout, Duration::ZERO, line.as_bytes()).unwrap();
        all.extend(line.into_bytes());
    }
    log.finish(layer).unwrap();
    let (mut read, mut omitted) = (Vec::new(), None);
    for piece in pieces(&test, layer) {
        match piece {
            LogPiece::Output { data, .. } => read.extend(data),
            LogPiece::Omitted { bytes } => {
                assert_eq!(read.len(), 1_000_000);
                omitted = Some(bytes as usize);
            }
        }
    }
    let omitted = omitted.unwrap();
    assert_eq!(read.len() + omitted, all.len());
    assert!(read[..1_000_000] == all[..1_000_000]);
    assert!(read[1_000_000..] == all[1_000_000 + omitted..]);
    assert!(read.len() > 1_100_000 && read.ends_with(b"line 199999\n"));
}

#[test]
fn output_takes_no_memory_however_long() {
    let test = TestStore::new();
    let layer = test.layer(&[], |_| {}).id();
    let before = resident();
    let mut log = test.store.log_writer(u64::MAX).unwrap();
    let piece = vec![b'x'; 1 << 20];
    let amount = 256;
    for _ in 0..amount {
        log.write(LogSource::Stdout, Duration::ZERO, &piece).unwrap();
    }
    log.finish(layer).unwrap();
    let read: u64 = test
        .store
        .log(layer)
        .unwrap()
        .unwrap()
        .map(|piece| match piece.unwrap() {
            LogPiece::Output { data, .. } => data.len() as u64,
            LogPiece::Omitted { .. } => panic!("nothing is left out"),
        })
        .sum();
    assert_eq!(read, amount << 20);
    assert!(resident() < before + (24 << 20), "{} KiB more", (resident() - before) >> 10);
}

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap();
    text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
}

#[test]
fn a_damaged_log_is_an_error_and_no_panic() {
    let test = TestStore::new();
    let layer = test.layer(&[], |_| {}).id();
    let mut log = test.store.log_writer(1 << 20).unwrap();
    for n in 0..200u32 {
        log.write(LogSource::Stdout, Duration::ZERO, &n.wrapping_mul(0x9E37_79B9).to_le_bytes()).unwrap();
    }
    log.finish(layer).unwrap();
    let path = test.dir.path().join(format!("logs-v1/{layer}"));
    let whole = fs::read(&path).unwrap();
    for place in 0..whole.len() {
        let mut broken = whole.clone();
        broken[place] ^= 0x41;
        fs::write(&path, &broken).unwrap();
        if let Ok(Some(reader)) = test.store.log(layer) {
            assert!(reader.count() <= 201);
        }
        fs::write(&path, &whole[..place]).unwrap();
        let cut = test.store.log(layer).is_ok_and(|log| log.unwrap().all(|piece| piece.is_ok()));
        assert!(!cut || place == 0, "cut at {place}");
    }
}

#[test]
fn downloads_are_known_by_address_while_their_bytes_are_there() {
    let test = TestStore::new();
    let blobs = test.store.blobs();
    let url = "https://example.com/a.tar";
    assert_eq!(test.store.download(url).unwrap(), None);
    let put = |bytes: &[u8]| (blobs as &dyn ContentStore).put(bytes).unwrap();
    put(b"old");
    put(b"new");
    let download = |bytes: &[u8], etag: &str| Download {
        etag: Some(etag.to_owned()),
        last_modified: None,
        digest: Digest::of(bytes),
    };
    test.store.note_download(url, &download(b"old", "\"1\"")).unwrap();
    test.store.note_download(url, &download(b"new", "W/\"2\"")).unwrap();
    assert_eq!(test.store.prune(PruneOptions::default()).unwrap().blobs, 1, "the old one");
    assert_eq!(test.again().download(url).unwrap(), Some(download(b"new", "W/\"2\"")));
    test.database().execute("UPDATE downloads SET used = 0", []).unwrap();
    assert_eq!(test.store.prune(PruneOptions::default()).unwrap().blobs, 1);
    assert_eq!(test.store.download(url).unwrap(), None);
    test.store.note_download(url, &download(b"lost", "\"3\"")).unwrap();
    assert_eq!(test.store.download(url).unwrap(), None);
}

#[test]
fn a_store_of_before_gets_the_tables_it_lacks() {
    let test = TestStore::new();
    let layer = test.layer(&[], |dir| fs::write(dir.join("f"), "").unwrap());
    test.database()
        .execute_batch("DROP VIEW held; DROP TABLE pins; DROP TABLE kept; DROP TABLE downloads; DROP TABLE steps; DROP TABLE chunks; DROP TABLE sums; DROP TABLE record_origins; DROP TABLE holdings; DROP TRIGGER base_gone; DROP TABLE versions; DROP TRIGGER trees_gone; DROP TRIGGER records_gone; DROP INDEX records_tree; DROP TABLE trees;")
        .unwrap();
    let store = test.again();
    assert_eq!(store.replaced(), None);
    assert!(store.snapshot(layer.id()).unwrap().is_some());
    assert_eq!(store.kept_steps().unwrap(), []);
}

#[test]
fn what_a_kept_step_shows_stays_with_it() {
    let test = TestStore::new();
    let shown = test.layer(&[], |dir| fs::write(dir.join("shown"), "").unwrap());
    let failed = test.store.begin(&[]).unwrap();
    let kept = failed.keep(&[], &[shown.id()], "RUN --mount=type=bind", "{}", HOUR).unwrap();
    test.store.prune(PruneOptions::default()).unwrap();
    assert!(test.store.snapshot(shown.id()).unwrap().is_some());
    assert!(test.store.kept_step(kept.id).unwrap().is_some());
    test.store.forget_kept_step(kept.id).unwrap();
    test.store.prune(PruneOptions::default()).unwrap();
    assert!(test.store.snapshot(shown.id()).unwrap().is_none());
}
