"""What a teacher record costs and saves: step time, bytes, error, decoding, memory, loading, kills.

    python bench/record.py [--only step size ...] [--distillkit FOLDER]

Writes bench/results/record.json and docs/images/record.svg. With a checkout of arcee-ai/DistillKit (only its
compression package is imported) the two are measured side by side; without, its row is left out.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import limbeck
from bench.step import ALPHA, BATCH, TAU, commit, examples, measure, net, ratio, rounded, with_limbeck
from limbeck import CE, AdamW, Cosine, Run
from limbeck.data import Data
from limbeck.data.select import subset
from limbeck.data.text import BPE, Tokens, python_source
from limbeck.data.views import Crop
from limbeck.models.gpt import GPT
from limbeck.records import Cached, Dense, Encoding, Quantised, Record, Sampled, TopK
from limbeck.records.inspect import of_logits

HERE = Path(__file__).parent
RESULT, PICTURE = HERE / "results/record.json", HERE.parent / "docs/images/record.svg"
VOCABULARY, REAL = 128_256, 32_768
STUDENT, TEACHERS = 16, (46,)  # base widths: 8 times the multiplications


# ---- a step ---------------------------------------------------------------------------------------------------------


def step(args: argparse.Namespace) -> dict[str, Any]:
    """A KD step from a record, a plain supervised one, and a KD step with the teacher running."""
    x, y = examples(10_000)
    teachers, kd = {width: net(width) for width in TEACHERS}, limbeck.kd(tau=TAU, alpha=ALPHA)
    with tempfile.TemporaryDirectory() as place:
        for encoding in ("fp32", "topk=10"):
            Record.capture(
                Path(place) / encoding, teachers[TEACHERS[0]], (x, y), signals={".logits": encoding}, device="cpu"
            )
        turns = {
            "supervised": with_limbeck(limbeck.supervised(), net(STUDENT), None, x, y),
            **{f"online/{width}": with_limbeck(kd, net(STUDENT), each, x, y) for width, each in teachers.items()},
            **{f"forward/{width}": forward(net(width), x) for width in (STUDENT, *TEACHERS)},
            "record/fp32": with_limbeck(kd, net(STUDENT), Cached(Path(place) / "fp32"), x, y),
            "record/topk=10": with_limbeck(kd, net(STUDENT), Cached(Path(place) / "topk=10"), x, y),
        }
        medians = measure(turns, args.repetitions, 20)
    result: dict[str, Any] = {
        "what": f"ms per step, batch {BATCH} of 1x28x28, 100 classes, 1 thread",
        "teacher_over_student": {
            str(width): {
                "flops": flops(net(width)) / flops(net(STUDENT)),
                "forward_cpu": statistics.median(ratio(medians["cpu"], f"forward/{width}", f"forward/{STUDENT}")),
            }
            for width in TEACHERS
        },
        "medians": medians,
        "ratios": [],
    }
    for stored in ("record/fp32", "record/topk=10"):
        for under, limit in (("supervised", 1.05), *((f"online/{width}", 0.35) for width in TEACHERS)):
            cpu, wall = (ratio(medians[clock], stored, under) for clock in ("cpu", "wall"))
            row = {"of": stored, "over": under, "limit": limit, "cpu": statistics.median(cpu), "cpu_each": cpu}
            result["ratios"].append(row | {"wall": statistics.median(wall)})
    return result


def forward(model: torch.nn.Module, x: Tensor) -> Iterator[None]:
    """With each `next`, a batch through the model as a teacher runs."""
    model.eval()
    while True:
        for images in x.split(BATCH):
            with torch.inference_mode():
                model(images.float() / 255)
            yield


def flops(model: torch.nn.Module) -> int:
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, 28, 28))
    return counter.get_total_flops()


# ---- decoding -------------------------------------------------------------------------------------------------------


def decode(args: argparse.Namespace) -> dict[str, Any]:
    """Microseconds per token to get ids and log-probabilities back, top-50 of the vocabulary, taking turns."""
    tokens = 512
    logits = zipf(tokens, VOCABULARY)
    jobs: dict[str, Callable[[], object]] = {}
    for encoding in (Quantised(50), TopK(50)):
        rows = as_rows(encoding, logits)
        jobs[repr(encoding)] = lambda e=encoding, r=rows: e.sparse(r, VOCABULARY)  # type: ignore[misc]
    rows = as_rows(Quantised(50), logits)
    jobs["Quantised(k=50) as dense logits"] = lambda: Quantised(50).decode(rows, VOCABULARY)
    theirs = distillkit(args.distillkit, VOCABULARY)
    if theirs is not None:
        kit = theirs["114"]
        packed = kit.compress(logits.float().log_softmax(-1)[:64])
        packed = {name: each.repeat(tokens // 64, 1) for name, each in packed.items()}
        jobs["DistillKit, k=50"] = lambda: kit.decompress_to_sparse(packed)
    micros: dict[str, list[float]] = {name: [] for name in jobs}
    order = list(jobs)
    for turn in range(12):
        random.Random(turn).shuffle(order)
        for name in order:
            started = time.process_time()
            jobs[name]()
            micros[name].append((time.process_time() - started) * 1e6 / tokens)
    found = {name: statistics.median(each[2:]) for name, each in micros.items()}
    return {"what": "CPU microseconds per token, 1 thread, 512 tokens at once", "published": 57.0, "median": found}


# ---- size and error -------------------------------------------------------------------------------------------------


def zipf(rows: int, classes: int, seed: int = 0) -> Tensor:
    """Synthetic logits: probabilities fall as (rank + 1)^-s, s of a row uniform in [1.2, 2.5], with normal noise of
    0.3, the ranks in an order of their own."""
    generator = torch.Generator().manual_seed(seed)
    slopes = 1.2 + 1.3 * torch.rand(rows, 1, generator=generator)
    logits = -slopes * torch.arange(2, classes + 2).log() + 0.3 * torch.randn(rows, classes, generator=generator)
    return torch.stack([row[torch.randperm(classes, generator=generator)] for row in logits])


def as_rows(encoding: Encoding, logits: Tensor) -> dict[str, Any]:
    u = torch.rand(len(logits), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return encoding.encode(logits, u)


def row_bytes(encoding: Encoding, width: int) -> int:
    return sum(np.dtype(kind).itemsize * count for kind, count in encoding.fields(width).values())


ENCODINGS: dict[str, list[Encoding]] = {
    "dense": [Dense("fp32"), Dense("fp16"), Dense("bf16")],
    "top-k, fp16": [TopK(k) for k in (10, 20, 50, 128, 512)],
    "quantised, 4 bits": [Quantised(k, bits=4) for k in (10, 20, 35, 50, 100, 128, 256, 512)],
    "quantised, 6 bits": [Quantised(k, bits=6) for k in (10, 20, 35, 47, 100, 128, 143, 256, 512)],
    "quantised, 8 bits": [Quantised(k, bits=8) for k in (10, 20, 42, 64, 100, 128, 256, 512)],
    "sampled": [Sampled(k) for k in (12, 25, 50, 100, 250, 500, 1000)],
}


def sizes(logits: Tensor, kit: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Bytes per row, and the error against these logits (n, classes), of each encoding.

    Sampled rows are judged by their gradient only: the KL of an estimate with empty classes is not finite.
    """
    found = []
    for family, encodings in ENCODINGS.items():
        for encoding in encodings:
            read = encoding.decode(as_rows(encoding, logits), logits.shape[1])
            row = {"family": family, "encoding": repr(encoding), "bytes": row_bytes(encoding, logits.shape[1])}
            found.append(row | errors(logits, read, kl=family != "sampled"))
    for name, compressor in (kit or {}).items():
        log_p = logits.float().log_softmax(-1)
        ids, values = compressor.decompress_to_sparse(compressor.compress(log_p))
        rest = (1 - values.exp().sum(-1)).clamp(min=1e-6)
        tail = (rest / (logits.shape[1] - values.shape[1])).log()
        read = tail[:, None].repeat(1, logits.shape[1]).scatter_(1, ids, values.float())
        row = {"family": "DistillKit", "encoding": name, "bytes": compressor.config.total_bits() // 8}
        found.append(row | errors(logits, read, kl=True))
    return found


def errors(logits: Tensor, read: Tensor, *, kl: bool) -> dict[str, float]:
    """As the record's own error, and the size of the gradient's error as a share of the gradient."""
    found = of_logits(logits, read)
    p, q = logits.double().softmax(-1), read.double().softmax(-1)
    noise = torch.randn(logits.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    size = ((logits.double() + noise).softmax(-1) - p).norm(dim=-1)
    found["gradient_error"] = float(((p - q).norm(dim=-1) / size).mean())
    return found if kl else {name: value for name, value in found.items() if name != "kl"}


def distillkit(folder: Path | None, vocabulary: int) -> dict[str, Any] | None:
    """Its two published budgets, and the same with the setting that its own tests use (normalize_t)."""
    if folder is None:
        return None
    sys.path.insert(0, str(folder))
    from distillkit.compression.compressor import LogprobCompressor
    from distillkit.compression.config import DistributionQuantizationConfig as Config

    common = {"d": vocabulary, "exact_dtype": "bfloat16", "term_dtype": "float32", "residual_bins": [],
              "delta_encoding": False, "error_diffusion": False}  # fmt: skip
    budgets = {
        "114": {"k": 50, "exact_k": 1, "polynomial_terms": [0, 1, "sqrt"]},
        "328": {"k": 128, "exact_k": 16, "polynomial_terms": [0, 1, 2, 3, 4, "sqrt"]},
    }
    return {
        name + (", normalize_t" if t else ""): LogprobCompressor(Config(**common, **budget, normalize_t=t))
        for name, budget in budgets.items()
        for t in (False, True)
    }


def real() -> Tensor:
    """(32, REAL) logits of a small language model of ours in held-out files; trained here in 5 minutes."""
    texts, unseen = python_source()
    tokenizer = BPE.train(texts, REAL)
    data, test = (Tokens.packed(part, tokenizer, 64) for part in (texts, unseen))
    torch.manual_seed(0)
    model = GPT(tokenizer.vocab_size, width=128, depth=2, heads=4)
    few = subset(data, torch.randperm(data.num_examples)[: 16 * 300])
    Run(student=model, data=few, method=CE(), epochs=1, batch_size=16, optimizer=AdamW(Cosine(2e-3)), clip=1.0,
        accelerator="cpu").fit()  # fmt: skip
    ids = test.x["input_ids"][torch.randperm(test.num_examples)[:32]]
    with torch.no_grad():
        return model.eval()(ids).logits[:, -1]


def size(args: argparse.Namespace) -> dict[str, Any]:
    language = sizes(zipf(32, VOCABULARY).double(), distillkit(args.distillkit, VOCABULARY))
    logits = real().double()
    spoken = sizes(logits, distillkit(args.distillkit, logits.shape[1]))
    images = [
        {"encoding": repr(encoding), "bytes_with_seed": 4 + row_bytes(encoding, 1000)}
        for encoding in (TopK(10), Quantised(10), Quantised(10, bits=4))
    ]
    draw({f"synthetic logits, vocabulary {VOCABULARY:,}": language,
          f"a language model of ours, vocabulary {logits.shape[1]:,}": spoken})  # fmt: skip
    return {
        "what": f"32 rows each of synthetic Zipf logits, vocabulary {VOCABULARY}, and of a language model of ours, "
        f"vocabulary {logits.shape[1]}",
        "rows": language,
        "real": spoken,
        "images": images,
    }


def draw(sources: dict[str, list[dict[str, Any]]]) -> None:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams["svg.hashsalt"] = "limbeck"
    figure, panels = plt.subplots(len(sources), 2, figsize=(10, 4 * len(sources)), layout="constrained")
    measures = ("kl", "KL to dense, nats"), ("gradient_error", "error of the gradient, relative")
    for (source, rows), line in zip(sources.items(), panels, strict=True):
        for panel, (key, label) in zip(line, measures, strict=True):
            for family in dict.fromkeys(row["family"] for row in rows):
                points = [(row["bytes"], row[key]) for row in rows if row["family"] == family and row.get(key, 0) > 0]
                if points:
                    own = family != "DistillKit"
                    panel.plot(*zip(*sorted(points), strict=True), "o-" if own else "kx", label=family, markersize=4)
            panel.set(xscale="log", yscale="log", xlabel="bytes per token", ylabel=label, title=source)
            panel.title.set_fontsize(9)
            panel.grid(alpha=0.3)
    panels[0, 1].legend(fontsize=8)  # the left panels have no sampled records
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, metadata={"Date": None})


# ---- memory ---------------------------------------------------------------------------------------------------------


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """What reading random rows of a 10 GB record adds to a process; its files are sparse, so no disk is needed."""
    with tempfile.TemporaryDirectory() as place:
        made = Record.capture(place, torch.nn.Linear(4, 1000), torch.rand(8, 4), signals={".logits": "topk=25"})
        block = 1 << 19
        shard = block * made.row_bytes
        count = math.ceil(10e9 / shard)
        crc = 0
        for _ in range(shard // (1 << 20)):
            crc = zlib.crc32(bytes(1 << 20), crc)
        next(Path(place).glob("*.shard")).unlink()
        made.header |= {"block": block, "data": {"examples": block * count, "sha256": None}}
        made.shards = {}
        for each in made.expected():
            with open(Path(place) / each.file, "wb") as file:
                file.truncate(shard)
            made.shards[each.file] = {"bytes": shard, "crc32": crc}
        made.save()
        code = f"""
import json, time, torch
from limbeck.models.gpt import GPT
from limbeck.records import Cached
def resident(key):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) / 1e3 for line in lines if line.startswith(key))
torch.rand(256, 256) @ torch.rand(256, 256)
cached, before = Cached({place!r}), resident("VmRSS")
generator, seconds = torch.Generator().manual_seed(0), []
for step in range(400):
    started = time.perf_counter()
    cached(None, "x", torch.randint(cached.record.examples, (256,), generator=generator))
    seconds.append(time.perf_counter() - started)
seconds = sorted(seconds[200:])
print(json.dumps({{"before_mb": before, "peak_mb": resident("VmHWM"), "ms_per_256_rows": 1e3 * seconds[100]}}))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    found["added_mb"] = found["peak_mb"] - found["before_mb"]
    return {"what": f"{count} shards, {count * shard / 1e9:.2f} GB, 400 batches of 256 random rows", **found}


# ---- loading --------------------------------------------------------------------------------------------------------


def loader(args: argparse.Namespace) -> dict[str, Any]:
    """Batches of `Data`, over plain indexing of the same tensors, and of the same in a memory-mapped file."""
    x, y = examples(60_000)
    with tempfile.TemporaryDirectory() as place:
        np.save(Path(place) / "x.npy", x.numpy())
        mapped = torch.from_numpy(np.load(Path(place) / "x.npy", mmap_mode="c"))
        shares = {}
        for name, source in (("memory", x), ("mapped", mapped)):
            data, ids = Data(source, y), torch.randperm(60_000).split(BATCH)[:200]

            def plain(source: Tensor = source, ids: Any = ids) -> None:
                for index in ids:
                    source[index].float().div_(255), y[index]

            def ours(data: Data = data, ids: Any = ids) -> None:
                for batch in data.batches(ids):
                    batch.view("x")

            each = []
            for turn in range(11):
                seconds = {}
                for job in (plain, ours) if turn % 2 else (ours, plain):
                    started = time.process_time()
                    job()
                    seconds[job.__name__] = time.process_time() - started
                each.append(seconds["plain"] / seconds["ours"])
            shares[name] = {"speed": statistics.median(each[1:]), "each": each[1:]}
    return {"what": "share of plain indexing's speed, batches of 128 byte images to floats", "limit": 0.9, **shares}


# ---- kills ----------------------------------------------------------------------------------------------------------


def kills(args: argparse.Namespace) -> dict[str, Any]:
    """Captures killed by SIGKILL at random times and gone on with, until there were 100; each end against an
    undisturbed record, file by file."""
    x = torch.rand(3000, 1, 28, 28)
    data, teacher = Data(x, views={"x": Crop(2)}), net(4)

    def capture(folder: Path) -> None:
        Record.capture(folder, teacher, data, signals={".logits": "quantised=10", ".embedding": "fp16"},
                       views={"x": 4}, block=100, batch_size=50, device="cpu", command="again")  # fmt: skip

    dice, killed, ended, unequal = random.Random(0), 0, 0, 0
    with tempfile.TemporaryDirectory() as place:
        started = time.perf_counter()
        capture(Path(place) / "whole")
        seconds = time.perf_counter() - started
        whole = contents(Path(place) / "whole")
        while killed < 100:
            folder = Path(place) / str(ended)
            status = None
            while status != 0:
                child = os.fork()
                if child == 0:
                    try:
                        capture(folder)
                    finally:
                        os._exit(0 if folder.exists() and not Record.open(folder).missing() else 1)
                time.sleep(dice.uniform(0, 0.6 * seconds))
                os.kill(child, signal.SIGKILL)
                status = os.waitpid(child, 0)[1]
                killed += status != 0
                assert status in (0, signal.SIGKILL), status
            ended += 1
            unequal += contents(folder) != whole
    return {"kills": killed, "records_finished": ended, "unequal": unequal, "undisturbed_seconds": seconds}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


PARTS = {each.__name__: each for each in (step, decode, size, memory, loader, kills)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--distillkit", type=Path, help="a checkout of arcee-ai/DistillKit")
    parser.add_argument("--repetitions", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    result = json.loads(RESULT.read_text()) if RESULT.exists() else {}
    for name in args.only:
        result[name] = rounded(PARTS[name](args)) | {"commit": commit(), "load": round(os.getloadavg()[0], 1)}
        result["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, torch {torch.__version__}"
        RESULT.write_text(json.dumps(result, indent=1) + "\n")
        print(json.dumps({name: result[name]}, indent=1), flush=True)


if __name__ == "__main__":
    main()
