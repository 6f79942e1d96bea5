-- +goose Up
CREATE TABLE audit_log_head (
    id   integer PRIMARY KEY CHECK (id = 1),
    size bigint NOT NULL,
    checkpoint text NOT NULL,
    verifier text NOT NULL
);
INSERT INTO audit_log_head (id, size, checkpoint, verifier) VALUES (1, 0, '', '');

-- Full tiles of the Merkle tree over leaf_hash: 256 hashes of 32 bytes each.
CREATE TABLE audit_tiles (
    level integer NOT NULL,
    tile_index bigint NOT NULL,
    hashes bytea NOT NULL,
    PRIMARY KEY (level, tile_index)
);

-- One checkpoint a second while events come in, and one every ten minutes while not.
CREATE TABLE audit_checkpoints (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    size bigint NOT NULL,
    checkpoint text NOT NULL
);

-- What is never changed and never removed.
CREATE TABLE audit_events (
    log_index       bigint PRIMARY KEY,
    event_id        uuid NOT NULL UNIQUE,
    event_timestamp timestamptz NOT NULL,
    event_type      text COLLATE "C" NOT NULL,
    event_category  text COLLATE "C" NOT NULL,
    event_outcome   text COLLATE "C" NOT NULL,
    correlation_id  text COLLATE "C" NOT NULL,
    severity        text,
    resource_id     text COLLATE "C",
    namespace       text COLLATE "C",
    recorded_at     timestamptz NOT NULL,
    leaf_hash       bytea NOT NULL
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
-- Of a value that is frequent the planner would believe that it is so at all times,
-- and go back along the time to where it was.
ALTER TABLE audit_events ALTER correlation_id SET STATISTICS 0, ALTER resource_id SET STATISTICS 0, ALTER event_type SET STATISTICS 0,
    ALTER event_outcome SET STATISTICS 0, ALTER namespace SET STATISTICS 0, ALTER event_category SET STATISTICS 0;

-- What expires: event is text, since it is JSON already and leaf_hash was made of its
-- exact bytes. expires_at is NULL where the event does not say, and infinity where
-- it never does. The server makes a partition for each month, and drops what is
-- empty, which gives the space back.
CREATE TABLE audit_bodies (
    recorded_at timestamptz NOT NULL,
    log_index   bigint NOT NULL,
    expires_at  timestamptz,
    event       text NOT NULL,
    PRIMARY KEY (log_index, recorded_at)
) PARTITION BY RANGE (recorded_at);
CREATE INDEX audit_bodies_expiry ON audit_bodies (expires_at) WHERE expires_at IS NOT NULL;

-- Events of these correlation IDs do not expire.
CREATE TABLE audit_holds (
    correlation_id text PRIMARY KEY,
    reason         text NOT NULL,
    placed_by      text NOT NULL,
    placed_at      timestamptz NOT NULL
);

-- Events that were refused because their ID is taken by other content.
CREATE TABLE audit_conflicts (
    event_id    uuid NOT NULL,
    leaf_hash   bytea NOT NULL,
    received_at timestamptz NOT NULL,
    event       text NOT NULL,
    PRIMARY KEY (event_id, leaf_hash)
);

CREATE TABLE write_probe (
    id        integer PRIMARY KEY CHECK (id = 1),
    probed_at timestamptz NOT NULL
);
INSERT INTO write_probe (id, probed_at) VALUES (1, now());
