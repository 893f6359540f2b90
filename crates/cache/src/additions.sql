-- Tables that came later. A program that does not know them is not disturbed by them, so version 1 stays what it is.
-- Columns are later, NULL in rows of older programs: `seal` of `chains`, `versions`, `packed` and `snapshots`, checksums over their rows;
-- `of_index` of `images`, the descriptor of the index that the name means, if it means one, whose blob is one of `image_blobs`; `tree` of
-- `records`. The last is trees.sql: where `trees_gone` is, all is.

-- What a failed step left, for a shell: `layers` (ids as JSON, bottom first) is the whole tree, the failed step's own on top.
CREATE TABLE IF NOT EXISTS kept (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    snapshot INTEGER NOT NULL REFERENCES snapshots (id) ON DELETE CASCADE,
    layers   TEXT    NOT NULL,
    name     TEXT    NOT NULL,
    spec     TEXT    NOT NULL,   -- JSON of whoever kept it
    created  INTEGER NOT NULL,
    expires  INTEGER NOT NULL
);
CREATE INDEX IF NOT EXISTS kept_snapshot ON kept (snapshot);

-- Files fetched over HTTP, with what a server wants to hear when it is asked again (RFC 9110, 8.8).
CREATE TABLE IF NOT EXISTS downloads (
    url      TEXT    PRIMARY KEY,
    etag     TEXT,
    modified TEXT,
    digest   BLOB    NOT NULL,   -- of the blob
    used     INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS downloads_digest ON downloads (digest);

-- What went into the keys of a step when it was last built, to say what is different now.
CREATE TABLE IF NOT EXISTS steps (
    step  BLOB    PRIMARY KEY,
    parts BLOB    NOT NULL,
    used  INTEGER NOT NULL
) WITHOUT ROWID;

-- Where compressed pieces of layers stand in blobs; `seal` is a hash of the compressed bytes.
CREATE TABLE IF NOT EXISTS chunks (
    key    BLOB    PRIMARY KEY,
    blob   BLOB    NOT NULL,
    start  INTEGER NOT NULL,
    length INTEGER NOT NULL,
    seal   BLOB    NOT NULL
) WITHOUT ROWID;

-- Layers that a copy wrote. In full: by what later versions of them are found. Or as what is different from a full one, their `base`,
-- which has to stay as long as they do; `own` is what they take themselves, in bytes.
CREATE TABLE IF NOT EXISTS versions (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
    identity BLOB,
    place    BLOB,
    base     INTEGER REFERENCES snapshots (id),
    own      INTEGER
);
CREATE INDEX IF NOT EXISTS versions_identity ON versions (identity) WHERE base IS NULL;
CREATE INDEX IF NOT EXISTS versions_base ON versions (base) WHERE base IS NOT NULL;

-- A version without what it lies over is worth nothing.
CREATE TRIGGER IF NOT EXISTS base_gone AFTER DELETE ON snapshots BEGIN
    DELETE FROM records WHERE id IN
        (SELECT record FROM record_layers JOIN versions ON versions.snapshot = record_layers.snapshot WHERE base = OLD.id);
    DELETE FROM snapshots WHERE id IN (SELECT snapshot FROM versions WHERE base = OLD.id);
END;

-- What layers hold, as hashed when they were written or first checked.
CREATE TABLE IF NOT EXISTS sums (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
    digest   BLOB    NOT NULL
);

-- Further layers that a kept failed step needs: those that its mounts show.
CREATE TABLE IF NOT EXISTS pins (
    kept     INTEGER NOT NULL REFERENCES kept (id) ON DELETE CASCADE,
    snapshot INTEGER NOT NULL,
    PRIMARY KEY (kept, snapshot)
) WITHOUT ROWID;

-- Layers that stay for kept failed steps.
CREATE VIEW IF NOT EXISTS held AS
    SELECT value AS snapshot FROM kept, json_each(kept.layers)
    UNION SELECT snapshot FROM pins
    UNION SELECT base FROM versions WHERE base IS NOT NULL
        AND (snapshot IN (SELECT value FROM kept, json_each(kept.layers)) OR snapshot IN (SELECT snapshot FROM pins));

-- The caches elsewhere on whose word a result rests.
CREATE TABLE IF NOT EXISTS record_origins (
    record INTEGER NOT NULL REFERENCES records (id) ON DELETE CASCADE,
    origin TEXT    NOT NULL,
    PRIMARY KEY (record, origin)
) WITHOUT ROWID;

-- What layers hold that no process wrote, as known when they were written.
CREATE TABLE IF NOT EXISTS holdings (
    snapshot INTEGER PRIMARY KEY REFERENCES snapshots (id) ON DELETE CASCADE,
    digest   BLOB    NOT NULL
);
