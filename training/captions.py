"""What the model reads while it learns: many ways to ask for the same picture.

A caption is a name or a synonym in a template ("a photo of a red apple"), a plural by rule, the
name among words that must not matter ("a tiny old zorb apple"), or a tag that several pictures
share ("fruit"), which then stands for any of them. A paraphrase held out for the evaluation is
never used: a caption that happens to equal one is drawn again.
"""

import random
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

_SINGULAR = (
    "{x}|{x}|{x}|{x}|{a} {x}|{a} {x}|{a} {x}|the {x}|my {x}|one {x}|this {x}|that {x}|your {x}|"
    "photo of {a} {x}|a photo of {a} {x}|photo of {x}|picture of {a} {x}|a picture of {a} {x}|"
    "image of {a} {x}|an image of {x}|drawing of {a} {x}|a painting of {a} {x}|"
    "an illustration of {a} {x}|icon of {a} {x}|{x} icon|{x} emoji|3d {x}|a 3d {x}|"
    "3d render of {a} {x}|"
    "{x} on white|{x} on white background|{a} {x} on a white background|{x}, white background|"
    "{a} {x} isolated on white|draw {a} {x}|draw me {a} {x}|make me {a} {x}|make {a} {x}|"
    "show me {a} {x}|i want {a} {x}|give me {a} {x}|{a} {x} please|{x}, please|just {a} {x}|"
    "close up of {a} {x}|{x} clipart|cartoon {x}|{a} {x}, high quality|{x}, detailed|"
    "{a} single {x}|here is {a} {x}|{a} {x}.|{x}!"
).split("|")
_PLURAL = (
    "{x}|{x}|{x}|two {x}|three {x}|some {x}|many {x}|a few {x}|the {x}|a lot of {x}|lots of {x}|"
    "several {x}|photo of {x}|picture of {x}|a picture of {x}|image of some {x}|a group of {x}|"
    "a pair of {x}|{x} on white|draw {x}|draw some {x}|{x} please"
).split("|")
_ADJECTIVES = (
    "cute small big little large tiny huge beautiful pretty nice lovely great good shiny bright "
    "dark old new young modern ancient fresh cool funny happy sad real simple plain round soft "
    "hard warm cold hot fast slow loud quiet clean dirty wet dry heavy light tall short long "
    "wide thin thick rich poor strong weak sweet tasty delicious juicy ripe colourful colorful "
    "golden silver metal wooden plastic glass wild friendly angry sleepy brave clever smart lazy "
    "busy magical royal famous favourite favorite perfect amazing typical ordinary common rare "
    "best classic vintage fancy cheap expensive local fluffy furry hairy spiky smooth sharp "
    "wooly giant mini grand broken whole half"
).split()
_COLOURS = "red orange yellow green blue purple pink brown black white grey gray".split()
_TAILS = (
    "on a table|on the table|in the sky|at night|in the garden|on the grass|in the forest|"
    "in the sea|at the beach|in the city|in the rain|in the snow|on a plate|in a box|"
    "on the floor|in summer|in winter|for kids|with a smile|in the sun|on the street|at home|"
    "in the kitchen|in the water|with nothing else|from the side|for my friend|in a field|"
    "on a hill|in the morning"
).split("|")
# Where the colour is the concept, a colour put in front must not be taught to mean nothing.
_COLOUR_MATTERS = frozenset("apple apples book books heart hearts car bear medal house tea".split())
_IRREGULAR = {
    "mouse": "mice", "goose": "geese", "tooth": "teeth", "foot": "feet", "knife": "knives",
    "leaf": "leaves", "loaf": "loaves", "wolf": "wolves", "scarf": "scarves", "calf": "calves",
    "half": "halves", "shelf": "shelves", "man": "men", "woman": "women", "child": "children",
    "sheep": "sheep", "fish": "fish", "deer": "deer", "bison": "bison", "squid": "squid",
    "ox": "oxen", "cactus": "cacti", "die": "dice", "potato": "potatoes", "tomato": "tomatoes",
    "mango": "mangoes", "volcano": "volcanoes", "tornado": "tornadoes",
}  # fmt: skip
_NO_TAG = frozenset(
    "143 ily tbt yolo up date eye ear cut chop slay excited awesome feels face".split()
)
_ENOUGH_TAGGED = 2


def plural(words: str) -> str:
    """The plural of a phrase's last word ("bunch of grapes" keeps its form)."""
    head, _, last = words.rpartition(" ")
    if last in _IRREGULAR:
        changed = _IRREGULAR[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        changed = last if last.endswith("s") and not last.endswith("ss") else last + "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        changed = last[:-1] + "ies"
    else:
        changed = last + "s"
    return f"{head} {changed}".strip()


def article(words: str) -> str:
    """`a` or `an`, by the first letter."""
    return "an" if words[0] in "aeiou" else "a"


def _nonsense(dice: random.Random) -> str:
    letters = "".join(dice.choice("bcdfghjklmnprstvwz") + dice.choice("aeiou") for _ in range(3))
    return letters[: dice.randint(3, 6)]


class Captions:
    """Draws captions for picture numbers, and pictures for shared tags."""

    def __init__(self, concepts: list[dict[str, Any]], held_out: Iterable[str]) -> None:
        self.words = [[c["name"], *c["synonyms"]] for c in concepts]
        self.held_out = frozenset(held_out)
        owned = {word for words in self.words for word in words}
        owned |= {plural(word) for word in owned}
        self.own_tags = [
            [tag for tag in c["tags"] if tag.isalpha() and tag not in owned] for c in concepts
        ]
        tagged: dict[str, list[int]] = defaultdict(list)
        for number, tags in enumerate(self.own_tags):
            for tag in tags:
                tagged[tag].append(number)
        self.shared = {
            tag: numbers
            for tag, numbers in tagged.items()
            if len(numbers) >= _ENOUGH_TAGGED and tag not in _NO_TAG
        }
        self.shared_of = [[t for t in tags if t in self.shared] for tags in self.own_tags]

    def draw(self, number: int, dice: random.Random) -> str:
        """A caption for picture `number`."""
        while (caption := self._draw(number, dice)) in self.held_out:
            pass
        return caption

    def _draw(self, number: int, dice: random.Random) -> str:
        luck = dice.random()
        if luck < 0.06 and self.shared_of[number]:
            return self._plain(dice.choice(self.shared_of[number]), dice)
        names = self.words[number]
        word = names[0] if dice.random() < 0.5 else dice.choice(names)
        if luck < 0.12 and self.own_tags[number]:
            tag = dice.choice(self.own_tags[number])
            return dice.choice((f"{word} {tag}", f"{tag} {word}", f"{word}, {tag}"))
        if luck < 0.45:
            return self._among_others(word, dice)
        return self._plain(word, dice)

    def _plain(self, word: str, dice: random.Random) -> str:
        if dice.random() < 0.25:
            return dice.choice(_PLURAL).format(x=plural(word))
        return dice.choice(_SINGULAR).format(x=word, a=article(word))

    def _among_others(self, word: str, dice: random.Random) -> str:
        """The word between words that carry no meaning for the picture."""
        form = plural(word) if dice.random() < 0.2 else word
        before = [dice.choice(_ADJECTIVES) for _ in range(dice.choice((0, 1, 1, 1, 2)))]
        if dice.random() < 0.15 and word.split()[-1] not in _COLOUR_MATTERS:
            before.append(dice.choice(_COLOURS))
        if dice.random() < 0.2:
            before.insert(dice.randint(0, len(before)), _nonsense(dice))
        phrase = " ".join([*before, form])
        if dice.random() < 0.6:
            phrase = (
                f"{dice.choice((article(phrase), article(phrase), 'the', 'my', 'some'))} {phrase}"
            )
        if dice.random() < 0.35 or not before:
            tail = dice.choice(_TAILS) if dice.random() < 0.7 else _nonsense(dice)
            phrase = f"{phrase} {tail}"
        return phrase

    def vocabulary_text(self, dice: random.Random, rounds: int = 40) -> list[str]:
        """Captions enough to learn a tokenizer from; the word list of the model, in effect."""
        return [self.draw(number, dice) for _ in range(rounds) for number in range(len(self.words))]
