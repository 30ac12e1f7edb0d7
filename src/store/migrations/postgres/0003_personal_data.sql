-- As ../sqlite/0008_personal_data.sql, which has the comments.
CREATE TABLE past_figures (
    day   BIGINT NOT NULL,
    queue TEXT COLLATE "C" NOT NULL,
    what  TEXT COLLATE "C" NOT NULL,
    n     BIGINT NOT NULL,
    PRIMARY KEY (day, queue, what)
);

CREATE TABLE erasures (
    customer_hash TEXT COLLATE "C" PRIMARY KEY,
    salt          TEXT COLLATE "C" NOT NULL,
    erased_at     BIGINT NOT NULL
);

CREATE TABLE task_leases (
    name       TEXT COLLATE "C" PRIMARY KEY,
    holder     TEXT COLLATE "C" NOT NULL,
    held_until BIGINT NOT NULL
);

ALTER TABLE decisions ADD COLUMN basis TEXT COLLATE "C";

CREATE INDEX events_by_time ON events (created_at);
CREATE INDEX attachments_by_time ON attachments (created_at);
CREATE INDEX idempotency_keys_by_time ON idempotency_keys (created_at);
CREATE INDEX idempotency_keys_by_ticket ON idempotency_keys (ticket_id);
CREATE INDEX idempotency_keys_by_message ON idempotency_keys (message_id);
CREATE INDEX outbox_by_ticket ON outbox (ticket_id);
CREATE INDEX decisions_by_draft ON decisions (draft_id);
CREATE INDEX tickets_by_survivor ON tickets (merged_into);
