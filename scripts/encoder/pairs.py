#!/usr/bin/env python3
"""Makes pairs for `train.py` from the public sets: a request, and the texts of what answers it.

    scripts/encoder/pairs.py ../shared/data > pairs.jsonl

Each line: `set` (pairs of one set share a batch), `id` and `query` of the request, `doc` and `texts` of what answers it (any of
the texts may stand for it), and `held`: true for a fifth of the requests, chosen by a hash of the id, which no pair of the
training part comes from. A team makes the same of its own tickets: request and the article or solution that closed it.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import re

HELD = 5
# Shorter replies say "thanks" or "see above".
LEAST_REPLY = 120
PASSAGE_WORDS = 150


def rows(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def relevant(path):
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    return [line.split("\t")[:3] for line in lines if line]


def held(request):
    return int(hashlib.sha256(f"encoder:{request}".encode()).hexdigest()[:8], 16) % HELD == 0


def joined(title, text):
    title, text = title.strip(), text.strip()
    return text if not title or text.startswith(title) else f"{title}\n{text}".strip()


def passages(text):
    """About as `src/retrieve/passages.rs` cuts an article."""
    found, words = [], []
    for block in re.split(r"\n\s*\n", text):
        block = block.split()
        if words and len(words) + len(block) > PASSAGE_WORDS:
            found.append(" ".join(words))
            words = []
        words += block[: 2 * PASSAGE_WORDS]
    return found + [" ".join(words)] if words else found


class Pairs:
    def __init__(self, unseen):
        self.unseen = unseen

    def put(self, name, request, query, doc, texts):
        texts = [text for text in texts if text.strip()]
        if not query.strip() or not texts:
            return
        is_held = held(request)
        if request in self.unseen and not is_held:
            return
        row = {"set": name, "id": request, "query": query, "doc": doc, "texts": texts, "held": is_held}
        print(json.dumps(row, ensure_ascii=False))


def beir(pairs, name, folder, texts):
    corpus = {row["_id"]: texts(row) for row in rows(folder / "corpus.jsonl.gz")}
    queries = {row["_id"]: row["text"] for row in rows(folder / "queries.jsonl.gz")}
    for query, doc, score in relevant(folder / "qrels.tsv"):
        if int(score) > 0 and query in queries and doc in corpus:
            pairs.put(name, query, queries[query], doc, corpus[doc])


def article(row):
    return [joined(row["title"], passage) for passage in passages(row["text"])]


def threads(pairs, name, path, kinds):
    for row in rows(path):
        reply = row.get("answer") or ""
        if row.get("answer_kind") in kinds and len(reply) >= LEAST_REPLY:
            pairs.put(name, row["id"], joined(row["subject"], row["body"]), row["id"], [reply])


def titles(pairs, path):
    for row in rows(path):
        for language, slug in row["localized"].items():
            if language in ("es", "it", "nl", "cs", "pt-BR", "pt-PT", "fr", "de"):
                pairs.put("titles", f"{row['kb']}/{language}", slug, row["kb"], [row["title_en"]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    data = parser.parse_args().data
    # What replies and judgements are measured on: never learnt from.
    unseen = {row["id"] for row in rows(data / "reply-gold/rows.jsonl.gz")}
    unseen |= {row["id"] for row in rows(data / "triage-labels/dev.jsonl.gz")}
    pairs = Pairs(unseen)
    beir(pairs, "kb", data / "sumo-thunderbird-kb", article)
    beir(pairs, "similar", data / "sumo-thunderbird-similar", lambda row: [joined(row["title"], row["text"])])
    beir(pairs, "stackfaq", data / "stackfaq", lambda row: [row["title"], joined(row["title"], row["text"])])
    for project in ("hadoop", "seamonkey"):
        folder = data / f"gitbugs/{project}-dup"
        beir(pairs, project, folder, lambda row: [joined(row["title"], row["text"])])
    threads(pairs, "thunderbird", data / "sumo-thunderbird/tickets.jsonl.gz", ("accepted", "most_helpful"))
    threads(pairs, "thunderbird-first", data / "sumo-thunderbird/tickets.jsonl.gz", ("first_helper",))
    threads(pairs, "firefox", data / "sumo-firefox/tickets_with_answers.jsonl.gz", ("accepted", "most_helpful", "first_helper"))
    titles(pairs, data / "sumo-thunderbird-kb/localized_slugs.jsonl.gz")


if __name__ == "__main__":
    main()
