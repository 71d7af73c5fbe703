"""A small corpus of our own, to train the demo models' tokenizers on: everyday sentences about feelings."""

from __future__ import annotations

from collections.abc import Iterator

FEELINGS = {
    "sadness": "sad lonely gloomy hopeless homesick tearful heartbroken miserable disappointed downhearted",
    "joy": "happy cheerful delighted joyful pleased grateful proud playful excited thankful",
    "love": "loving tender fond devoted caring affectionate romantic warm adored cherished",
    "anger": "angry furious annoyed irritated bitter outraged resentful grumpy offended impatient",
    "fear": "afraid scared nervous worried anxious terrified uneasy panicked frightened shaken",
    "surprise": "surprised amazed astonished stunned startled speechless curious puzzled bewildered shocked",
}

_SUBJECTS = "I you we they everyone nobody somebody children teachers neighbours travellers musicians"
_THINGS = (
    "garden river mountain kitchen letter photograph holiday birthday concert interview journey meeting "
    "weather newspaper telephone computer hospital university breakfast midnight thunderstorm examination"
)
_VERBS = "remember forget discover finish cancel celebrate postpone describe imagine understand organise lose"
_TIMES = "today yesterday tomorrow tonight always sometimes never again suddenly finally already lately"

_FRAMES = (
    "{subject} felt {feeling} about the {thing} {time}.",
    "It was {time} that {subject} became {feeling}, because of the {thing}!",
    "Why do {subject} {verb} the {thing} and look so {feeling}?",
    "{subject} could not {verb} the {thing}; how {feeling} that sounds.",
    "The {thing} made {subject} {feeling}, {time} and in {year}.",
)


def sentences() -> Iterator[str]:
    """Iterate over the corpus, always the same sentences in the same order."""
    subjects, things, verbs, times = (words.split() for words in (_SUBJECTS, _THINGS, _VERBS, _TIMES))
    number = 0
    for feelings in FEELINGS.values():
        for feeling in feelings.split():
            for thing in things:
                yield _FRAMES[number % len(_FRAMES)].format(
                    subject=subjects[number % len(subjects)],
                    feeling=feeling,
                    thing=thing,
                    verb=verbs[number % len(verbs)],
                    time=times[number % len(times)],
                    year=1960 + number % 67,
                )
                number += 1
