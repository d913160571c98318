"""Limbeck: a model learns from targets that something else produces.

    import limbeck
    run = limbeck.Run(student=student, teacher=teacher, data=(x, y), method=limbeck.kd(tau=4.0), epochs=30)
    run.fit()

The core, in reading order: objective.py, step.py, run.py. The public names are listed in `__init__.pyi`, and every
block and method is one too; all are imported when first used, so that the command line can answer without torch.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import Any

import lazy_loader

__version__ = "0.1.0"
_listed, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    try:
        return _listed(name)
    except AttributeError:
        if name.startswith("_") or find_spec(f"limbeck.{name}"):  # a module: the import system is about to load it
            raise
    known = import_module("limbeck.registry").vocabulary()
    if name not in known:
        raise AttributeError(f"limbeck has no {name!r}")
    return getattr(known[name], "build", known[name])  # a method is called like the function that defines it
