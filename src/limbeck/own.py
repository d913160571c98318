"""A user's own function, named on the command line or in a run.yaml as `module:function`."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from limbeck.errors import UnknownName, nearest


def own(name: str) -> Any:
    """What `module:function` names; modules are looked for in the working folder too."""
    module, _, function = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not module.startswith(error.name):
            raise  # the module is there and misses another one
        raise UnknownName(f"{name!r}: there is no module {module!r} in {here} or among the installed ones") from error
    if not hasattr(found, function):
        public = [each for each in vars(found) if not each.startswith("_")]
        raise UnknownName(f"{name!r}: the module {module!r} has no {function!r}; {nearest(function, public)}")
    return getattr(found, function)
