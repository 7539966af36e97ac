"""The experts that each token of a batch of rows was sent to, gathered while the rows are sampled."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rlzero.models.routing import RoutingTape


class RoutingLog:
    """What the tape of the sampling model holds after each forward pass, sorted by row. L routers, K experts a token.

    The order of calls is the decoder's: `note` after every forward pass, `prompts` once when the prompts are read,
    `tokens` after each further token, `by_row` at the end.
    """

    def __init__(self, tape: RoutingTape) -> None:
        self._tape = tape
        self._passes: list[np.ndarray] = []
        self._prompts: list[np.ndarray] = []
        self._steps: list[tuple[np.ndarray, np.ndarray]] = []

    def note(self, rows: int) -> None:
        """The newest forward pass was over so many rows, of equally many columns."""
        indices_TLK = self._tape.stacked()
        noted = indices_TLK.unflatten(0, (rows, -1)).to(torch.int16)
        self._passes.append(noted.cpu().numpy())

    def prompts(self, lengths: Sequence[int], owner_of_row: Sequence[int]) -> None:
        """The passes so far were over distinct prompts of these lengths, padded on the left; whose is which row."""
        columns = np.concatenate(self._passes, axis=1)
        self._passes.clear()
        of_prompt = [row[len(row) - length :] for row, length in zip(columns, lengths, strict=True)]
        self._prompts = [of_prompt[owner] for owner in owner_of_row]

    def tokens(self, rows: np.ndarray) -> None:
        """The last pass was over one token of each of these rows (int64[rows in the batch])."""
        self._steps.append((rows, self._passes.pop()[:, 0]))

    def by_row(self, lengths: Sequence[int]) -> list[np.ndarray]:
        """int16[P + C − 1, L, K] for each row, C being its number of sampled tokens: the last of them is not read."""
        read = np.zeros((len(self._prompts), len(self._steps), *self._prompts[0].shape[1:]), dtype=np.int16)
        for step, (rows, experts) in enumerate(self._steps):
            read[rows, step] = experts
        return [
            np.concatenate([prompt, read[row, : length - 1]])
            for row, (prompt, length) in enumerate(zip(self._prompts, lengths, strict=True))
        ]
