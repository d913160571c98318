"""Time and memory of KL between two heads: all logits at once, our tiles, Liger's chunks and TRL's tiles. And of
cross-entropy, which has no teacher.

    python -m bench.linear --out bench/results/linear.json

One step: forward, mean, backward to the student's hidden states and weight. Every measurement is a process of its own;
the ways take turns, so that the machine's drift hits all alike, and each ratio is over the dense step of the same turn.
Memory is the peak of the resident set (VmHWM) above what was there before the step, so the gradients count.
Liger and TRL take part if they can be imported: pip install liger-kernel trl. Both are compiled or run as their own
trainers run them; a first step, not counted, compiles.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from bench.step import commit, rounded
from limbeck.losses import Linear, cross_entropy, kl, linear_cross_entropy, linear_divergence
from limbeck.signals import Head

SIZES = {"small": (1024, 256, 32000), "large": (4096, 512, 128256)}
WAYS = ("dense", "tiles", "compiled tiles", "liger", "trl", "ce dense", "ce tiles")

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def dense(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    return kl(h @ w.T, th @ tw.T).mean()


def tiles(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    return linear_divergence(kl, Linear(h, Head(w)), Linear(th, Head(tw))).mean()


def ce_dense(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    return cross_entropy(h @ w.T, labels(h, w)).mean()


def ce_tiles(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
    return linear_cross_entropy(Linear(h, Head(w)), labels(h, w)).mean()


def labels(h: Tensor, w: Tensor) -> Tensor:
    return torch.arange(len(h)) % len(w)


def compiled_tiles() -> Step:
    fast = torch.compile(kl, dynamic=False)

    def step(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
        return linear_divergence(fast, Linear(h, Head(w)), Linear(th, Head(tw))).mean()

    return step


def liger() -> Step:
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0)  # KL(teacher || student)

    def step(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
        return loss(h, w, th, tw, torch.zeros(len(h), dtype=torch.long))  # type: ignore[no-any-return]

    return step


def trl() -> Step:
    from trl.trainer.distillation_trainer import _chunked_divergence_loss

    def step(h: Tensor, w: Tensor, th: Tensor, tw: Tensor) -> Tensor:
        mask = torch.ones(1, len(h), dtype=torch.long)
        return _chunked_divergence_loss(h[None], th[None], w, tw, mask, beta=0.0)[0]  # type: ignore[no-any-return]

    return step


def inputs(size: str, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, width, classes = SIZES[size]
    generator = torch.Generator().manual_seed(0)
    h, th = (torch.randn(n, width, generator=generator).to(dtype) for _ in range(2))
    w, tw = (torch.randn(classes, width, generator=generator).mul_(width**-0.5).to(dtype) for _ in range(2))
    return h.requires_grad_(), w.requires_grad_(), th, tw


def resident(which: str) -> int:
    """Bytes, by name in /proc/self/status: VmRSS or its peak VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(which)).split()[1])


def alone(way: str, size: str, dtype: str) -> None:
    """One measurement, as a line of JSON."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    plain = {"dense": dense, "tiles": tiles, "ce dense": ce_dense, "ce tiles": ce_tiles}
    makers = {"compiled tiles": compiled_tiles, "liger": liger, "trl": trl}
    step = makers[way]() if way in makers else plain[way]
    batch = inputs(size, getattr(torch, dtype))
    if way in makers:  # compiles
        step(*batch).backward()
        batch[0].grad = batch[1].grad = None
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start = resident("VmRSS"), time.perf_counter()
    loss = step(*batch)
    loss.backward()
    seconds = time.perf_counter() - start
    assert batch[0].grad is not None
    print(json.dumps({
        "seconds": seconds, "bytes": resident("VmHWM") - before, "loss": float(loss.detach()),
        "gradient": float(batch[0].grad.float().norm()),
    }))  # fmt: skip


def measured(way: str, size: str, dtype: str, threads: int) -> dict[str, float] | None:
    command = [sys.executable, "-m", "bench.linear", "--alone", way, size, dtype]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{way}: {done.stderr.strip().splitlines()[-1] if done.stderr else done.returncode}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])  # type: ignore[no-any-return]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--alone", nargs=3, metavar=("WAY", "SIZE", "DTYPE"), help=argparse.SUPPRESS)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="where the JSON goes")
    args = parser.parse_args()
    if args.alone:
        return alone(*args.alone)
    rows = []
    for size in args.sizes:
        for dtype in args.dtypes:
            turns = [{way: measured(way, size, dtype, args.threads) for way in args.ways} for _ in range(args.turns)]
            for way in args.ways:
                over = "ce dense" if way.startswith("ce") else "dense"
                both = [(turn[way], turn[over]) for turn in turns if turn.get(way) and turn.get(over)]
                if not both:
                    continue
                row = {
                    "way": way, "shape": list(SIZES[size]), "dtype": dtype,
                    "time": statistics.median(mine["seconds"] / plain["seconds"] for mine, plain in both),
                    "memory": statistics.median(mine["bytes"] / plain["bytes"] for mine, plain in both),
                    "seconds": statistics.median(mine["seconds"] for mine, _ in both),
                    "mib": statistics.median(mine["bytes"] for mine, _ in both) / 2**20,
                    "turns": len(both), "loss": both[0][0]["loss"], "gradient": both[0][0]["gradient"],
                }  # fmt: skip
                rows.append(row)
                print(f"{size:6} {dtype:9} {way:15} time {row['time']:5.2f}  memory {row['memory']:6.3f}", flush=True)
    result = {
        "what": "one step of KL between two heads, over the same with all logits at once; Linux, CPU",
        "commit": commit(),
        "torch": torch.__version__,
        "machine": f"{os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "threads": args.threads,
        "turns": args.turns,
        "load": os.getloadavg()[0],
        "rows": rows,
    }
    if args.out:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        from limbeck.experiment import write_whole  # not for the processes that are measured

        write_whole(args.out, json.dumps(rounded(result), indent=1) + "\n")
    return None


if __name__ == "__main__":
    main()
