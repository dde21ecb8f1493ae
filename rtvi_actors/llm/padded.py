"""Several sessions in one pass through a transformers model: rows of different lengths, padded, with a key-value cache.

A row's cache is one tensor [2 x layers, heads, tokens, size]: keys and values of each layer in turn. Columns of the batch that are
padding, between a row's cache and its new tokens or behind them, are masked; positions count real tokens only. So a row computes
what it would compute alone, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class PaddedBatch:
    """Rows that go through ``model`` together. ``caches``: a tensor for each row, None for a row that has nothing yet."""

    def __init__(self, model: Any, caches: Sequence[Any]) -> None:
        import torch
        from transformers import DynamicCache

        self._torch = torch
        self._model = model
        self._cache = DynamicCache()
        self._lengths = [0 if cache is None else cache.shape[2] for cache in caches]
        columns = max(self._lengths)
        self._real = torch.zeros(len(caches), columns, dtype=torch.long)
        if columns:
            self._fill(caches, columns)

    def _fill(self, caches: Sequence[Any], columns: int) -> None:
        one = next(cache for cache in caches if cache is not None)
        parts, heads, _, size = one.shape
        together = one.new_zeros(parts, len(caches), heads, columns, size)
        for row, (cache, length) in enumerate(zip(caches, self._lengths, strict=True)):
            if cache is not None:
                together[:, row, :, :length] = cache
                self._real[row, :length] = 1
        for layer in range(parts // 2):
            self._cache.update(together[2 * layer], together[2 * layer + 1], layer)

    def forward(self, tokens: Sequence[Sequence[int]]) -> Any:
        """Put the next tokens of each row through the model, at least one; the scores [rows, vocabulary] after their last ones.

        If it raises, this batch is of no more use, but :meth:`cache_of` gives the rows as they were before.
        """
        torch, counts = self._torch, [len(row) for row in tokens]
        width = max(counts)
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in tokens])
        new = torch.tensor([[1] * count + [0] * (width - count) for count in counts])
        positions = torch.tensor([[length + at for at in range(width)] for length in self._lengths])
        real = torch.cat([self._real, new], dim=1)
        last = sorted({count - 1 for count in counts})
        device = self._model.device
        with torch.inference_mode():
            result = self._model(
                input_ids=ids.to(device),
                attention_mask=real.to(device),
                position_ids=positions.to(device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=torch.tensor(last, device=device),
            )
        self._real = real
        self._lengths = [length + count for length, count in zip(self._lengths, counts, strict=True)]
        places = torch.tensor([last.index(count - 1) for count in counts], device=device)
        return result.logits[torch.arange(len(counts), device=device), places].float()

    def cache_of(self, row: int) -> Any:
        """A copy of what the row has: its real columns; None if there are none."""
        columns = self._real[row].nonzero()[:, 0].to(self._model.device)
        if not len(columns):
            return None
        parts = [part for layer in self._cache.layers for part in (layer.keys, layer.values)]
        return self._torch.stack([part[row].index_select(1, columns) for part in parts])
