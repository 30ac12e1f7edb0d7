-- Files that customers sent with their messages; in the database, so that one copy of it holds everything. The ticket is
-- the message's: merging moves messages.

CREATE TABLE attachments (
    id         TEXT PRIMARY KEY,
    message_id TEXT NOT NULL REFERENCES messages (id) ON DELETE CASCADE,
    name       TEXT NOT NULL,                  -- for people to read; never a path
    media_type TEXT NOT NULL,                  -- as the content says, not as the sender does
    size       BIGINT NOT NULL,                -- bytes
    sha256     TEXT NOT NULL,                  -- of the content
    created_at BIGINT NOT NULL,
    content    BLOB NOT NULL                   -- last: the other columns are read without it
);
CREATE INDEX attachments_by_message ON attachments (message_id);
