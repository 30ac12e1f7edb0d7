#!/usr/bin/env python3
"""Makes rows for `respondo train rerank`: replies whose sentences name their evidence, and a part of the rows for `train relevance`.

    scripts/rerank/rows.py ../shared/data target/relevance > rows.jsonl

One of the five folds of the replies is left out of both: replies are measured on it.
"""

import gzip
import json
import pathlib
import random
import sys

KEPT_ASIDE = 4
SEED = 7
# Of the requests of one memory, answered or not; each takes two to three seconds to read.
MOST = 80
# Whether replies use an item is measured on these requests: only the fit learns from them.
MEASURED = "samples"


def retrieved(item, language):
    is_ticket = item["kind"] == "solved ticket"
    text = item["solution"] if is_ticket else item["text"]
    held = {
        "id": item["id"],
        "kind": "ticket" if is_ticket else "article",
        "language": language if is_ticket else "en",
        "title": "" if is_ticket else item["title"],
        "problem": item["problem"] if is_ticket else "",
        "solution": text,
        "product": None, "queue": None, "answer_kind": "accepted" if is_ticket else None,
        "url": None, "resolved_hours": None, "created_at": None,
    }
    return {"item": held, "passage": text, "score": 0.0, "similarity": 0.0, "lexical": 0.0}


def quoting(row):
    """A reply and the evidence that its writer had."""
    ids = {item["e"]: item["id"] for item in row["evidence"]}
    reply = [{"text": one["t"], "evidence": [ids[name] for name in one["e"] if name in ids]} for one in row["sentences"]]
    return {
        "memory": "reply-gold, as given",
        "subject": row["subject"], "body": row["body"], "language": row["lang"],
        "evidence": [retrieved(item, row["lang"]) for item in row["evidence"]],
        "serves": sorted({name for one in reply for name in one["evidence"]}),
        "reply": reply,
    }


def found(folder, unread, dice):
    """Part of what `scripts/relevance/collect` found, as much of what answers as of what does not."""
    for path in sorted(folder.glob("*/rows.jsonl")):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        rows = [row for row in rows if row["body"] not in unread]
        for fits in (True, False):
            of_kind = [row for row in rows if row["fits"] == fits]
            for row in dice.sample(of_kind, min(MOST, len(of_kind))):
                if row["memory"] == MEASURED:
                    row.pop("serves", None)
                yield row


def main():
    data, folder = map(pathlib.Path, sys.argv[1:3])
    with gzip.open(data / "reply-gold/rows.jsonl.gz", "rt", encoding="utf-8") as file:
        gold = [json.loads(line) for line in file]
    kept_aside = {row["body"] for row in gold if row["fold"] == KEPT_ASIDE}
    rows = [quoting(row) for row in gold if row["fold"] != KEPT_ASIDE]
    rows += found(folder, kept_aside, random.Random(SEED))
    for row in rows:
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
