"""What can go wrong, and how it is said: what came, what was there, what to type.

LimbeckError
├── SettingError      a setting that cannot be used            (also a ValueError)
├── SignalError       a layer, view or signal that is not there (also a LookupError)
├── ShapeError        two signals that cannot be compared       (also a ValueError)
├── DataError         examples that cannot be trained on        (also a ValueError)
├── UnknownName       a name that nothing is registered under   (also a LookupError)
├── CheckpointError   a file that cannot be loaded              (also a ValueError)
├── RecordError       a teacher record that is damaged, not whole, or of something else (also a ValueError)
└── Interrupted       ctrl-C; the run is saved and can go on    (also a KeyboardInterrupt)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimbeckError(Exception):
    """Base of all errors that are the user's to mend."""


class SettingError(LimbeckError, ValueError):
    """A setting that cannot be used."""


class SignalError(LimbeckError, LookupError):
    """A layer, view or signal that is not there."""


class ShapeError(LimbeckError, ValueError):
    """Two signals that cannot be compared."""


class DataError(LimbeckError, ValueError):
    """Examples that cannot be trained on."""


class UnknownName(LimbeckError, LookupError):  # noqa: N818 - reads as what it is
    """A name that nothing is registered under."""


class CheckpointError(LimbeckError, ValueError):
    """A file that cannot be loaded."""


class RecordError(LimbeckError, ValueError):
    """A teacher record that is damaged, not whole, or of another teacher, data set or view."""


class Interrupted(LimbeckError, KeyboardInterrupt):  # noqa: N818
    """Ctrl-C: the step was finished, the run was saved and can be resumed."""


def nearest(name: str, known: Iterable[str], *, most: int = 3) -> str:
    """The end of an error message: the nearest known names, or all of them when none is near."""
    known = sorted(set(known))
    close = difflib.get_close_matches(name, known, n=most, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(map(repr, close))}?"
    listed = ", ".join(map(repr, known[:30])) + (", ..." if len(known) > 30 else "")
    return f"there is: {listed}" if known else "there is none"
