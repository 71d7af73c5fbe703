"""Real text to calibrate variants and to judge them by: an entry's own, or the built-in lines. Nothing is imported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from onnx_fleet import recipes
from onnx_fleet.errors import ModelInvalid

ROOT = recipes.shared_folder()
"""The folder of calibration files, where recipes/ lies too: every worker of a fleet has the same."""
MAX_TEXTS = 256
"""The most lines that are taken of an entry's file, the first N: more of them change little, and cost time."""
SUFFIXES = (".txt", ".jsonl")
_KEY = "text"

LINES = (
    "The train to the coast leaves at seven, and the last one back is shortly before midnight.",
    "Please send me the invoice for March; the amount on the reminder does not match our records.",
    "She opened the window, looked at the rain for a while, and decided to take the car after all.",
    "Water boils at a lower temperature on a mountain, because the air presses on it less.",
    "The battery lasts two days, but the screen is hard to read in the sun.",
    "I have never had such a friendly reception anywhere; we will certainly come again next year.",
    "The delivery was a week late, the box was open, and nobody answered the telephone.",
    "A function that calls itself needs a case in which it does not.",
    "Who wrote the letter that was found behind the mirror?",
    "The committee voted seven to two against the proposal, with one member absent.",
    "Add the flour slowly, stir until no lumps are left, and let the dough rest for an hour.",
    "Turn left at the church, cross the bridge, and you will see the station in front of you.",
    "Prices for copper rose by 2.4% on Tuesday, the strongest gain since the beginning of May.",
    "The patient reports a dull pain in the left shoulder that grows worse at night.",
    "In the second half the visitors pressed forward, and in the 81st minute they were rewarded.",
    "Nothing in this contract limits the rights that the buyer has by law.",
    "for index in range(10): print(index, index ** 2)",
    "The comet will be visible to the naked eye until the end of the month, low in the west.",
    "My grandmother kept bees, and every jar of honey carried the year in her handwriting.",
    "To reset the device, hold both buttons for ten seconds until the light blinks twice.",
    "The museum is closed on Mondays; on the first Sunday of a month the entrance is free.",
    "Light that falls into a prism is spread out, since each colour is bent by another angle.",
    "He said he was sorry, but he did not look as if he were.",
    "The river has not been this low since records began in 1887.",
    "Is there a vegetarian restaurant near the harbour that is open late?",
    "Our flight was cancelled, so we spent the night on the floor of the terminal.",
    "The orchestra plays Brahms in the first half and something new after the interval.",
    "A good lock keeps honest people honest.",
    "The reaction takes place in two steps, the first of which is by far the slower one.",
    "Das Fenster war offen, und von der Straße hörte man Stimmen, die langsam näher kamen.",
    "Le marché ouvre à six heures; les meilleurs fruits sont partis avant huit heures.",
    "La biblioteca cierra a las nueve, pero los libros se pueden devolver a cualquier hora.",
    "東京の朝は早く、駅はもう人でいっぱいです。",
    "Поезд опоздал на двадцать минут, и мы едва успели на пересадку.",
    "القطار يغادر المحطة في الساعة السابعة صباحا.",
    "The vote was close.",
    "Thank you!",
    "No.",
    "What is the capital of the country with the longest coast, and how many people live there today?",
    "When the power came back, the clocks in the house all showed different times, and none of them the right one.",
    "Shareholders were told that the factory would stay open, that nobody would lose their job, and that the loss of "
    "the past year, which came as a surprise to most of them, was due to a single order that had been cancelled.",
    "The first chapter is about the sea, the second about the people who live from it, and the third about what "
    "happens to both when the fish are gone; it is the third that stays in the mind.",
    "Version 2.1 mends a fault by which files with names of more than 255 bytes were skipped without a message.",
    "Between the two villages lies a wood in which, so the story goes, a bell can be heard on still evenings.",
    "She has worked as an engineer for twelve years, nine of them abroad, and speaks four languages.",
    "If it rains tomorrow the match will be moved to Thursday, at the same time and in the same place.",
    "The soup was cold, the wine was warm, and the bill was neither.",
    "Most of the stars that you see tonight are larger than the sun, and all but a few are much farther away.",
)  # fmt: skip
"""The built-in texts: 48 sentences of our own, of many kinds and lengths and some languages."""


def of(name: str | None, *, root: Path = ROOT) -> tuple[str, ...]:
    """Return the lines of an entry's file, or the built-in ones.

    Args:
        name: relative to root.
        root: the folder that recipes/ lies in.
    Raises:
        ModelInvalid: the file is not there, or has no text.
    """
    if name is None:
        return LINES
    path = root / name
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        found = [json.loads(line)[_KEY] if path.suffix == ".jsonl" else line for line in lines if line.strip()]
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ModelInvalid(
            f"calibration '{name}': cannot be read ({type(err).__name__}: {err}); write one text on each line, or in a "
            f".jsonl file one JSON object with the key '{_KEY}' on each line"
        ) from err
    if not found:
        raise ModelInvalid(f"calibration '{name}': contains no text; write one text on each line")
    return tuple(found[:MAX_TEXTS])


def digest(name: str, *, root: Path = ROOT) -> str | None:
    """Return the SHA-256 of a calibration file, 64 hexadecimal digits; None where there is none."""
    path = root / name
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None
