"""Estimates the time and memory of training and running a small encoder, from measurements of all-MiniLM-L6-v2 on two
cores of an AMD EPYC (AVX2). Larger encoders take longer in proportion to their files. Loads no weights.

Reading one text with the 8-bit file takes, in milliseconds of one core:

    tokens         9     15     43    113
    measured     5.8    7.2   14.9   40.0
    estimated    5.7    7.5   15.9   36.9

Reading 770 rows of banking77 took 8 s including imports; choosing and fitting a head of 77 labels on them took 10 s,
and one of 10 labels on 745 tickets 2 s. The program with the encoder takes 310 MB, plus the memory of scikit-learn's
solver.

Training the whole encoder on these rows, 8 passes of 14 tokens a row in 32 bits, took 454 s of processor time: 72 ms
per row and pass. How this depends on the number of tokens was not measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from trainers.encoders.classifier import can_use_words
from trainers.encoders.embedding import WORD_COLUMNS

START_S = {"head": 8.0, "full": 25.0}
READ_ROW_S = 0.003
READ_TOKEN_S = 0.0003
LEARN_ROW_S = 0.030
LEARN_TOKEN_S = 0.003
# The encoder for other languages takes 28 ms for a ticket, this one 12 ms. Choosing between them reads 400 rows with
# both and fits some heads: 27 s for our tickets, of which 16 s are for reading.
MULTILINGUAL_FACTOR = 2.4
ROWS_TO_CHOOSE = 400
CHOOSE_S = 11.0
BYTES = {"head": 450_000_000, "full": 1_600_000_000}
BYTES_PER_ROW = 6_000  # the row's vector and the solver's copies of it
PARAMETERS = 22_700_000
DIMS = 384
MAX_TOKENS = 128
# Tokens per second for one question of 20 tokens after the other. Writing counts as almost free, since a label is not
# generated token by token.
READS_A_SECOND = Decimal(2_000)
WRITES_A_SECOND = Decimal(1_000_000)


@dataclass(frozen=True)
class EncoderWork:
    """`tokens` is the mean per row. `epochs` is 0 if only the head is trained. `chooses` is true if the rows choose
    between two encoders; the slower one is then assumed."""

    rows: int
    tokens: float
    labels: int
    epochs: int = 0
    chooses: bool = False

    @property
    def _kind(self) -> str:
        return "full" if self.epochs else "head"

    @property
    def seconds(self) -> float:
        length = min(self.tokens, MAX_TOKENS)
        a_row = READ_ROW_S + READ_TOKEN_S * length
        reading = self.rows * a_row
        if self.chooses:
            # Some rows are read with both encoders, and then all of them with the slower one.
            chosen_by = min(self.rows, ROWS_TO_CHOOSE)
            slow_reading = (self.rows + chosen_by) * MULTILINGUAL_FACTOR * a_row
            reading = slow_reading + chosen_by * a_row + CHOOSE_S
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
        """The number of trained parameters, including those for words if the head may use words."""
        columns = DIMS
        if self.can_use_words:
            columns += WORD_COLUMNS
        of_head = (columns + 1) * self.labels  # with a bias for each label
        if not self.epochs:
            return of_head
        return of_head + PARAMETERS
