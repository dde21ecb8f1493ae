"""The bot of noisy_neighbour.py: answers everybody, and misbehaves when told to."""

from __future__ import annotations

import time

import rtvi_actors as ra

ANSWER = (
    "Breakfast is served from seven to ten in the restaurant on the ground floor. "
    "The pool opens at eight in the morning, and closes at ten in the evening. "
    "There is a train to the airport every half an hour, and it takes about twenty minutes."
)
BLOCK_S = 2.0
HOLD_EXPONENT = 9_000_000
"""One call of C code that lets no other thread of the process run, for about 2 s."""


class Neighbour(ra.Bot):
    """Says :data:`ANSWER`; to ``block`` and ``hold`` it says nothing, and its event loop stands still for 2 s."""

    async def on_turn(self, session: ra.Session, turn: ra.Turn) -> str:
        """Answer, or misbehave."""
        if turn.text == "block":
            time.sleep(BLOCK_S)  # noqa: ASYNC251 - what is measured
        elif turn.text == "hold":
            pow(3, HOLD_EXPONENT)
        else:
            return ANSWER
        return ""
