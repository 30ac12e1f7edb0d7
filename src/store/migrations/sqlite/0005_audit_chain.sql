-- Each line of the audit trail holds a hash over itself and the hash of the line before it (see src/store/audit.rs). Older
-- lines cannot be changed and stay without one; the first line that has one is over all of them.
ALTER TABLE audit ADD COLUMN hash TEXT;        -- SHA-256, hexadecimal
