-- Which process works on a ticket, and until when it alone may: for stores that several share.
ALTER TABLE tickets ADD COLUMN worker TEXT;
ALTER TABLE tickets ADD COLUMN worked_until BIGINT;
