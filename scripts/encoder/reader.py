#!/usr/bin/env python3
"""Learns a second top of multilingual-e5-small that reads requests for triage, and writes it for `models/reader.bin`.

    scripts/encoder/reader.py train.jsonl.gz [more.jsonl.gz ...] --container e5-small-q4.bin --tokenizer tokenizer.json \\
        --start models/encoder.bin --out models/reader.bin --readings readings.jsonl

The upper layers begin where `--start` left them and get a difference of low rank (LoRA, Hu et al. 2021). Each judgement weighs the
tokens by a query of its own, which is also shown the words that the labeller marked. Rows that lack a
label teach the others. A fifth of the first file is kept out; what the reader says of it goes to `--readings`, for `respondo train
triage` to mix and calibrate by. Needs torch, numpy and tokenizers.
"""

import argparse
import gzip
import hashlib
import json
import math
import random
import struct
import time

import numpy
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import nn

from e5 import MATRICES, Encoder, inside

# As the service reads a request.
MAX_TOKENS = 256
BATCH = 32
# Batches of about the same length: so many are sorted together.
SORTED = 8
CLASSES = 4
NEXT = {"answer": 0, "ask": 1, "human": 2, "reject": 3}
# Weights of the losses beside the log loss of each judgement: squared distance on the two scales, and the marked words.
DISTANCE, MARKED = 0.3, 0.3
SMOOTHING, DROPOUT = 0.05, 0.1


class Reader(nn.Module):
    def __init__(self, container, rank, frozen, depth, start):
        super().__init__()
        self.encoder = Encoder(container, rank, frozen=frozen)
        # Those above take no part: each costs a request milliseconds.
        self.encoder.layers = self.encoder.layers[: frozen + depth]
        self.begun = begin(self.encoder, start) if start else {}
        hidden = self.encoder.hidden
        self.queries = nn.Parameter(torch.zeros(3, hidden))
        self.ends = nn.ModuleList(nn.Linear(2 * hidden, CLASSES) for _ in range(3))
        for end in self.ends:
            nn.init.normal_(end.weight, std=0.02)
            nn.init.zeros_(end.bias)

    def forward(self, x, lengths):
        """Scores of each judgement, `[texts, classes]`, and the weight of every token for it, `[texts, judgements, tokens]`."""
        mask = inside(x.shape[1], lengths)
        for layer in self.encoder.layers[self.encoder.frozen :]:
            x = layer(x, mask)
        x, mask = x.float(), mask[:, 0, 0, :]
        mean = (x * mask[:, :, None]).sum(1) / lengths[:, None]
        fits = torch.einsum("bld,td->btl", x, self.queries).masked_fill(~mask[:, None, :], -1e4)
        weights = fits.softmax(-1)
        looked_at = torch.einsum("btl,bld->btd", weights, x)
        drop = lambda both: F.dropout(both, DROPOUT, self.training)
        return [end(drop(torch.cat([looked_at[:, at], mean], 1))) for at, end in enumerate(self.ends)], weights


def begin(encoder, path):
    """Adds the difference of a file that train.py wrote to the weights; gives its parts, `[up, down]` by layer and matrix."""
    file = open(path, "rb").read()
    version, _, first, _, _, rank = struct.unpack("<IIIIII", file[4:28])
    assert file[:4] == b"E5LR" and version == 1 and first >= encoder.frozen, "another difference"
    values, at, parts = torch.from_numpy(numpy.frombuffer(file, numpy.float16, offset=28).astype(numpy.float32)), 0, {}
    for index, layer in enumerate(encoder.layers[first:], first):
        for name in MATRICES:
            linear = getattr(layer, name)
            outputs, inputs = linear.weight.shape
            down = values[at : at + rank * inputs].reshape(rank, inputs)
            up = values[at + rank * inputs :][: rank * outputs].reshape(outputs, rank)
            at += rank * (inputs + outputs)
            linear.weight = (linear.weight.float() + up @ down).bfloat16()
            parts[index, name] = up, down
    return parts


def read(path):
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def plain(row):
    return " ".join((row["subject"] + " " + row["body"]).lower().split())


def is_kept(row):
    return int(hashlib.sha256(("reader:" + plain(row)).encode()).hexdigest()[:8], 16) % 5 == 0


def request(subject, body):
    """As `Request::text` of the service."""
    return body if body.startswith(subject) else f"{subject}\n{body}" if body else subject


def prepare(rows, tokenizer, encoder):
    for row in rows:
        text = "query: " + request(row["subject"].strip(), row["body"].strip())[:12000]
        encoded = tokenizer.encode(text)
        ids, begin = encoded.ids, text.find(row["evidence"]) if row.get("evidence") else -1
        end = begin + len(row.get("evidence") or "")
        marked = [float(begin >= 0 and one < end and begin < other) for one, other in encoded.offsets]
        if len(ids) > MAX_TOKENS:
            ids, marked = ids[: MAX_TOKENS - 1] + ids[-1:], marked[: MAX_TOKENS - 1] + [0.0]
        row["ids"], row["marked"] = ids, torch.tensor(marked)
    order = sorted(rows, key=lambda row: len(row["ids"]))
    for start in range(0, len(order), 64):
        part = order[start : start + 64]
        lengths = torch.tensor([len(row["ids"]) for row in part])
        block = torch.ones(len(part), int(lengths.max()), dtype=torch.long)
        for ids, row in zip(block, part):
            ids[: len(row["ids"])] = torch.tensor(row["ids"])
        for row, hidden in zip(part, encoder.lower(block, lengths)):
            row["lower"] = hidden[: len(row["ids"])].clone()


def batch(rows):
    pad = lambda parts: nn.utils.rnn.pad_sequence(parts, batch_first=True)
    return pad([row["lower"] for row in rows]), torch.tensor([len(row["ids"]) for row in rows])


def loss(model, rows):
    scores, weights = model(*batch(rows))
    total = 0.0
    for said, key in zip(scores, ("urgency", "difficulty")):
        truth = torch.tensor([row.get(key, 0) - 1 for row in rows])
        said, truth = said[truth >= 0], truth[truth >= 0]
        if len(truth):
            distance = said.softmax(1) @ torch.arange(float(CLASSES)) - truth
            total = total + F.cross_entropy(said, truth, label_smoothing=SMOOTHING) + DISTANCE * (distance**2).mean()
    truth = torch.tensor([NEXT.get(row.get("next"), -1) for row in rows])
    if (truth >= 0).any():
        total = total + F.cross_entropy(scores[2][truth >= 0], truth[truth >= 0], label_smoothing=SMOOTHING)
    marked = nn.utils.rnn.pad_sequence([row["marked"] for row in rows], batch_first=True)
    with_words = marked.sum(1) > 0
    if with_words.any():
        wanted = marked[with_words] / marked[with_words].sum(1, keepdim=True)
        total = total - MARKED * (wanted * (weights[with_words, 0] + 1e-6).log()).sum(1).mean()
    return total


def scores(model, rows):
    model.eval()
    with torch.no_grad():
        for start in range(0, len(rows), 64):
            part = rows[start : start + 64]
            said, _ = model(*batch(part))
            for at, row in enumerate(part):
                row["scores"] = [float(value) for one in said for value in one[at]]


def figures(rows):
    """Agreement on rows with scores: quadratic kappa of both scales, accuracy of the next step."""
    found = []
    for at, key in enumerate(("urgency", "difficulty")):
        pairs = [(row[key] - 1, int(numpy.argmax(row["scores"][4 * at : 4 * at + 4]))) for row in rows if row[key]]
        table, steps = numpy.zeros((CLASSES, CLASSES)), numpy.arange(CLASSES)
        for truth, said in pairs:
            table[truth, said] += 1
        weights = (steps[:, None] - steps[None, :]) ** 2
        chance = numpy.outer(table.sum(1), table.sum(0)) / table.sum()
        found.append(1 - (weights * table).sum() / (weights * chance).sum())
    right = [NEXT[row["next"]] == int(numpy.argmax(row["scores"][8:])) for row in rows]
    return f"urgency {found[0]:.3f}, difficulty {found[1]:.3f}, next step {sum(right) / len(right):.3f}"


def write(model, path):
    """As `src/embed/reader.rs` reads it: both differences in one, of the sum of their ranks."""
    encoder, difference = model.encoder, b""
    rank = encoder.layers[-1].q.down.shape[0] + max([down.shape[0] for _, down in model.begun.values()], default=0)
    for index, layer in enumerate(encoder.layers[encoder.frozen :], encoder.frozen):
        for name in MATRICES:
            linear = getattr(layer, name)
            up, down = linear.up.detach() * linear.scale, linear.down.detach()
            if (index, name) in model.begun:
                first_up, first_down = model.begun[index, name]
                up, down = torch.cat([first_up, up], 1), torch.cat([first_down, down], 0)
            lacking = rank - down.shape[0]
            for part in (F.pad(down, (0, 0, 0, lacking)), F.pad(up, (0, lacking))):
                difference += part.contiguous().numpy().astype(numpy.float16).tobytes()
    shape = (1, len(encoder.layers), encoder.frozen, encoder.hidden, encoder.ffn, rank)
    difference = b"E5LR" + struct.pack("<IIIIII", *shape) + difference
    file = b"E5RD" + struct.pack("<IIIII", 1, 3, CLASSES, encoder.hidden, len(difference)) + difference
    weights = [model.queries, *(end.weight for end in model.ends), *(end.bias for end in model.ends)]
    for part in weights:
        file += part.detach().numpy().astype(numpy.float32).tobytes()
    with open(path, "wb") as out:
        out.write(file)
    return hashlib.sha256(file).hexdigest()[:8]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--container", required=True)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--start", help="difference to begin with, as train.py writes it")
    parser.add_argument("--out", required=True)
    parser.add_argument("--readings", required=True)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rate", type=float, default=6e-4)
    parser.add_argument("--frozen", type=int, default=6, help="lower layers that do not learn")
    parser.add_argument("--depth", type=int, default=3, help="layers above those")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    dice = random.Random(options.seed)
    tokenizer = Tokenizer.from_file(options.tokenizer)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    first, *others = (read(path) for path in options.rows)
    kept = [row for row in first if is_kept(row)]
    known = {plain(row) for row in kept}
    rows = [row for part in (first, *others) for row in part if plain(row) not in known]
    model = Reader(options.container, options.rank, options.frozen, options.depth, options.start)
    prepare(kept + rows, tokenizer, model.encoder)
    learnt = [parameter for parameter in model.parameters() if parameter.requires_grad]
    ends = {id(parameter) for parameter in [model.queries, *model.ends.parameters()]}
    groups = [
        {"params": [one for one in learnt if id(one) not in ends], "times": 1.0},
        {"params": [one for one in learnt if id(one) in ends], "times": 3.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=options.rate, weight_decay=0.05)
    steps, step, began = math.ceil(len(rows) / BATCH) * options.epochs, 0, time.time()
    print(f"{len(rows)} rows, {len(kept)} kept out", flush=True)
    for epoch in range(options.epochs):
        model.train()
        dice.shuffle(rows)
        batches = []
        for start in range(0, len(rows), BATCH * SORTED):
            chunk = sorted(rows[start : start + BATCH * SORTED], key=lambda row: len(row["ids"]))
            batches += [chunk[at : at + BATCH] for at in range(0, len(chunk), BATCH)]
        dice.shuffle(batches)
        for part in batches:
            step += 1
            for group in optimiser.param_groups:
                group["lr"] = options.rate * group["times"] * min(1, step / (0.1 * steps)) * max(0.02, 1 - step / steps)
            cost = loss(model, part)
            optimiser.zero_grad(set_to_none=True)
            cost.backward()
            torch.nn.utils.clip_grad_norm_(learnt, 1.0)
            optimiser.step()
        scores(model, kept)
        print(f"epoch {epoch + 1}, {time.time() - began:.0f} s: {figures(kept)}", flush=True)
    name = write(model, options.out)
    with open(options.readings, "w", encoding="utf-8") as out:
        out.write(json.dumps({"reader": name}) + "\n")
        for row in kept:
            out.write(json.dumps({"id": row["id"], "scores": [round(score, 5) for score in row["scores"]]}) + "\n")


if __name__ == "__main__":
    main()
