"""One JSON object a line on standard input, one a line on standard output.

A request names what to do in `do`; the answer holds the figures, or `error` in words. Drivers time what they compute
themselves, so that neither the start of this process nor the pipe counts.
"""

import json
import os
import sys


def answer(actions):
    """Serves requests until standard input ends; `actions` maps a name to a function of the request's other keys."""
    # What libraries print must not get between the answers: standard output becomes standard error for them.
    lines = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            request = json.loads(line)
            reply = actions[request.pop("do")](**request)
        except Exception as error:  # whatever goes wrong is the answer
            reply = {"error": f"{type(error).__name__}: {error}"}
        lines.write(json.dumps(reply) + "\n")
        lines.flush()
