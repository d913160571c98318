"""Limbeck: a model learns from targets that something else produces.

    import limbeck
    run = limbeck.Run(student=student, teacher=teacher, data=(x, y), method=limbeck.kd(tau=4.0), epochs=30)
    run.fit()

The core, in reading order: objective.py, step.py, run.py. The public names are listed in `__init__.pyi`; each is
imported when it is first used, so that the command line can answer without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__version__ = "0.1.0"
