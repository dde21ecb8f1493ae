"""Names by keys that change."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rtvi_actors.scheduler.ranking import SPARE_ENTRIES, Ranking

pytestmark = pytest.mark.unit

NAMES = "abcde"


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.one_of(st.none(), st.integers(0, 4)))))
def test_the_first_has_the_smallest_key_whatever_changed_before(changes: list[tuple[str, int | None]]) -> None:
    ranking: Ranking[tuple[int, int]] = Ranking()
    keys: dict[str, tuple[int, int]] = {}
    for name, rank in changes:
        if rank is None:
            assert ranking.drop(name) == keys.pop(name, None)
        else:
            keys[name] = (rank, NAMES.index(name))
            ranking.put(name, keys[name])
            assert ranking.key(name) == keys[name]
        assert ranking.first() == min(keys, key=keys.__getitem__, default=None)
        assert [name in ranking for name in NAMES] == [name in keys for name in NAMES]
        assert len(ranking) == len(keys)


def test_old_entries_are_cleared_away() -> None:
    ranking: Ranking[tuple[int, int]] = Ranking()
    ranking.put("first", (-1, 0))
    for step in range(10_000):
        ranking.put("other", (step, 1))
    assert ranking.first() == "first"
    assert len(ranking._heap) <= 2 * len(ranking) + SPARE_ENTRIES + 1
