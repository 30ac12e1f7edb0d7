"""What the drivers of the embedding peers share: a batch and single queries, timed."""

from time import perf_counter

from answering import answer


def serve(load, embed):
    """`load(threads)` gives a text about the peer; `embed(texts, role)` gives a matrix, one row per text."""

    def bulk(texts, role, vectors):
        started = perf_counter()
        matrix = embed(texts, role)
        seconds = perf_counter() - started
        return {"seconds": seconds, "vectors": matrix.tolist() if vectors else []}

    def single(texts, role):
        times = []
        for text in texts:
            started = perf_counter()
            embed([text], role)
            times.append(1000 * (perf_counter() - started))
        return {"milliseconds": times}

    answer({"load": lambda threads: {"about": load(threads)}, "bulk": bulk, "single": single})
