#!/usr/bin/env python3
"""Writes expected.json: what pytrec_eval says of run.trec and qrels.tsv, both invented, beside this script.

    pip install pytrec-eval-terrier==0.5.11
    python3 make_expected.py

A unit test holds src/eval/ranking.rs to these figures. The example has graded and tied results, scores that differ only beyond
single precision, queries with nothing relevant, with relevant items that were not found and with results that nobody
judged. Queries that only one of the two files has are left out by pytrec_eval.
"""

import csv
import json
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path

import pytrec_eval

HERE = Path(__file__).parent
# Name in src/eval/figures.rs: name in trec_eval.
MEASURES = {
    "ndcg@10": "ndcg_cut_10",
    "mrr": "recip_rank",
    "map": "map",
    "recall@1": "recall_1",
    "recall@5": "recall_5",
    "recall@20": "recall_20",
}


def qrels():
    grades = defaultdict(dict)
    with open(HERE / "qrels.tsv", encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            grades[row["query-id"]][row["corpus-id"]] = int(row["score"])
    return dict(grades)


def run():
    scores = defaultdict(dict)
    for line in (HERE / "run.trec").read_text(encoding="utf-8").splitlines():
        query, _, document, _, score, _ = line.split()
        scores[query][document] = float(score)
    return dict(scores)


def main():
    evaluator = pytrec_eval.RelevanceEvaluator(qrels(), {"ndcg_cut.10", "recip_rank", "map", "recall.1,5,20"})
    raw = evaluator.evaluate(run())
    queries = {query: {ours: raw[query][theirs] for ours, theirs in MEASURES.items()} for query in sorted(raw)}
    mean = {name: sum(values[name] for values in queries.values()) / len(queries) for name in MEASURES}
    made_with = f"pytrec-eval-terrier {version('pytrec-eval-terrier')}"
    expected = {"made_with": made_with, "queries": queries, "mean": mean}
    (HERE / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
