"""Labelled short texts as token ids: what a data set of them is, and WordNet's glosses as one."""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from limbeck.data.draws import uniform
from limbeck.errors import DataError

__all__ = ["Texts", "glosses", "texts"]


@dataclass(frozen=True, eq=False)
class Texts:
    """One part of a data set.

    Attributes:
        x: (n, length) int64, places in `words`; 0 fills up short texts.
        y: (n,) int64, places in `classes`, or UNLABELLED.
        classes: the names of the classes.
        words: the vocabulary; the first stands for nothing, the second for every word that is not in it.
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def built_with(self) -> dict[str, Any]:
        """What `models.build` wants to know."""
        return {"classes": len(self.classes), "vocabulary": len(self.words)}


def texts(
    train: Sequence[tuple[str, int]],
    test: Sequence[tuple[str, int]],
    classes: Sequence[str],
    *,
    words: int = 10_000,
    length: int = 32,
) -> tuple[Texts, Texts]:
    """Pairs of a text and a class's place as token ids: lower case, the `words` commonest of the training texts, the
    first `length` of each text."""
    parts = [[(re.findall(r"\w+", text.lower())[:length], label) for text, label in part] for part in (train, test)]
    common = Counter(chain.from_iterable(tokens for tokens, _ in parts[0])).most_common(words)
    vocabulary = ("", "?", *(word for word, _ in common))
    places = {word: place for place, word in enumerate(vocabulary)}
    made = []
    for part in parts:
        rows = [[*(places.get(token, 1) for token in tokens), *[0] * (length - len(tokens))] for tokens, _ in part]
        labels = torch.tensor([label for _, label in part], dtype=torch.int64)
        made.append(Texts(torch.tensor(rows, dtype=torch.int64), labels, tuple(classes), vocabulary))
    return made[0], made[1]


# The names of its files by their numbers: lexnames(5WN).
_SUPERSENSES = (  # noqa: SIM905
    "adj.all adj.pert adv.all noun.Tops noun.act noun.animal noun.artifact noun.attribute noun.body noun.cognition "
    "noun.communication noun.event noun.feeling noun.food noun.group noun.location noun.motive noun.object noun.person "
    "noun.phenomenon noun.plant noun.possession noun.process noun.quantity noun.relation noun.shape noun.state "
    "noun.substance noun.time verb.body verb.change verb.cognition verb.communication verb.competition "
    "verb.consumption verb.contact verb.creation verb.emotion verb.motion verb.perception verb.possession verb.social "
    "verb.stative verb.weather adj.ppl"
).split()
_DEBIAN = Path("/usr/share/wordnet")


def glosses() -> tuple[Texts, Texts]:
    """WordNet 3.0's definitions, of which a tenth is held out, in the 45 files of its lexicographers (supersenses).

    Read from `$LIMBECK_DATA/wordnet` or the Debian package wordnet-base. A definition that several synsets share is in
    one of the two parts. Source: Fellbaum, "WordNet", MIT Press 1998.
    """
    own = os.environ.get("LIMBECK_DATA")
    folders = [*([Path(own) / "wordnet"] if own else []), _DEBIAN]
    files = [f"data.{kind}" for kind in ("adj", "adv", "noun", "verb")]
    folder = next((each for each in folders if all((each / file).is_file() for file in files)), None)
    if folder is None:
        raise FileNotFoundError(
            f"WordNet is not here: looked for {', '.join(files)} in {', '.join(map(str, folders))}. Run `apt-get "
            f"install wordnet-base`, or set LIMBECK_DATA to a folder whose wordnet/ holds these files."
        )
    return _glosses(tuple(folder / file for file in files))


@cache  # a comparison asks for them many times
def _glosses(files: tuple[Path, ...]) -> tuple[Texts, Texts]:
    pairs = list(chain.from_iterable(map(_definitions, files)))
    place = {text: i for i, text in enumerate(dict.fromkeys(text for text, _ in pairs))}
    held = (uniform(0, torch.arange(len(place)), epoch=0, stream="glosses", n=1)[:, 0] < 0.1).tolist()
    train, test = ([pair for pair in pairs if held[place[pair[0]]] == part] for part in (False, True))
    return texts(train, test, _SUPERSENSES)


def _definitions(path: Path) -> list[tuple[str, int]]:
    """Definition and supersense of each synset; the licence before them is indented: wndb(5WN)."""
    with open(path, encoding="latin-1") as file:
        lines = [line.partition(" | ") for line in file if not line.startswith(" ")]
    try:
        found = [(gloss.strip(), int(fields.split()[1])) for fields, _, gloss in lines]
        if any(not gloss or number >= len(_SUPERSENSES) for gloss, number in found):
            raise ValueError("a line without a gloss, or of no lexicographers' file")
    except (ValueError, IndexError) as error:
        raise DataError(f"{path} is no data file of WordNet: {error}") from error
    return found
