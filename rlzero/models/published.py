"""What the papers say about size and cost, each figure with its source, to be held against our own count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rlzero.models.count import Parameters

TOLERANCE = 0.005
# Positions that a token attends to in the published figures of arithmetic, and in ours.
CONTEXT = 4096
_UNITS = {"T": 1e12, "B": 1e9, "M": 1e6}


@dataclass(frozen=True)
class Figure:
    """One published number.

    quantity: "total", "active" or "mtp" (parameters, see count.Parameters) or "flops" (flops_per_token at CONTEXT).
    printed: as it stands in the source, as in "21B"; its digits are all that is known of it.
    without: parts of the model that the source leaves out, "embedding" or "head".
    times: of how many of ours the published figure is; what they are, stands in `what`.
    why: the reason where ours deviates by more than TOLERANCE and does not round to the published digits either.
    """

    quantity: str
    printed: str
    source: str
    without: tuple[str, ...] = ()
    times: float = 1.0
    what: str = ""
    why: str = ""

    @property
    def value(self) -> float:
        return float(self.printed[:-1]) * _UNITS[self.printed[-1]]

    @property
    def digits(self) -> int:
        return len(self.printed[:-1].replace(".", ""))


@dataclass(frozen=True)
class Comparison:
    """A published figure beside ours, counted as the source counts."""

    figure: Figure
    ours: float

    @property
    def deviation(self) -> float:
        """Of ours from the published one, as a share of that."""
        return self.ours / self.figure.value - 1

    @property
    def close(self) -> bool:
        return abs(self.deviation) <= TOLERANCE

    @property
    def rounds(self) -> bool:
        """Whether ours, with as many digits as are published, is the published figure."""
        return float(f"{self.ours:.{self.figure.digits - 1}e}") == self.figure.value

    @property
    def remark(self) -> str:
        """How it was compared and, where ours is neither close nor rounds to it, why; often empty."""
        figure = self.figure
        without = f"counted without {' and '.join(figure.without)}" if figure.without else ""
        why = "" if self.close or self.rounds else figure.why
        return "; ".join(part for part in (figure.what, without, why) if part)


def compare(name: str, parameters: Parameters, flops: int) -> list[Comparison]:
    """Every published figure of that preset beside ours. flops: flops_per_token at CONTEXT."""
    ours = {"total": parameters.total, "active": parameters.active, "mtp": parameters.mtp, "flops": flops}
    compared = []
    for figure in PUBLISHED.get(name, ()):
        left_out = sum(getattr(parameters, part) for part in figure.without)
        compared.append(Comparison(figure, (ours[figure.quantity] - left_out) * figure.times))
    return compared


_STACKS = "published of encoder and decoder; ours is the decoder, counted twice"
_TRAINING = f"published for training on {CONTEXT} tokens, which is three forward passes of each"

PUBLISHED: dict[str, tuple[Figure, ...]] = {
    "shazeer-2017": (
        Figure("total", "1.1B", "1701.06538, table 7, MoE-256"),
        Figure("total", "272.9M", "1701.06538, table 7, MoE-256", ("embedding", "head")),
        Figure(
            "active",
            "8.6M",
            "1701.06538, table 7, MoE-256: multiply-adds a word",
            ("embedding", "head"),
            why="two LSTM layers, four experts and both matrices of the gate are 8.65M, cut off and not rounded",
        ),
    ),
    "gshard": (
        Figure(
            "total",
            "600B",
            "2006.16668, table 1, MoE(2048E, 36L)",
            times=2,
            what=_STACKS,
            why='its abstract says "beyond 600 billion", and the experts of 18 layers alone are 618B',
        ),
    ),
    "switch": (Figure("total", "1571B", "2101.03961, table 9, Switch-C", times=2, what=_STACKS),),
    "mistral-7b": (Figure("total", "7.24B", "released checkpoint Mistral-7B-v0.1"),),
    "mixtral-8x7b": (
        Figure("total", "46.7B", "mistral.ai, Mixtral of experts; 47B in 2401.04088"),
        Figure("active", "12.9B", "mistral.ai, Mixtral of experts; 13B in 2401.04088"),
    ),
    "deepseek-llm-7b": (
        Figure("total", "6.9B", "2401.06066, table 3"),
        Figure("flops", "183.5T", "2401.06066, table 3", times=3 * CONTEXT, what=_TRAINING),
    ),
    "deepseek-llm-67b": (Figure("total", "67B", "2401.02954, table 2"),),
    "deepseekmoe-16b": (
        Figure("total", "16.4B", "2401.06066, §5.1.2"),
        Figure("active", "2.8B", "2401.06066, §5.1.2"),
        Figure(
            "flops",
            "74.4T",
            "2401.06066, table 3",
            times=3 * CONTEXT,
            what=_TRAINING,
            why="the paper does not say how it counts, and the same count gives its figure for DeepSeek 7B",
        ),
    ),
    "deepseek-v2": (
        Figure("total", "236B", "2405.04434, §3.1.2"),
        Figure("active", "21B", "2405.04434, §3.1.2"),
    ),
    "deepseek-v2-lite": (
        Figure("total", "15.7B", "2405.04434, appendix B.1"),
        Figure(
            "active",
            "2.4B",
            "2405.04434, appendix B.1",
            ("embedding",),
            why="2.45B so, cut off and not rounded; with the input embedding it is 2.66B",
        ),
    ),
    "deepseek-v3": (
        Figure("total", "671B", "2412.19437, §4.2"),
        # README_WEIGHTS.md has 36.7B "including 0.9B for Embedding", which no count of the weights gives.
        Figure(
            "active",
            "37B",
            "2412.19437, §4.2",
            ("embedding",),
            what="with the input embedding, of which a token reads one row, ours is 37.55B",
        ),
        Figure(
            "mtp",
            "11.5B",
            "README_WEIGHTS.md of the release",
            why="11.51B without the matrix that joins a token's embedding to the state before it",
        ),
    ),
}
