"""A run on the disk: written whole or not at all, read without running code, continued to the bit."""

from __future__ import annotations

import json
import os
import pickle
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from limbeck.errors import CheckpointError

if TYPE_CHECKING:
    from limbeck.run import Run


#: What reading a damaged file, or one of something else, raises.
UNREADABLE = (pickle.UnpicklingError, RuntimeError, LookupError, EOFError, OSError, TypeError, ValueError)


def save(run: Run, path: Path) -> Path:
    """A new file takes the old one's place when it is on the disk. All ranks call this."""
    fabric = run.fabric
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    streams = [run.local_rng.get_state(), torch.get_rng_state()]
    if fabric.device.type == "cuda":
        streams.append(torch.cuda.get_rng_state())
    fabric.save(
        temporary,
        {
            "bundle": run.module,
            "optimizer": run.torch_optimizer,
            "method": repr(run.method),
            "progress": [run.epoch, run.done, run.steps_done],
            "sums": {name: run.gather(total.unsqueeze(0)) for name, total in run.sums.items()},
            "history": run.history,
            "rng": run.rng.get_state(),
            "streams": [run.gather(stream.unsqueeze(0)) for stream in streams],
        },
    )
    fabric.barrier()
    if fabric.is_global_zero:
        if temporary.is_file():
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    fabric.barrier()
    return path


def load(run: Run, path: Path | str) -> None:
    """Raises CheckpointError for a file that is no checkpoint, or one of another method or number of ranks."""
    fabric, rank = run.fabric, run.fabric.global_rank
    try:
        saved = fabric.load(path, weights_only=True)
        refuse_other_method(saved, run, path)
        ranks = len(saved["streams"][0])
        if ranks != fabric.world_size:
            raise CheckpointError(f"{path} is of {ranks} ranks; this run has {fabric.world_size}")
        fabric.load(path, {"bundle": run.module, "optimizer": run.torch_optimizer}, weights_only=True)
    except (CheckpointError, FileNotFoundError):
        raise
    except UNREADABLE as error:
        raise CheckpointError(f"{path} is no checkpoint of this run: {error}") from error
    run.epoch, run.done, run.steps_done = saved["progress"]
    run.sums = {name: totals[rank].to(fabric.device) for name, totals in saved["sums"].items()}
    run.history = saved["history"]
    run.rng.set_state(saved["rng"])
    # A clone: of a part of a larger tensor, torch would read past the end.
    local, *others = [stream[rank].cpu().clone() for stream in saved["streams"]]
    run.local_rng.set_state(local)
    torch.set_rng_state(others[0])
    if len(others) > 1:
        torch.cuda.set_rng_state(others[1])
    if run.folder is not None and fabric.is_global_zero and run.history:  # drop rows of a later, lost end
        (Path(run.folder) / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in run.history))


def refuse_other_method(saved: Mapping[str, Any], run: Run, path: Path | str) -> None:
    if saved["method"] != repr(run.method):
        raise CheckpointError(f"{path} is of the method {saved['method']}; this run's is {run.method!r}")


def save_method(run: Run, path: Path) -> None:
    """What its method trains or remembers, and this rank's randomness, for a loop that saves the rest itself."""
    temporary = path.with_name(path.name + ".partial")
    streams = [run.rng.get_state(), run.local_rng.get_state()]
    torch.save({"method": repr(run.method), "state": run.bundle.state.state_dict(), "streams": streams}, temporary)
    os.replace(temporary, path)


def load_method(run: Run, path: Path) -> None:
    """Raises CheckpointError for a file that is none, or is of another method."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True)
        refuse_other_method(saved, run, path)
        run.bundle.state.load_state_dict(saved["state"])
        for generator, state in zip((run.rng, run.local_rng), saved["streams"], strict=True):
            generator.set_state(state)
    except CheckpointError:
        raise
    except UNREADABLE as error:
        raise CheckpointError(f"{path} holds nothing of this run's method: {error}") from error


@contextmanager
def finish_step_on_interrupt() -> Iterator[threading.Event]:
    """Within, the first ctrl-C sets the event instead of raising anywhere; a second one raises."""
    interrupted = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return

    def stop(number: int, frame: Any) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield interrupted
    finally:
        signal.signal(signal.SIGINT, before)
