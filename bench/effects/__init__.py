"""Does each method do what its paper says, on small real data? One check per method, five seeds, one budget."""

from __future__ import annotations

import importlib
import pkgutil

from bench.effects import checks

for found in pkgutil.iter_modules(checks.__path__):
    importlib.import_module(f"{checks.__name__}.{found.name}")
