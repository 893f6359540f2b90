-- Version 1. The version is in the file's name: a change of these tables is a new file.
-- `boot`: NULL once what the row names has been synced to disk; until then the id of the boot that made it. After
-- another boot such a row is removed, since the files may have been lost with the power.
-- Times are milliseconds since 1970, digests 32 bytes.

CREATE TABLE snapshots (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    changes BLOB    NOT NULL,
    entries INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    root    INTEGER NOT NULL,   -- whether the layer says something about the root directory itself
    created INTEGER NOT NULL,
    used    INTEGER NOT NULL,
    boot    TEXT
);
CREATE INDEX snapshots_fresh ON snapshots (boot) WHERE boot IS NOT NULL;

CREATE TABLE blobs (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    digest  BLOB    NOT NULL UNIQUE,
    size    INTEGER NOT NULL,
    created INTEGER NOT NULL,
    boot    TEXT
);
CREATE INDEX blobs_fresh ON blobs (boot) WHERE boot IS NOT NULL;

-- An image's layer, unpacked and verified, under its chain id.
CREATE TABLE chains (
    chain    BLOB    PRIMARY KEY,
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX chains_snapshot ON chains (snapshot);

CREATE TABLE records (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    content     BLOB    NOT NULL,
    description TEXT    NOT NULL,
    started     INTEGER NOT NULL,   -- nanoseconds since 1970
    duration    INTEGER NOT NULL,   -- nanoseconds
    used        INTEGER NOT NULL
);

-- Of older programs; made trees of when the database is opened (trees.sql).
CREATE TABLE record_layers (
    record   INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    snapshot INTEGER NOT NULL REFERENCES snapshots (id),
    PRIMARY KEY (record, position)
) WITHOUT ROWID;
CREATE INDEX record_layers_snapshot ON record_layers (snapshot);

-- `seal` is a checksum over key, record, content, layers and origins: a row that a failing disk changed is no hit.
CREATE TABLE keys (
    key    BLOB    NOT NULL,
    record INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
    seal   BLOB    NOT NULL,
    PRIMARY KEY (key, record)
) WITHOUT ROWID;
CREATE INDEX keys_record ON keys (record);

-- A record without one of its layers is worth nothing.
CREATE TRIGGER snapshots_gone BEFORE DELETE ON snapshots BEGIN
    DELETE FROM records WHERE id IN (SELECT record FROM record_layers WHERE snapshot = OLD.id);
END;

-- Layer blobs made of a snapshot, by how they were packed.
CREATE TABLE packed (
    snapshot   INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    form       TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    diff_id    BLOB    NOT NULL,
    descriptor TEXT    NOT NULL,
    PRIMARY KEY (snapshot, form)
) WITHOUT ROWID;
CREATE INDEX packed_digest ON packed (digest);

CREATE TABLE images (
    name       TEXT    NOT NULL,
    platform   TEXT    NOT NULL,
    manifest   TEXT    NOT NULL,   -- the descriptor
    config     BLOB    NOT NULL,
    size       INTEGER NOT NULL,
    created    INTEGER NOT NULL,
    PRIMARY KEY (name, platform)
) WITHOUT ROWID;

-- What prune must keep for an image, known without reading its manifest.
CREATE TABLE image_blobs (
    name     TEXT NOT NULL,
    platform TEXT NOT NULL,
    digest   BLOB NOT NULL,
    PRIMARY KEY (name, platform, digest),
    FOREIGN KEY (name, platform) REFERENCES images (name, platform) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX image_blobs_digest ON image_blobs (digest);
