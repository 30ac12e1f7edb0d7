-- The agents' desk: who works here, who has which ticket, and what people corrected.

CREATE TABLE agents (
    id         TEXT PRIMARY KEY,
    login      TEXT NOT NULL UNIQUE COLLATE NOCASE,
    name       TEXT NOT NULL,                  -- as customers and colleagues see it
    role       TEXT NOT NULL,                  -- agent, lead, admin
    password   TEXT NOT NULL,                  -- PHC string (argon2id)
    active     BIGINT NOT NULL DEFAULT 1,
    created_at BIGINT NOT NULL
);

CREATE TABLE sessions (
    token_sha256 TEXT PRIMARY KEY,             -- of the cookie; who reads the database cannot sign in with it
    agent_id     TEXT NOT NULL REFERENCES agents (id),
    csrf         TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL
);

-- Keys that this installation made for itself, such as the one that signs the customers' links.
CREATE TABLE secrets (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL                        -- hexadecimal
);

ALTER TABLE tickets ADD COLUMN assignee TEXT REFERENCES agents (id);
-- 1 while a person has the conversation: nothing is drafted or sent by itself then.
ALTER TABLE tickets ADD COLUMN taken_over BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tickets ADD COLUMN snoozed_until BIGINT;
-- The skill it was escalated to.
ALTER TABLE tickets ADD COLUMN skill TEXT;
CREATE INDEX tickets_by_assignee ON tickets (assignee) WHERE assignee IS NOT NULL;

-- Name of the person who wrote it, for agents' messages and notes.
ALTER TABLE messages ADD COLUMN agent TEXT;

-- A judgement that a person set right: training data.
CREATE TABLE corrections (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    ticket_id  TEXT NOT NULL REFERENCES tickets (id),
    judgement  TEXT NOT NULL,                  -- urgency, difficulty
    was        BIGINT,
    became     BIGINT NOT NULL,
    corrector  TEXT NOT NULL,                  -- the agent's name, or customer
    created_at BIGINT NOT NULL
);
CREATE INDEX corrections_by_ticket ON corrections (ticket_id);

CREATE TABLE saved_views (
    agent_id TEXT NOT NULL REFERENCES agents (id),
    name     TEXT NOT NULL,
    query    TEXT NOT NULL,                    -- as in the queue's address
    PRIMARY KEY (agent_id, name)
);

-- Words of subjects and messages, without accents, for the desk's search.
CREATE VIRTUAL TABLE ticket_words USING fts5 (ticket_id UNINDEXED, words, tokenize = 'unicode61 remove_diacritics 2');
INSERT INTO ticket_words (ticket_id, words) SELECT id, subject FROM tickets WHERE subject <> '';
INSERT INTO ticket_words (ticket_id, words) SELECT ticket_id, body FROM messages;

CREATE TRIGGER ticket_words_of_subjects AFTER INSERT ON tickets WHEN NEW.subject <> ''
BEGIN INSERT INTO ticket_words (ticket_id, words) VALUES (NEW.id, NEW.subject); END;

CREATE TRIGGER ticket_words_of_messages AFTER INSERT ON messages
BEGIN INSERT INTO ticket_words (ticket_id, words) VALUES (NEW.ticket_id, NEW.body); END;
