-- Keys of programs that use the API. A key is kept as its SHA-256 only: it is 32 random bytes, so nobody can try keys out, and a
-- slow hash as for passwords would protect nothing and cost every request. Rows stay for ever: the audit trail names them.
CREATE TABLE api_keys (
    id                  TEXT PRIMARY KEY,
    name                TEXT NOT NULL,
    key_sha256          TEXT NOT NULL UNIQUE,
    scopes              TEXT NOT NULL,   -- names with spaces between them
    customer            TEXT,            -- the only one whose tickets it opens and reads
    requests_per_minute BIGINT,          -- 0: no limit; NULL: the limit in the settings
    created_at          BIGINT NOT NULL,
    created_by          TEXT NOT NULL,
    expires_at          BIGINT,
    revoked_at          BIGINT,
    last_used_at        BIGINT,          -- to the minute
    replaced_by         TEXT REFERENCES api_keys (id)
);
CREATE INDEX api_keys_by_name ON api_keys (name);
