"""Published systems as named compositions, one file per family; every file here is imported, so a new one is found."""

import importlib
import pkgutil

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
