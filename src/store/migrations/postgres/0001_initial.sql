-- The tables of the SQLite store (../sqlite, which has the comments) for PostgreSQL. Times are integer milliseconds since
-- 1970-01-01T00:00:00Z, ids of ours are UUIDs (version 7) as text, JSON is text. Text is compared by bytes ("C"), as
-- SQLite does: ids and cursors are ordered the same everywhere.

-- Locked by every write transaction: one writes at a time.
CREATE TABLE write_lock (locked BIGINT);

CREATE TABLE customers (
    id         TEXT COLLATE "C" PRIMARY KEY,
    created_at BIGINT NOT NULL
);

CREATE TABLE agents (
    id         TEXT COLLATE "C" PRIMARY KEY,
    login      TEXT COLLATE "C" NOT NULL,
    name       TEXT COLLATE "C" NOT NULL,
    role       TEXT COLLATE "C" NOT NULL,
    password   TEXT COLLATE "C" NOT NULL,
    active     BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX agents_by_login ON agents (lower(login));

CREATE TABLE sessions (
    token_sha256 TEXT COLLATE "C" PRIMARY KEY,
    agent_id     TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
    csrf         TEXT COLLATE "C" NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL
);

CREATE TABLE secrets (
    name  TEXT COLLATE "C" PRIMARY KEY,
    value TEXT COLLATE "C" NOT NULL
);

CREATE TABLE tickets (
    id            TEXT COLLATE "C" PRIMARY KEY,
    customer      TEXT COLLATE "C" REFERENCES customers (id),
    channel       TEXT COLLATE "C" NOT NULL,
    subject       TEXT COLLATE "C" NOT NULL,
    language      TEXT COLLATE "C" NOT NULL,
    product       TEXT COLLATE "C",
    queue         TEXT COLLATE "C",
    state         TEXT COLLATE "C" NOT NULL,
    urgency       BIGINT CHECK (urgency BETWEEN 1 AND 4),
    difficulty    BIGINT CHECK (difficulty BETWEEN 1 AND 4),
    created_at    BIGINT NOT NULL,
    updated_at    BIGINT NOT NULL,
    due_at        BIGINT,
    assignee      TEXT COLLATE "C" REFERENCES agents (id),
    taken_over    BIGINT NOT NULL DEFAULT 0,
    snoozed_until BIGINT,
    skill         TEXT COLLATE "C",
    merged_into   TEXT COLLATE "C" REFERENCES tickets (id) DEFERRABLE INITIALLY IMMEDIATE,
    worker        TEXT COLLATE "C",
    worked_until  BIGINT
);
CREATE INDEX tickets_by_state ON tickets (state, created_at);
CREATE INDEX tickets_by_customer ON tickets (customer);
CREATE INDEX tickets_by_assignee ON tickets (assignee) WHERE assignee IS NOT NULL;

CREATE TABLE messages (
    id         TEXT COLLATE "C" PRIMARY KEY,
    ticket_id  TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,
    author     TEXT COLLATE "C" NOT NULL,
    body       TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    agent      TEXT COLLATE "C",
    -- Merging turns the places of a conversation round in one statement.
    UNIQUE (ticket_id, position) DEFERRABLE INITIALLY IMMEDIATE
);

CREATE TABLE triages (
    ticket_id  TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,
    triage     TEXT COLLATE "C" NOT NULL,
    evidence   TEXT COLLATE "C" NOT NULL,
    timings    TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (ticket_id, position)
);

CREATE TABLE drafts (
    id         TEXT COLLATE "C" PRIMARY KEY,
    ticket_id  TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,
    status     TEXT COLLATE "C" NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    language   TEXT COLLATE "C" NOT NULL,
    text       TEXT COLLATE "C" NOT NULL,
    sentences  TEXT COLLATE "C" NOT NULL,
    evidence   TEXT COLLATE "C" NOT NULL,
    findings   TEXT COLLATE "C" NOT NULL,
    model      TEXT COLLATE "C",
    created_at BIGINT NOT NULL,
    UNIQUE (ticket_id, position)
);

CREATE TABLE decisions (
    id         TEXT COLLATE "C" PRIMARY KEY,
    ticket_id  TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    position   BIGINT NOT NULL,
    draft_id   TEXT COLLATE "C" REFERENCES drafts (id),
    action     TEXT COLLATE "C" NOT NULL,
    decision   TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    UNIQUE (ticket_id, position)
);

CREATE TABLE outcomes (
    draft_id   TEXT COLLATE "C" PRIMARY KEY REFERENCES drafts (id),
    ticket_id  TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    outcome    TEXT COLLATE "C" NOT NULL,
    final_text TEXT COLLATE "C",
    difference TEXT COLLATE "C",
    note       TEXT COLLATE "C",
    agent      TEXT COLLATE "C",
    skill      TEXT COLLATE "C",
    created_at BIGINT NOT NULL
);
CREATE INDEX outcomes_by_ticket ON outcomes (ticket_id);

CREATE TABLE outbox (
    id              TEXT COLLATE "C" PRIMARY KEY,
    ticket_id       TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    message_id      TEXT COLLATE "C" NOT NULL UNIQUE REFERENCES messages (id),
    idempotency_key TEXT COLLATE "C" NOT NULL UNIQUE,
    status          TEXT COLLATE "C" NOT NULL,
    attempts        BIGINT NOT NULL DEFAULT 0,
    not_before      BIGINT NOT NULL,
    last_error      TEXT COLLATE "C",
    created_at      BIGINT NOT NULL,
    sent_at         BIGINT
);
CREATE INDEX outbox_pending ON outbox (not_before) WHERE status = 'pending';

CREATE TABLE events (
    ticket_id  TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    seq        BIGINT NOT NULL,
    kind       TEXT COLLATE "C" NOT NULL,
    data       TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (ticket_id, seq)
);

CREATE TABLE idempotency_keys (
    scope       TEXT COLLATE "C" NOT NULL,
    key         TEXT COLLATE "C" NOT NULL,
    body_sha256 TEXT COLLATE "C" NOT NULL,
    ticket_id   TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    message_id  TEXT COLLATE "C" NOT NULL REFERENCES messages (id),
    created_at  BIGINT NOT NULL,
    PRIMARY KEY (scope, key)
);

CREATE TABLE audit (
    id         BIGINT PRIMARY KEY,
    created_at BIGINT NOT NULL,
    actor      TEXT COLLATE "C" NOT NULL,
    action     TEXT COLLATE "C" NOT NULL,
    ticket_id  TEXT COLLATE "C",
    subject    TEXT COLLATE "C",
    detail     TEXT COLLATE "C" NOT NULL,
    hash       TEXT COLLATE "C"
);
CREATE INDEX audit_by_ticket ON audit (ticket_id);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail cannot be changed or deleted';
END $$;
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE memory_items (
    seq              BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    id               TEXT COLLATE "C" NOT NULL UNIQUE,
    kind             TEXT COLLATE "C" NOT NULL,
    language         TEXT COLLATE "C" NOT NULL,
    product          TEXT COLLATE "C",
    queue            TEXT COLLATE "C",
    title            TEXT COLLATE "C" NOT NULL,
    problem          TEXT COLLATE "C" NOT NULL,
    solution         TEXT COLLATE "C" NOT NULL,
    answer_kind      TEXT COLLATE "C",
    url              TEXT COLLATE "C",
    resolved_hours   DOUBLE PRECISION,
    created_at       BIGINT,
    content_hash     TEXT COLLATE "C" NOT NULL,
    indexed          BIGINT NOT NULL DEFAULT 0,
    index_generation TEXT COLLATE "C",
    stored_at        BIGINT NOT NULL
);
CREATE INDEX memory_unindexed ON memory_items (seq) WHERE indexed = 0;
CREATE INDEX memory_hours ON memory_items (resolved_hours) WHERE resolved_hours IS NOT NULL;

CREATE TABLE embeddings (
    content_key TEXT COLLATE "C" PRIMARY KEY,
    memory_id   TEXT COLLATE "C",
    dimensions  BIGINT NOT NULL,
    vector      BYTEA NOT NULL
);
CREATE INDEX embeddings_by_item ON embeddings (memory_id);

CREATE TABLE ticket_vectors (
    ticket_id  TEXT COLLATE "C" PRIMARY KEY REFERENCES tickets (id),
    model      TEXT COLLATE "C" NOT NULL,
    vector     BYTEA NOT NULL,
    updated_at BIGINT NOT NULL
);

CREATE TABLE attachments (
    id         TEXT COLLATE "C" PRIMARY KEY,
    message_id TEXT COLLATE "C" NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    name       TEXT COLLATE "C" NOT NULL,
    media_type TEXT COLLATE "C" NOT NULL,
    size       BIGINT NOT NULL,
    sha256     TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL,
    content    BYTEA NOT NULL
);
CREATE INDEX attachments_by_message ON attachments (message_id);

CREATE TABLE corrections (
    id         BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    ticket_id  TEXT COLLATE "C" NOT NULL REFERENCES tickets (id),
    judgement  TEXT COLLATE "C" NOT NULL,
    was        BIGINT,
    became     BIGINT NOT NULL,
    corrector  TEXT COLLATE "C" NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX corrections_by_ticket ON corrections (ticket_id);

CREATE TABLE saved_views (
    agent_id TEXT COLLATE "C" NOT NULL REFERENCES agents (id),
    name     TEXT COLLATE "C" NOT NULL,
    query    TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (agent_id, name)
);

-- Words of subjects and messages, without accents and capitals, for the desk's search. Punctuation parts words, as in the
-- search itself, so that no parser of addresses comes between; what a search vector cannot hold is cut off.
CREATE FUNCTION plain_words(words TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$
    SELECT regexp_replace(
        regexp_replace(lower(normalize(left(words, 100000), NFD) COLLATE "default"), '[\u0300-\u036f]', '', 'g'),
        '[\u0001-\u002f\u003a-\u0040\u005b-\u0060\u007b-\u00bf]+', ' ', 'g')
$$;

-- One word, as the beginning of those that are kept.
CREATE FUNCTION beginning_of_word(word TEXT) RETURNS TSQUERY LANGUAGE sql IMMUTABLE AS $$
    SELECT to_tsquery('simple', '''' || plain_words(word) || ''':*')
$$;

CREATE TABLE ticket_words (
    ticket_id TEXT COLLATE "C" NOT NULL,
    words     TSVECTOR NOT NULL
);
CREATE INDEX ticket_words_by_word ON ticket_words USING gin (words);
CREATE INDEX ticket_words_by_ticket ON ticket_words (ticket_id);

CREATE FUNCTION keep_words_of_subject() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ticket_words (ticket_id, words) VALUES (NEW.id, to_tsvector('simple', plain_words(NEW.subject)));
    RETURN NULL;
END $$;
CREATE TRIGGER ticket_words_of_subjects AFTER INSERT ON tickets
    FOR EACH ROW WHEN (NEW.subject <> '') EXECUTE FUNCTION keep_words_of_subject();

CREATE FUNCTION keep_words_of_message() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO ticket_words (ticket_id, words) VALUES (NEW.ticket_id, to_tsvector('simple', plain_words(NEW.body)));
    RETURN NULL;
END $$;
CREATE TRIGGER ticket_words_of_messages AFTER INSERT ON messages
    FOR EACH ROW EXECUTE FUNCTION keep_words_of_message();
