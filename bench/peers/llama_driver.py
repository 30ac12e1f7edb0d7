"""llama.cpp's own server in this process, by the xllamacpp wheel: one slot, greedy, prompt cache on."""

from importlib.metadata import version
from time import perf_counter

import xllamacpp

from answering import answer

server = None


def load(model, context, threads):
    global server
    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_ctx = context
    params.n_parallel = 1
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    params.cache_prompt = True
    # Finished prompts are not kept beside the slot: one that was asked before would be answered without being read.
    params.cache_ram_mib = 0
    params.warmup = True
    params.verbosity = 0
    server = xllamacpp.Server(params)
    system = " ".join(xllamacpp.get_system_info().split())
    return {"about": f"llama.cpp in xllamacpp {version('xllamacpp')} ({system.strip(' |')})"}


def generate(prompt, max_tokens):
    """Times are in seconds; `read` and `kept` are tokens of the prompt, `written` counts the end mark too."""
    first, pieces, last = None, [], {}
    # What the callback raises would be lost on its way through C++.
    refused = None

    def hear(chunk):
        nonlocal first, last, refused
        if "choices" not in chunk:
            refused = chunk
            return True
        if first is None:
            first = perf_counter()
        pieces.append(chunk["choices"][0].get("text", ""))
        last = chunk
        return False

    started = perf_counter()
    server.handle_completions(
        {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "top_k": 1,
            "cache_prompt": True,
            "stream": True,
        },
        hear,
    )
    ended = perf_counter()
    if refused or "timings" not in last:
        raise RuntimeError(f"no reply: {refused or last}")
    timings = last["timings"]
    return {
        "text": "".join(pieces),
        "read": timings["prompt_n"],
        "kept": timings["cache_n"],
        "written": timings["predicted_n"],
        "first": first - started,
        "whole": ended - started,
        "reading": timings["prompt_ms"] / 1000,
        "ended": last["choices"][0]["finish_reason"] == "stop",
    }


answer({"load": load, "generate": generate})
