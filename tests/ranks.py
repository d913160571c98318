"""The script that `conformance.on_two_ranks` starts; Fabric starts it once more, as the second rank."""

import pickle
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from limbeck import registry
from limbeck.run import Run
from tests.conformance import Saver, Small, ending, run_of, trained


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    for method in pickle.loads((folder / "methods.pkl").read_bytes()):
        run = trained(run_of(method, devices=2))
        torch.save(run.bundle.state_dict(), folder / f"{method.name}.{run.fabric.global_rank}.pt")
    others(folder)


def others(folder: Path) -> None:
    """What else ranks must keep: batch norm's buffers agree, and a run resumes to the bit, dropout on each rank too."""
    kd = registry.find("kd")
    run = trained(run_of(kd, student=partial(Small, norm=nn.BatchNorm2d), devices=2))
    torch.save(run.bundle.state_dict(), folder / f"batchnorm.{run.fabric.global_rank}.pt")

    def dropping(**fields: object) -> Run:
        return run_of(kd, student=partial(Small, drop=0.3), devices=2, **fields)

    saver = Saver(folder)
    wanted = trained(dropping(watcher=saver))
    resumed = dropping()
    resumed.load(saver.paths[2])
    trained(resumed)
    torch.save([ending(wanted), ending(resumed)], folder / f"resumed.{resumed.fabric.global_rank}.pt")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
