#!/usr/bin/env python3
"""Makes rows for `respondo train relevance`: asks a running service what it finds for each request.

    scripts/relevance/rows.py --memory NAME [--url http://127.0.0.1:8420] [--key KEY] < requests.jsonl > rows.jsonl

Each line of requests.jsonl has `body`, maybe `subject` and `product`, and one of
  fits      true or false: does what is found answer it (a draft that an agent approved, or rejected as beside the question)
  relevant  ids of the memory items that answer it; it fits where one of them is among the first three. With an empty list
            nothing answers it (a request of another product, spam, small talk).
With `only_if_fits` a request where it does not is left out: something else may answer it. Without, `relevant` is taken to be all that answers,
and the row says which items do (`serves`, for `respondo train rerank`). Requests that stand in the memory themselves teach nothing: leave them out of the memory first.
"""

import argparse
import json
import sys
import urllib.error
import urllib.request

# What a reply rests on.
READ = 3


def found(url, key, request):
    body = {field: request[field] for field in ("subject", "body", "product") if request.get(field)}
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    call = urllib.request.Request(f"{url}/v1/triage", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(call, timeout=60) as answer:
        return json.load(answer)


def fits(request, evidence):
    if "fits" in request:
        return bool(request["fits"])
    first = {item["item"]["id"] for item in evidence[:READ]}
    return bool(first & set(request["relevant"]))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", required=True, help="name of the memory that the service has")
    parser.add_argument("--url", default="http://127.0.0.1:8420")
    parser.add_argument("--key", default="")
    arguments = parser.parse_args()
    for number, line in enumerate(sys.stdin, 1):
        if not line.strip():
            continue
        request = json.loads(line)
        if "fits" not in request and "relevant" not in request:
            sys.exit(f"line {number}: neither `fits` nor `relevant`")
        try:
            answer = found(arguments.url.rstrip("/"), arguments.key, request)
        except urllib.error.HTTPError as error:
            sys.exit(f"line {number}: {error} {error.read().decode(errors='replace')}")
        except urllib.error.URLError as error:
            sys.exit(f"{arguments.url}: {error.reason}; is the service running?")
        row = {
            "memory": arguments.memory,
            "subject": request.get("subject", ""),
            "body": request["body"],
            "language": answer["language"],
            "evidence": answer["evidence"],
            "fits": fits(request, answer["evidence"]),
        }
        if request.get("only_if_fits"):
            if not row["fits"]:
                continue
        elif "relevant" in request:
            row["serves"] = [item["item"]["id"] for item in answer["evidence"] if item["item"]["id"] in request["relevant"]]
        print(json.dumps(row, ensure_ascii=False))


if __name__ == "__main__":
    main()
