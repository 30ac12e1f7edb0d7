#!/usr/bin/env python3
"""Makes the memories and requests that models/relevance.toml was learnt from, out of the public sets and our own samples.

    scripts/relevance/public.py ../shared/data FOLDER

writes FOLDER/NAME/{tickets,articles,requests}.jsonl for four memories. For each: ingest the files into a data folder of its own,
serve it, and let `rows.py` ask (`scripts/relevance/make` does all of it). Requests that stand in a memory are left out of it; half
of stackfaq is removed, so that its questions have no answer; requests to somebody else go to every memory.
"""

import argparse
import gzip
import hashlib
import json
import pathlib
import random

OWN = pathlib.Path(__file__).resolve().parents[2]
SEED = 7


def rows(path):
    opened = gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else open(path, encoding="utf-8")
    with opened as file:
        return [json.loads(line) for line in file if line.strip()]


def held(name):
    """As in scripts/encoder/pairs.py: requests that the encoder has not learnt from."""
    return int(hashlib.sha256(f"encoder:{name}".encode()).hexdigest()[:8], 16) % 5 == 0


def request(row, relevant=None, **more):
    asked = {"subject": row.get("subject", ""), "body": row.get("body") or row.get("subject", "")}
    return {**asked, "relevant": relevant or [], **more}


def elsewhere(data, dice, firefox):
    """Requests that no memory here answers."""
    out = []
    for path, count in (("clinc150-oos/oos_train.jsonl.gz", 80), ("clinc150-oos/oos_val.jsonl.gz", 60)):
        out += dice.sample(rows(data / path), count)
    out += dice.sample(rows(data / "banking77/train.jsonl.gz"), 120)
    out += dice.sample(rows(data / "nlupp/hotels.jsonl.gz"), 60)
    out += dice.sample(rows(data / "askubuntu-webapps-intents/tickets.jsonl.gz"), 60)
    questions = rows(data / "sumo-firefox/questions.jsonl.gz")
    for language, count in (("en", firefox), ("es", firefox)):
        out += dice.sample([row for row in questions if row["lang"] == language and len(row["body"]) > 40], count)
    out += rows(OWN / "eval/data/spam.jsonl")
    return [request(row) for row in out if row.get("body") or row.get("subject")]


def samples():
    own = rows(OWN / "eval/data/requests.jsonl") + rows(OWN / "samples/requests.jsonl")
    asked = [request(row, row["relevant"] if row["expect"] == "answer" else []) for row in own]
    return rows(OWN / "samples/tickets.jsonl"), rows(OWN / "samples/articles.jsonl"), asked


def stackfaq(data):
    corpus = rows(data / "stackfaq/corpus.jsonl.gz")
    kept = [row for at, row in enumerate(corpus) if at % 2 == 0]
    there = {row["_id"] for row in kept}
    relevant = {}
    for line in (data / "stackfaq/qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, doc, _ = line.split("\t")[:3]
        relevant.setdefault(query, []).append(doc)
    articles = [{"id": row["_id"], "lang": "en", "title": row["title"], "text": row["text"]} for row in kept]
    asked = []
    for row in (row for row in rows(data / "stackfaq/queries.jsonl.gz") if held(row["_id"])):
        wanted = [doc for doc in relevant.get(row["_id"], []) if doc in there]
        asked.append(request({"body": row["text"]}, wanted))
    return [], articles, asked


def thunderbird(data, dice):
    threads = rows(data / "sumo-thunderbird/tickets.jsonl.gz")
    gold = {row["id"] for row in rows(data / "reply-gold/rows.jsonl.gz")}
    cited = {}
    for line in (data / "sumo-thunderbird-kb/qrels.tsv").read_text(encoding="utf-8").splitlines()[1:]:
        query, doc, _ = line.split("\t")[:3]
        cited.setdefault(query, []).append(doc)
    by_id = {row["id"]: row for row in threads}
    asking = sorted(query for query in cited if query in by_id and held(query) and query not in gold)
    asking = dice.sample(asking, min(450, len(asking)))
    # Something else than the article that the helper cited may answer it: only where that one was found is it known.
    asked = [request(by_id[query], cited[query], only_if_fits=True) for query in asking]
    known = [row for row in threads if row.get("answer_kind") in ("accepted", "most_helpful") and row["id"] not in asking]
    corpus = rows(data / "sumo-thunderbird-kb/corpus.jsonl.gz")
    articles = [{"id": row["_id"], "lang": "en", "title": row["title"], "text": row["text"]} for row in corpus]
    return [row for row in known if row["id"] not in gold], articles, asked


def gold(data):
    tickets, articles, asked = {}, {}, []
    for row in rows(data / "reply-gold/rows.jsonl.gz"):
        ids = {item["e"]: item["id"] for item in row["evidence"]}
        for item in row["evidence"]:
            if item["kind"] == "solved ticket":
                about = item.get("problem", "")
                tickets[item["id"]] = {"id": item["id"], "lang": row["lang"], "subject": "", "body": about, "answer": item["solution"], "answer_kind": "accepted"}
            else:
                text = item.get("text") or item.get("solution") or ""
                title = item.get("title") or item.get("problem") or item["id"]
                articles[item["id"]] = {"id": item["id"], "lang": "en", "title": title, "text": text}
        answers = row["verdict"] in ("answer", "partly")
        used = {ids[name] for part in row["sentences"] for name in part["e"] if name in ids} if answers else set()
        asked.append(request(row, sorted(used), only_if_fits=bool(used)))
    # A request of the set may be evidence of another one.
    own = {row["id"] for row in rows(data / "reply-gold/rows.jsonl.gz")}
    return [row for name, row in tickets.items() if name not in own], list(articles.values()), asked


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("folder", type=pathlib.Path)
    options = parser.parse_args()
    dice = random.Random(SEED)
    memories = {
        "samples": (samples(), 60),
        "stackfaq": (stackfaq(options.data), 60),
        "thunderbird": (thunderbird(options.data, dice), 0),
        "reply-gold": (gold(options.data), 0),
    }
    for name, ((tickets, articles, asked), firefox) in memories.items():
        folder = options.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        asked += elsewhere(options.data, dice, firefox) if name != "reply-gold" else []
        for file, found in (("tickets", tickets), ("articles", articles), ("requests", asked)):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
            (folder / f"{file}.jsonl").write_text(lines, encoding="utf-8")
        print(name, len(tickets), "tickets,", len(articles), "articles,", len(asked), "requests")


if __name__ == "__main__":
    main()
