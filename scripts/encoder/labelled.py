#!/usr/bin/env python3
"""Brings the labels of labels.tsv together with the requests that they are of, for reader.py.

    scripts/encoder/labelled.py ../shared/data > labelled.jsonl.gz
    scripts/encoder/labelled.py ../shared/data check > check.jsonl.gz

labels.tsv: whether a row is learnt from (learn) or kept for a check of what was learnt (check), the id of a request, its urgency and difficulty (1 to 4, 0 where it is no request), and where in the text (subject, a line
end, body) the words stand that decided the urgency: characters from `begin` to `end`, both 0 where there are none.
"""

import csv
import gzip
import json
import os
import sys

SOURCES = ("sumo-thunderbird/tickets.jsonl.gz", "sumo-firefox/questions.jsonl.gz", "sumo-firefox/tickets_with_answers.jsonl.gz")


def main():
    fold = sys.argv[2] if len(sys.argv) > 2 else "learn"
    with open(os.path.join(os.path.dirname(__file__), "labels.tsv"), encoding="utf-8") as file:
        labels = {row["id"]: row for row in csv.DictReader(file, delimiter="\t") if row["fold"] == fold}
    out = gzip.GzipFile(fileobj=sys.stdout.buffer, mode="wb", mtime=0)
    found = 0
    for source in SOURCES:
        with gzip.open(os.path.join(sys.argv[1], source), "rt", encoding="utf-8") as file:
            for line in file:
                request = json.loads(line)
                label = labels.pop(request["id"], None)
                if label is None:
                    continue
                text = request["subject"] + "\n" + request["body"]
                row = {key: request[key] for key in ("id", "lang", "subject", "body")}
                row |= {key: int(label[key]) for key in ("urgency", "difficulty")}
                row["evidence"] = text[int(label["begin"]) : int(label["end"])]
                out.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
                found += 1
    out.close()
    print(f"{found} requests, {len(labels)} labels of requests that are not there", file=sys.stderr)


if __name__ == "__main__":
    main()
