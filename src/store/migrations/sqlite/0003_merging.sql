-- The ticket that has the conversation of a duplicate since an agent merged the two.
ALTER TABLE tickets ADD COLUMN merged_into TEXT REFERENCES tickets (id);

-- What the customer asks, as a vector: for the desk's search by meaning.
CREATE TABLE ticket_vectors (
    ticket_id  TEXT PRIMARY KEY REFERENCES tickets (id),
    model      TEXT NOT NULL,                  -- of the embedder; vectors of two models cannot be compared
    vector     BLOB NOT NULL,                  -- 16-bit floats of a unit vector
    updated_at BIGINT NOT NULL
);
