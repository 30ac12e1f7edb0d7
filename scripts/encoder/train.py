#!/usr/bin/env python3
"""Learns a low-rank difference to multilingual-e5-small from pairs (see `pairs.py`), and writes it for `models/encoder.bin`.

    scripts/encoder/train.py pairs.jsonl --container e5-small-q4.bin --tokenizer tokenizer.json --out encoder.bin

Contrastive (InfoNCE): in a batch of one set, a request's vector shall be nearer to the text that answers it than to those that
answer the others. Matrices of the upper layers keep their weights and get a difference of low rank (LoRA, Hu et al. 2021). What
the lower layers make of each text is computed once. Needs torch, numpy and tokenizers; prints nDCG@10 of held-out requests before
and after.
"""

import argparse
import json
import math
import random
import struct
import time
import unicodedata

import numpy
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

from e5 import MATRICES, Encoder

# Of each text; the service reads more, and what a request is about stands in its first hundred.
MAX_TOKENS = 112
BATCH = 64
# Batches of about the same length: so many are sorted together.
SORTED = 8
# How often a pair of each set is taken in an epoch; 1 where a set is not named.
SHARES = {"similar": 2.0, "thunderbird": 0.7, "thunderbird-first": 0.15, "firefox": 0.3, "titles": 0.3}
# Share of the requests that are also learnt as they would be written carelessly, half of the time.
CARELESS = 0.4


class Texts:
    """What the lower layers make of texts, computed once."""

    def __init__(self, path, model):
        self.model = model
        self.tokenizer = Tokenizer.from_file(path)
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        self.kept = {}

    def learn(self, texts, role, size=64):
        missing = sorted({text for text in texts if (role, text) not in self.kept})
        encoded = self.tokenizer.encode_batch([f"{role}: {text[:4000]}" for text in missing])
        ids = [one.ids if len(one.ids) <= MAX_TOKENS else one.ids[: MAX_TOKENS - 1] + one.ids[-1:] for one in encoded]
        order = sorted(range(len(missing)), key=lambda at: len(ids[at]))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            lengths = torch.tensor([len(ids[at]) for at in part])
            block = torch.ones(len(part), int(lengths.max()), dtype=torch.long)
            for row, at in zip(block, part):
                row[: len(ids[at])] = torch.tensor(ids[at])
            for at, hidden in zip(part, self.model.lower(block, lengths)):
                self.kept[role, missing[at]] = hidden[: len(ids[at])].clone()

    def vectors(self, texts, role):
        found = [self.kept[role, text] for text in texts]
        lengths = torch.tensor([len(hidden) for hidden in found])
        return self.model.upper(torch.nn.utils.rnn.pad_sequence(found, batch_first=True), lengths)

    def embed(self, texts, role, size=128):
        self.learn(texts, role)
        order = sorted(range(len(texts)), key=lambda at: len(self.kept[role, texts[at]]))
        vectors = torch.zeros(len(texts), self.model.hidden)
        with torch.no_grad():
            for start in range(0, len(order), size):
                part = order[start : start + size]
                vectors[part] = self.vectors([texts[at] for at in part], role)
        return vectors


def careless(text, dice):
    """Without capitals and accents, or with slips of the finger, or both."""
    kind = dice.random()
    if kind < 0.7:
        bare = unicodedata.normalize("NFD", text.lower())
        text = "".join(sign for sign in bare if not unicodedata.combining(sign))
    if kind > 0.4:
        signs = list(text)
        for _ in range(max(1, len(signs) // 60)):
            at = dice.randrange(max(1, len(signs) - 1))
            slip = dice.random()
            if slip < 0.4:
                signs[at : at + 2] = signs[at : at + 2][::-1]
            elif slip < 0.7:
                signs[at : at + 1] = []
            else:
                signs[at:at] = signs[at : at + 1]
        text = "".join(signs)
    return text


class Sets:
    """Pairs of one set each share a batch."""

    def __init__(self, pairs, texts, seed):
        self.texts, self.dice = texts, random.Random(seed)
        self.by_set, self.answers = {}, {}
        for pair in pairs:
            self.answers.setdefault((pair["set"], pair["id"]), set()).add(pair["doc"])
            if not pair["held"]:
                self.by_set.setdefault(pair["set"], []).append(pair)
                also = self.dice.random() < CARELESS
                pair["queries"] = [pair["query"], careless(pair["query"], self.dice)] if also else [pair["query"]]

    def epoch(self):
        batches = []
        for name, pairs in sorted(self.by_set.items()):
            share = SHARES.get(name, 1.0)
            taken = pairs * int(share) + self.dice.sample(pairs, int(len(pairs) * (share % 1)))
            self.dice.shuffle(taken)
            for start in range(0, len(taken), BATCH * SORTED):
                chunk = sorted(taken[start : start + BATCH * SORTED], key=lambda pair: len(pair["query"]))
                cut = [chunk[at : at + BATCH] for at in range(0, len(chunk), BATCH)]
                batches += [batch for batch in cut if len(batch) >= 8]
        self.dice.shuffle(batches)
        return batches

    def loss(self, batch, temperature):
        queries = [self.dice.choice(pair["queries"]) for pair in batch]
        answers = [self.dice.choice(pair["texts"][:1] * 2 + pair["texts"]) for pair in batch]
        self.texts.learn(queries, "query")
        self.texts.learn(answers, "passage")
        scores = self.texts.vectors(queries, "query") @ self.texts.vectors(answers, "passage").T / temperature
        others = torch.zeros_like(scores, dtype=torch.bool)
        for row, asked in enumerate(batch):
            known = self.answers[asked["set"], asked["id"]]
            for column, pair in enumerate(batch):
                others[row, column] = row != column and pair["doc"] in known
        return F.cross_entropy(scores.masked_fill(others, -1e4), torch.arange(len(batch)))


def ndcg(ranked, wanted):
    gain = sum(1 / math.log2(at + 2) for at, doc in enumerate(ranked[:10]) if doc in wanted)
    return gain / sum(1 / math.log2(at + 2) for at in range(min(10, len(wanted))))


def measure(texts, pairs, names):
    """Mean nDCG@10 of held-out requests over all texts of their set, best text of an answer counts."""
    found = {}
    for name in names:
        of_set = [pair for pair in pairs if pair["set"] == name]
        docs = {}
        for pair in of_set:
            docs.setdefault(pair["doc"], pair["all"])
        owners = [doc for doc, parts in docs.items() for _ in parts]
        known = texts.embed([text for parts in docs.values() for text in parts], "passage")
        wanted, queries = {}, {}
        for pair in of_set:
            if pair["held"]:
                wanted.setdefault(pair["id"], set()).add(pair["doc"])
                queries[pair["id"]] = pair["query"]
        asked = texts.embed(list(queries.values()), "query")
        scores = []
        for request, order in zip(queries, (asked @ known.T).argsort(1, descending=True)):
            ranked = dict.fromkeys(owners[at] for at in order[:400].tolist())
            own = request if request not in wanted[request] else None
            scores.append(ndcg([doc for doc in ranked if doc != own], wanted[request]))
        found[name] = sum(scores) / max(1, len(scores))
    return found


def best_first(texts, pairs):
    """Of a long article, the three parts that are nearest to the request stand for it."""
    several = [pair for pair in pairs if len(pair["texts"]) > 3]
    parts = sorted({text for pair in several for text in pair["texts"]})
    at = {text: index for index, text in enumerate(parts)}
    known = texts.embed(parts, "passage")
    asked = texts.embed([pair["query"] for pair in several], "query")
    for pair, vector in zip(several, asked):
        pair["texts"].sort(key=lambda text: -float(known[at[text]] @ vector))
        pair["texts"] = pair["texts"][:3]


def write(model, path, rank):
    """As `src/embed/tuning.rs` reads it."""
    with open(path, "wb") as file:
        header = (1, len(model.layers), model.frozen, model.hidden, model.ffn, rank)
        file.write(b"E5LR" + struct.pack("<IIIIII", *header))
        for layer in model.layers[model.frozen :]:
            for linear in (getattr(layer, name) for name in MATRICES):
                for part in (linear.down, linear.up * linear.scale):
                    file.write(part.detach().numpy().astype(numpy.float16).tobytes())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs")
    parser.add_argument("--container", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--frozen", type=int, default=6, help="lower layers that do not learn")
    parser.add_argument("--temperature", type=float, default=0.02)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--measure", default="kb,similar,stackfaq,thunderbird,firefox")
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    model = Encoder(options.container, options.rank, frozen=options.frozen)
    texts = Texts(options.tokenizer, model)
    pairs = [json.loads(line) for line in open(options.pairs, encoding="utf-8")]
    for pair in pairs:
        pair["all"] = list(pair["texts"])
    names = [name for name in options.measure.split(",") if name]
    print("before", measure(texts, pairs, names), flush=True)
    best_first(texts, pairs)
    sets = Sets(pairs, texts, options.seed)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(learnt, lr=options.rate, weight_decay=0.01)
    per_epoch = len(sets.epoch())
    steps, began, step, mean = int(per_epoch * options.epochs), time.time(), 0, None
    while step < steps:
        for batch in sets.epoch():
            step += 1
            if step > steps:
                break
            rate = options.rate * min(1, step / (0.06 * steps)) * max(0.02, 1 - step / steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = sets.loss(batch, options.temperature)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimiser.step()
            mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
            if step % 20 == 0:
                print(f"step {step} of {steps}, loss {mean:.3f}, {time.time() - began:.0f} s", flush=True)
            if step % per_epoch == 0 and step < steps:
                print("epoch", step // per_epoch, measure(texts, pairs, names[:1]), flush=True)
                write(model, options.out, options.rank)
    write(model, options.out, options.rank)
    print("after", measure(texts, pairs, names), flush=True)


if __name__ == "__main__":
    main()
