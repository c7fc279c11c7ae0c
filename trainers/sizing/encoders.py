"""What training and asking a small encoder takes of a machine, by measurements of all-MiniLM-L6-v2 on two cores of an
AMD EPYC (AVX2). Larger encoders take longer in proportion to their files. Loads no weights.

The file in 8 bits reads a text, in milliseconds of one core:

    tokens         9     15     43    113
    measured     5.8    7.2   14.9   40.0
    here         5.7    7.5   15.9   36.9

Reading 770 rows of banking77 took 8 s with the imports, choosing and fitting a head of 77 labels on them 10 s, one of
10 labels on 745 tickets 2 s. The program with the encoder takes
310 MB; scikit-learn's solver comes on top.

Training all of it on these rows, 8 passes of 14 tokens a row in 32 bits, took 454 s of the processor: 72 ms a row
and pass. How much of that goes by tokens was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from trainers.encoders.classifier import can_use_words
from trainers.encoders.embedding import WORD_COLUMNS

START_S = {"head": 8.0, "full": 25.0}
READ_ROW_S, READ_TOKEN_S = 0.003, 0.0003
LEARN_ROW_S, LEARN_TOKEN_S = 0.030, 0.003
BYTES = {"head": 450_000_000, "full": 1_600_000_000}
BYTES_PER_ROW = 6_000  # its vector, as the solver copies it
PARAMETERS, DIMS = 22_700_000, 384
MAX_TOKENS = 128
# Tokens of questions of 20 tokens, one after the other; a label is not written token by token.
READS_A_SECOND, WRITES_A_SECOND = Decimal(2_000), Decimal(1_000_000)


@dataclass(frozen=True)
class EncoderWork:
    """`tokens`: a row's, on average. `epochs` are passes that learn; 0 where the encoder stays as it is."""

    rows: int
    tokens: float
    labels: int
    epochs: int = 0

    @property
    def _kind(self) -> str:
        return "full" if self.epochs else "head"

    @property
    def seconds(self) -> float:
        length = min(self.tokens, MAX_TOKENS)
        reading = self.rows * (READ_ROW_S + READ_TOKEN_S * length)
        learning = self.epochs * self.rows * (LEARN_ROW_S + LEARN_TOKEN_S * length)
        return START_S[self._kind] + reading + learning

    @property
    def bytes(self) -> int:
        return BYTES[self._kind] + BYTES_PER_ROW * self.rows

    @property
    def can_use_words(self) -> bool:
        return not self.epochs and can_use_words(self.rows, self.labels)

    @property
    def trained(self) -> int:
        """Parameters that are trained: with those for words, where it may see them."""
        columns = DIMS + WORD_COLUMNS if self.can_use_words else DIMS
        return (columns + 1) * self.labels + (PARAMETERS if self.epochs else 0)
