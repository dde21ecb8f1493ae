"""A program beside a Ray cluster: answers each line of its input, ``status APP`` or ``actors``, with a line of JSON.

Joining the cluster takes a second or two, which a test that looks again and again has not.

    python watch.py RAY_ADDRESS
"""

from __future__ import annotations

import json
import sys

from rtvi_actors.cli.local_ray import connect, ray

DEADLINE_S = 30.0


def main(address: str) -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # Ray prints warnings
    connect("tests", address)
    print(json.dumps("joined"), file=answers, flush=True)
    for line in sys.stdin:
        what, _, app = line.strip().partition(" ")
        answer = status(app) if what == "status" else ray.util.list_named_actors(all_namespaces=True)
        print(json.dumps(answer), file=answers, flush=True)


def status(app: str) -> object:
    """None while it cannot be told: the app is gone, or its scheduler does not answer."""
    try:
        scheduler = ray.get_actor(f"{app}/scheduler", namespace=app)
        return ray.get(scheduler.status.remote(), timeout=DEADLINE_S)
    except (ValueError, ray.exceptions.RayError):
        return None


if __name__ == "__main__":
    main(sys.argv[1])
