#!/usr/bin/env python3
"""Makes rows for `respondo train rerank` from replies whose sentences name their evidence.

    scripts/rerank/gold.py ../shared/data/reply-gold/rows.jsonl.gz > rows.jsonl

One of the five folds is left out: replies are measured on it.
"""

import gzip
import json
import sys

KEPT_ASIDE = 4


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


def main():
    with gzip.open(sys.argv[1], "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    for row in rows:
        if row["fold"] == KEPT_ASIDE:
            continue
        ids = {item["e"]: item["id"] for item in row["evidence"]}
        reply = [{"text": one["t"], "evidence": [ids[name] for name in one["e"] if name in ids]} for one in row["sentences"]]
        print(json.dumps({
            "memory": "reply-gold, as given",
            "subject": row["subject"], "body": row["body"], "language": row["lang"],
            "evidence": [retrieved(item, row["lang"]) for item in row["evidence"]],
            "serves": sorted({name for one in reply for name in one["evidence"]}),
            "reply": reply,
        }, ensure_ascii=False))


if __name__ == "__main__":
    main()
