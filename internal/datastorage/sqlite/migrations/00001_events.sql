-- +goose Up
CREATE TABLE audit_log_head (
    id   INTEGER PRIMARY KEY CHECK (id = 1),
    size INTEGER NOT NULL,
    checkpoint TEXT NOT NULL,
    verifier TEXT NOT NULL
);
INSERT INTO audit_log_head (id, size, checkpoint, verifier) VALUES (1, 0, '', '');

-- Full tiles of the Merkle tree over leaf_hash: 256 hashes of 32 bytes each.
CREATE TABLE audit_tiles (
    level INTEGER NOT NULL,
    tile_index INTEGER NOT NULL,
    hashes BLOB NOT NULL,
    PRIMARY KEY (level, tile_index)
);

-- One checkpoint a second while events come in, and one every ten minutes while not.
CREATE TABLE audit_checkpoints (
    id INTEGER PRIMARY KEY,
    size INTEGER NOT NULL,
    checkpoint TEXT NOT NULL
);

-- What is never changed and never removed. Times are microseconds since 1970 in UTC.
CREATE TABLE audit_events (
    log_index       INTEGER PRIMARY KEY,
    event_id        TEXT NOT NULL UNIQUE,
    event_timestamp INTEGER NOT NULL,
    event_type      TEXT NOT NULL,
    event_category  TEXT NOT NULL,
    event_outcome   TEXT NOT NULL,
    correlation_id  TEXT NOT NULL,
    severity        TEXT,
    resource_id     TEXT,
    namespace       TEXT,
    recorded_at     INTEGER NOT NULL,
    leaf_hash       BLOB NOT NULL
);
-- Each index costs an insert as much as a tenth of all else, so none has what most
-- events have. What has no index is looked for along the time. What failed in a
-- namespace is known from an index before any event is read.
CREATE INDEX audit_events_time ON audit_events (event_timestamp, log_index);
CREATE INDEX audit_events_correlation ON audit_events (correlation_id, event_timestamp, log_index);
CREATE INDEX audit_events_resource ON audit_events (resource_id, event_timestamp, log_index) WHERE resource_id IS NOT NULL;
CREATE INDEX audit_events_type ON audit_events (event_type, event_timestamp, log_index, namespace) WHERE event_type <> 'notification.message.sent';
CREATE INDEX audit_events_outcome ON audit_events (event_outcome, event_timestamp, log_index, namespace) WHERE event_outcome <> 'success';
CREATE INDEX audit_events_namespace ON audit_events (namespace, event_timestamp, log_index) WHERE namespace IS NOT NULL;
CREATE INDEX audit_events_category ON audit_events (event_category, event_timestamp, log_index) WHERE event_category <> 'notification';

-- What expires: event is the canonical JSON that leaf_hash was made of. expires_at
-- is NULL where the event does not say, and the largest number where it never does.
CREATE TABLE audit_bodies (
    log_index   INTEGER PRIMARY KEY,
    recorded_at INTEGER NOT NULL,
    expires_at  INTEGER,
    event       TEXT NOT NULL
);
CREATE INDEX audit_bodies_recorded ON audit_bodies (recorded_at);
CREATE INDEX audit_bodies_expiry ON audit_bodies (expires_at) WHERE expires_at IS NOT NULL;

-- Events of these correlation IDs do not expire.
CREATE TABLE audit_holds (
    correlation_id TEXT PRIMARY KEY,
    reason         TEXT NOT NULL,
    placed_by      TEXT NOT NULL,
    placed_at      INTEGER NOT NULL
);

-- Events that were refused because their ID is taken by other content.
CREATE TABLE audit_conflicts (
    event_id    TEXT NOT NULL,
    leaf_hash   BLOB NOT NULL,
    received_at INTEGER NOT NULL,
    event       TEXT NOT NULL,
    PRIMARY KEY (event_id, leaf_hash)
);

CREATE TABLE write_probe (
    id        INTEGER PRIMARY KEY CHECK (id = 1),
    probed_at INTEGER NOT NULL
);
INSERT INTO write_probe (id, probed_at) VALUES (1, 0);
