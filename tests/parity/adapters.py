"""How each case of `cases/` calls the library: `ADAPTERS[id](inputs, params)`, of all parts of this folder."""

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

Adapter = Callable[[dict[str, Any], dict[str, Any]], Tensor | dict[str, Tensor]]

ADAPTERS: dict[str, Adapter] = {}

for _part in pkgutil.iter_modules([str(Path(__file__).parent)]):
    if _part.name != "adapters" and not _part.name.startswith("test_"):
        _found = importlib.import_module(f"tests.parity.{_part.name}").ADAPTERS
        assert not ADAPTERS.keys() & _found.keys(), f"{_part.name} adapts again {ADAPTERS.keys() & _found.keys()}"
        ADAPTERS |= _found
