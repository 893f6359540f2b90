-- Layers of results: one on top of those of another tree, `parent`, or on nothing. The layers of many results are the first ones of others:
-- so each has one row, however many lie below. A row never changes, its parent came before it, and it stays as long as a result leads to it.
-- Older programs have a row in `record_layers` for each layer of each result; those are made trees of (trees.rs). They find results with trees
-- broken, and do not use them.
CREATE TABLE IF NOT EXISTS trees (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    parent   INTEGER REFERENCES trees (id),
    snapshot INTEGER NOT NULL REFERENCES snapshots (id)
);
CREATE UNIQUE INDEX IF NOT EXISTS trees_parent ON trees (parent, snapshot);
CREATE INDEX IF NOT EXISTS trees_snapshot ON trees (snapshot);
CREATE INDEX IF NOT EXISTS records_tree ON records (tree);

-- A tree goes with the last record that leads to it, and so does what lies below and has nothing else on it.
CREATE TRIGGER IF NOT EXISTS records_gone AFTER DELETE ON records WHEN OLD.tree IS NOT NULL BEGIN
    DELETE FROM trees WHERE id IN (
        WITH RECURSIVE loose (id, parent) AS (
            SELECT id, parent FROM trees WHERE id = OLD.tree
                AND NOT EXISTS (SELECT 1 FROM records WHERE tree = OLD.tree)
                AND NOT EXISTS (SELECT 1 FROM trees AS above WHERE above.parent = OLD.tree)
            UNION SELECT below.id, below.parent FROM loose JOIN trees AS below ON below.id = loose.parent
                WHERE NOT EXISTS (SELECT 1 FROM records WHERE tree = below.id)
                AND NOT EXISTS (SELECT 1 FROM trees AS above WHERE above.parent = below.id AND above.id <> loose.id)
        )
        SELECT id FROM loose
    );
END;

-- A record without one of its layers is worth nothing. No tree is left then, unless a damaged row led elsewhere.
CREATE TRIGGER IF NOT EXISTS trees_gone BEFORE DELETE ON snapshots BEGIN
    DELETE FROM records WHERE tree IN (
        WITH RECURSIVE above (id) AS (
            SELECT id FROM trees WHERE snapshot = OLD.id
            UNION SELECT trees.id FROM above JOIN trees ON trees.parent = above.id
        )
        SELECT id FROM above
    );
    DELETE FROM trees WHERE id IN (
        WITH RECURSIVE above (id) AS (
            SELECT id FROM trees WHERE snapshot = OLD.id
            UNION SELECT trees.id FROM above JOIN trees ON trees.parent = above.id
        )
        SELECT id FROM above
    );
END;
