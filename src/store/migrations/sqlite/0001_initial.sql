-- Times are integer milliseconds since 1970-01-01T00:00:00Z, ids of ours are UUIDs (version 7) as text, JSON is text.
-- Urgency and difficulty are 1 to 4 as in `ticket.rs`; names of states and kinds are those of the HTTP API.

CREATE TABLE customers (
    id         TEXT PRIMARY KEY,               -- what the channel calls the customer
    created_at BIGINT NOT NULL
);

CREATE TABLE tickets (
    id         TEXT PRIMARY KEY,
    customer   TEXT REFERENCES customers (id),
    channel    TEXT NOT NULL,
    subject    TEXT NOT NULL,
    language   TEXT NOT NULL,
    product    TEXT,
    queue      TEXT,
    state      TEXT NOT NULL,
    urgency    BIGINT CHECK (urgency BETWEEN 1 AND 4),
    difficulty BIGINT CHECK (difficulty BETWEEN 1 AND 4),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    due_at     BIGINT
);
CREATE INDEX tickets_by_state ON tickets (state, created_at);
CREATE INDEX tickets_by_customer ON tickets (customer);

CREATE TABLE messages (
    id         TEXT PRIMARY KEY,
    ticket_id  TEXT NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,                -- 1, 2, 3 ... in its ticket
    author     TEXT NOT NULL,
    body       TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (ticket_id, position)
);

-- One row per piece of work on a ticket; the last is the one that counts.
CREATE TABLE triages (
    ticket_id  TEXT NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,
    triage     TEXT NOT NULL,                  -- JSON
    evidence   TEXT NOT NULL,                  -- JSON
    timings    TEXT NOT NULL,                  -- JSON
    created_at BIGINT NOT NULL,
    PRIMARY KEY (ticket_id, position)
);

CREATE TABLE drafts (
    id         TEXT PRIMARY KEY,
    ticket_id  TEXT NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,
    status     TEXT NOT NULL,                  -- open, sent, resolved, superseded
    kind       TEXT NOT NULL,
    language   TEXT NOT NULL,
    text       TEXT NOT NULL,
    sentences  TEXT NOT NULL,                  -- JSON
    evidence   TEXT NOT NULL,                  -- JSON
    findings   TEXT NOT NULL,                  -- JSON
    model      TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (ticket_id, position)
);

CREATE TABLE decisions (
    id         TEXT PRIMARY KEY,
    ticket_id  TEXT NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,
    draft_id   TEXT REFERENCES drafts (id),
    action     TEXT NOT NULL,
    decision   TEXT NOT NULL,                  -- JSON
    created_at BIGINT NOT NULL,
    UNIQUE (ticket_id, position)
);

-- The primary key is why a draft can be resolved once only.
CREATE TABLE outcomes (
    draft_id   TEXT PRIMARY KEY REFERENCES drafts (id),
    ticket_id  TEXT NOT NULL REFERENCES tickets (id),
    outcome    TEXT NOT NULL,
    final_text TEXT,                           -- what the customer was sent
    difference TEXT,                           -- unified, from the draft to final_text
    note       TEXT,
    agent      TEXT,
    skill      TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX outcomes_by_ticket ON outcomes (ticket_id);

-- Both unique columns are why a reply cannot go out twice: one row per message, one message per occasion.
CREATE TABLE outbox (
    id              TEXT PRIMARY KEY,
    ticket_id       TEXT NOT NULL REFERENCES tickets (id),
    message_id      TEXT NOT NULL UNIQUE REFERENCES messages (id),
    idempotency_key TEXT NOT NULL UNIQUE,
    status          TEXT NOT NULL,             -- pending, sent
    attempts        BIGINT NOT NULL DEFAULT 0,
    not_before      BIGINT NOT NULL,           -- end of the lease or of the pause after a failure
    last_error      TEXT,
    created_at      BIGINT NOT NULL,
    sent_at         BIGINT
);
CREATE INDEX outbox_pending ON outbox (not_before) WHERE status = 'pending';

CREATE TABLE events (
    ticket_id  TEXT NOT NULL REFERENCES tickets (id),
    seq        BIGINT NOT NULL,                -- 1, 2, 3 ... in its ticket
    kind       TEXT NOT NULL,
    data       TEXT NOT NULL,                  -- JSON
    created_at BIGINT NOT NULL,
    PRIMARY KEY (ticket_id, seq)
);

CREATE TABLE idempotency_keys (
    scope       TEXT NOT NULL,                 -- the customer, or the ticket that a message is added to
    key         TEXT NOT NULL,
    body_sha256 TEXT NOT NULL,
    ticket_id   TEXT NOT NULL REFERENCES tickets (id),
    message_id  TEXT NOT NULL REFERENCES messages (id),
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);

-- Who did what, without the texts. Grows only: see the triggers.
CREATE TABLE audit (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    created_at BIGINT NOT NULL,
    actor      TEXT NOT NULL,                  -- customer, respondo, system or the agent's name
    action     TEXT NOT NULL,
    ticket_id  TEXT,                           -- no reference: the trail outlives what it speaks of
    subject    TEXT,                           -- id of the message, draft or memory item
    detail     TEXT NOT NULL                   -- JSON
);
CREATE INDEX audit_by_ticket ON audit (ticket_id);

CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail cannot be changed'); END;

CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit trail cannot be deleted'); END;

CREATE TABLE memory_items (
    seq              INTEGER PRIMARY KEY AUTOINCREMENT,
    id               TEXT NOT NULL UNIQUE,
    kind             TEXT NOT NULL,
    language         TEXT NOT NULL,
    product          TEXT,
    queue            TEXT,
    title            TEXT NOT NULL,
    problem          TEXT NOT NULL,
    solution         TEXT NOT NULL,
    answer_kind      TEXT,
    url              TEXT,
    resolved_hours   REAL,
    created_at       BIGINT,
    content_hash     TEXT NOT NULL,
    indexed          BIGINT NOT NULL DEFAULT 0, -- 1 when the vector index holds it as it is here
    index_generation TEXT,                     -- which index that was
    stored_at        BIGINT NOT NULL
);
CREATE INDEX memory_unindexed ON memory_items (seq) WHERE indexed = 0;
CREATE INDEX memory_hours ON memory_items (resolved_hours) WHERE resolved_hours IS NOT NULL;

-- A cache: any row may be deleted at any time. `memory_id` says whose text it was, so that it can be forgotten.
CREATE TABLE embeddings (
    content_key TEXT PRIMARY KEY,              -- sha256 of model, role and text
    memory_id   TEXT,
    dimensions  BIGINT NOT NULL,
    vector      BLOB NOT NULL                  -- little-endian binary16
);
CREATE INDEX embeddings_by_item ON embeddings (memory_id);
