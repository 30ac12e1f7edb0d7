-- Keys of programs that use the API; ../sqlite/0007_api_keys.sql has the comments.
CREATE TABLE api_keys (
    id                  TEXT COLLATE "C" PRIMARY KEY,
    name                TEXT COLLATE "C" NOT NULL,
    key_sha256          TEXT COLLATE "C" NOT NULL UNIQUE,
    scopes              TEXT COLLATE "C" NOT NULL,
    customer            TEXT COLLATE "C",
    requests_per_minute BIGINT,
    created_at          BIGINT NOT NULL,
    created_by          TEXT COLLATE "C" NOT NULL,
    expires_at          BIGINT,
    revoked_at          BIGINT,
    last_used_at        BIGINT,
    replaced_by         TEXT COLLATE "C" REFERENCES api_keys (id) DEFERRABLE INITIALLY IMMEDIATE
);
CREATE INDEX api_keys_by_name ON api_keys (name);
