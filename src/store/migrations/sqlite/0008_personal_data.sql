-- What is left of conversations that were removed: counts, so that figures of the past stay right.
CREATE TABLE past_figures (
    day   BIGINT NOT NULL,                     -- days since 1970
    queue TEXT NOT NULL,                       -- empty for tickets without one
    what  TEXT NOT NULL,                       -- asked, automatic, or an outcome
    n     BIGINT NOT NULL,
    PRIMARY KEY (day, queue, what)
);

-- Customers that were erased, known again only by who has the id: for a restored backup that holds them still.
CREATE TABLE erasures (
    customer_hash TEXT PRIMARY KEY,            -- SHA-256 of salt and id, hexadecimal
    salt          TEXT NOT NULL,               -- a new one each time, hexadecimal
    erased_at     BIGINT NOT NULL
);

-- Work that one process at a time does for all that share the store.
CREATE TABLE task_leases (
    name       TEXT PRIMARY KEY,
    holder     TEXT NOT NULL,
    held_until BIGINT NOT NULL
);

-- JSON: versions, models and evidence that the decision rests on. None for older ones.
ALTER TABLE decisions ADD COLUMN basis TEXT;

-- Rows are found by their age, and by the ticket or message that goes.
CREATE INDEX events_by_time ON events (created_at);
CREATE INDEX attachments_by_time ON attachments (created_at);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_by_ticket ON idempotency_keys (ticket_id);
CREATE INDEX idempotency_keys_by_message ON idempotency_keys (message_id);
CREATE INDEX outbox_by_ticket ON outbox (ticket_id);
CREATE INDEX decisions_by_draft ON decisions (draft_id);
CREATE INDEX tickets_by_survivor ON tickets (merged_into);

-- Words of deleted rows leave the search's index at once, not when its parts are merged some day.
INSERT INTO ticket_words (ticket_words, rank) VALUES ('secure-delete', 1);
