"""A student judged beside its teacher: how good, how faithful, how calibrated, how costly, and how sure we are."""

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from limbeck.data.named import UNLABELLED

__all__ = ["cost", "evaluating", "fidelity", "interval", "paired", "predict", "scores"]

WARM_UP = 3  # untimed forwards before the timed ones: lazy allocations, kernel choice, clock speed

Inputs: TypeAlias = Tensor | Mapping[str, Any] | tuple[Any, ...]


# How good, how faithful ----------------------------------------------------------------------------------------------


def scores(logits: Tensor, y: Tensor, *, bins: int = 15) -> dict[str, float]:
    """How well `logits` (n, c) predict the labels `y` (n,), in float64 (ece: float32) whatever the dtype.

    Rows with y == -1 (unlabelled) are left out.

    Returns:
        accuracy: share of rows whose largest logit is the label's, in [0, 1].
        nll: mean negative log-likelihood in nats, >= 0.
        ece: expected calibration error in [0, 1]: mean distance between confidence and accuracy over `bins` equal bins
            of the confidence, weighted by their rows. NaN if a probability is.

    Raises:
        ValueError: shapes do not fit, a label is not in -1 .. c - 1, or no row is labelled.
    """
    from torchmetrics.functional.classification import multiclass_calibration_error  # lazily: takes 2 s

    if logits.dim() != 2 or y.shape != logits.shape[:1]:
        raise ValueError(f"scores wants logits (n, c) and y (n,), not {tuple(logits.shape)} and {tuple(y.shape)}")
    classes = logits.shape[1]
    y = y.cpu().long()
    labelled = y != UNLABELLED
    if not labelled.any():
        raise ValueError(f"none of the {len(y)} rows is labelled (y == {UNLABELLED} throughout): nothing to score")
    y, log_p = y[labelled], _log_softmax(logits[labelled.to(logits.device)])
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(f"labels must be {UNLABELLED} or 0 .. {classes - 1}, not {y.min()} .. {y.max()}")

    p = log_p.exp().clamp(max=1)  # rounded above 1 they would be taken for logits
    # torchmetrics takes a bin whose mean is NaN for an empty one, and so calls NaNs well calibrated.
    ece = torch.nan if p.isnan().any() else float(multiclass_calibration_error(p, y, classes, n_bins=bins, norm="l1"))
    return {
        "accuracy": float((log_p.argmax(1) == y).double().mean()),
        "nll": float(-log_p.gather(1, y[:, None]).mean()),
        "ece": ece,
    }


def fidelity(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """How closely the logits `student` (n, c) follow the logits `teacher` (n, c), in float64.

    Returns:
        agreement: share of rows with the same top-1 class, in [0, 1].
        kl: mean KL(teacher || student) at temperature 1 in nats, >= 0. Classes that both mask with -inf count as 0.

    Raises:
        ValueError: the shapes differ or are not (n, c).
    """
    if student.shape != teacher.shape or student.dim() != 2:
        raise ValueError(
            f"fidelity wants two tensors (n, c), not student {tuple(student.shape)} and teacher {tuple(teacher.shape)}"
        )
    log_s, log_t = _log_softmax(student), _log_softmax(teacher)
    p = log_t.exp()
    kl = (p * (log_t - log_s)).masked_fill(p == 0, 0).sum(1).mean()  # 0 log 0 = 0
    return {
        "agreement": float((log_s.argmax(1) == log_t.argmax(1)).double().mean()),
        "kl": float(kl.clamp(min=0)),  # equality may round to -1e-17
    }


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.detach().cpu().double().log_softmax(1)  # on the CPU, since mps has no float64


def predict(net: Callable[[Tensor], Any], batches: Iterable[Tensor]) -> Tensor:
    """The logits (n, ...) of `net` on all `batches`, in order, as float32 on the CPU.

    A module is run in eval mode, and every submodule's training flag is restored afterwards.

    Args:
        net: returns a tensor, or an object with `.logits`, whose first dimension is the batch.
        batches: inputs on the net's device.

    Raises:
        ValueError: there is no batch.
        TypeError: the net returns neither.
    """
    logits: list[Tensor] = []
    with evaluating(net):
        for x in batches:
            with torch.inference_mode():  # not around the loop: what the loader makes may be used in training later
                out = net(x)
                out = getattr(out, "logits", out)
            if not isinstance(out, Tensor):
                raise TypeError(f"predict wants a tensor or an object with .logits, but the net gave {type(out)}")
            logits.append(out.to("cpu", torch.float32))
    if not logits:
        raise ValueError("predict was given no batch")
    return torch.cat(logits)  # outside of inference_mode: an ordinary tensor


@contextmanager
def evaluating(*nets: object) -> Iterator[None]:
    """All modules among `nets` in eval mode; then each submodule's own flag again, as some may have been frozen."""
    roots = [net for net in nets if isinstance(net, nn.Module)]
    flags = [(module, module.training) for root in roots for module in root.modules()]
    try:
        for root in roots:
            root.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


# How costly ----------------------------------------------------------------------------------------------------------


def cost(
    nets: Mapping[str, nn.Module], example: Inputs, *, repetitions: int = 15, batch: int = 128
) -> dict[str, dict[str, float]]:
    """What each of `nets` costs at inference, measured in eval mode under inference_mode.

    In every repetition each net takes one turn at batch 1 and one at `batch`, in rotating order, so that the machine's
    drift hits all nets alike. Training flags are restored afterwards, per submodule.

    Args:
        nets: by name; each is timed on its own device.
        example: a batch of one example: a tensor (1, ...), a mapping of such (given as keywords) or a tuple of such
            (given in order). What is no tensor, or has no dimensions, is handed over as it is.
        repetitions: timed turns per net and batch size, >= 1.
        batch: examples in the larger batch, >= 1.

    Returns: per net
        parameters: their count, trainable or not, shared ones once.
        flops: of one example's forward; a multiply-add counts as 2. Matrix products, convolutions and attention
            count, elementwise work does not.
        bytes: size of the weights (parameters and persistent buffers) as a safetensors file.
        latency_ms: milliseconds for a batch of one, median.
        latency_ms_iqr: its interquartile range.
        throughput: examples per second at `batch`, from the median.

    Raises:
        ValueError: a tensor of the example has not exactly one row, or `repetitions` or `batch` is below 1.
    """
    if repetitions < 1 or batch < 1:
        raise ValueError(f"repetitions and batch must be at least 1, not {repetitions} and {batch}")
    turns = [(name, size) for name in nets for size in (1, batch)]
    inputs = {(name, size): _repeat(example, size, _device(nets[name])) for name, size in turns}
    seconds: dict[tuple[str, int], list[float]] = {turn: [] for turn in turns}

    with evaluating(*nets.values()), torch.inference_mode():
        flops = {name: _flops(net, inputs[name, 1]) for name, net in nets.items()}
        for name, size in turns:
            for _ in range(WARM_UP):
                _seconds(nets[name], inputs[name, size])
        for repetition in range(repetitions):
            first = repetition % max(len(turns), 1)
            for name, size in turns[first:] + turns[:first]:
                seconds[name, size].append(_seconds(nets[name], inputs[name, size]))

    table = {}
    for name, net in nets.items():
        low, middle, high = np.quantile(seconds[name, 1], [0.25, 0.5, 0.75])
        table[name] = {
            "parameters": float(sum(p.numel() for p in net.parameters())),
            "flops": float(flops[name]),
            "bytes": float(_file_size(net)),
            "latency_ms": 1000 * float(middle),
            "latency_ms_iqr": 1000 * float(high - low),
            "throughput": batch / statistics.median(seconds[name, batch]),
        }
    return table


def _call(net: nn.Module, x: Inputs) -> object:
    if isinstance(x, Mapping):
        return net(**x)
    return net(*x) if isinstance(x, tuple) else net(x)


def _seconds(net: nn.Module, x: Inputs) -> float:
    device = _device(net)
    synchronise(device)
    start = time.perf_counter()
    _call(net, x)
    synchronise(device)
    return time.perf_counter() - start


def _flops(net: nn.Module, x: Inputs) -> int:
    with _plain_kernels(), FlopCounterMode(display=False) as counter:
        _call(net, x)
    return int(counter.get_total_flops())


@contextmanager
def _plain_kernels() -> Iterator[None]:
    """Without the fused attention, encoder-layer and LSTM kernels, which the counter takes for 0 flops."""
    switches: list[tuple[Callable[[], bool], Callable[[bool], None]]] = [
        (torch.backends.mha.get_fastpath_enabled, torch.backends.mha.set_fastpath_enabled),
        # Not `torch.backends.*.flags`: they touch the TF32 settings too, and raise if those were set per operator.
        (torch._C._get_mkldnn_enabled, torch._C._set_mkldnn_enabled),
        (torch._C._get_cudnn_enabled, torch._C._set_cudnn_enabled),
    ]
    before = [get() for get, _ in switches]
    try:
        for _, put in switches:
            put(False)
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for (_, put), enabled in zip(switches, before, strict=True):
            put(enabled)


def _file_size(net: nn.Module) -> int:
    """Bytes of the file that safetensors' `save_model` writes: of tensors that share all memory, one is stored."""
    tensors: dict[str, Tensor] = {}
    stored: dict[object, str] = {}
    dropped: dict[str, str] = {}  # its metadata: dropped name -> stored name
    for name, tensor in sorted(net.state_dict().items()):
        memory = (tensor.device, tensor.data_ptr(), tensor.nbytes) if tensor.nbytes else name
        if memory in stored:
            dropped[name] = stored[memory]
            continue
        stored[memory] = name
        tensor = tensor.contiguous()
        # safetensors refuses a part of a larger storage (cuDNN's flattened LSTM weights, say) beside other parts.
        whole = tensor.untyped_storage().nbytes() == tensor.nbytes
        tensors[name] = tensor if whole else tensor.clone()
    return len(safetensors.torch.save(tensors, metadata=dropped or None))


def _repeat(example: Inputs, size: int, device: torch.device | None) -> Inputs:
    """The batch of one, `size` times over, on `device` (None: where it is)."""

    def repeat(x: Any) -> Any:
        if not isinstance(x, Tensor):
            return x
        if x.dim() and len(x) != 1:
            raise ValueError(f"cost wants a batch of one example, not a tensor of shape {tuple(x.shape)}")
        x = x.to(device)
        return torch.cat([x] * size) if x.dim() else x

    if isinstance(example, Mapping):
        return {key: repeat(value) for key, value in example.items()}
    if isinstance(example, tuple):
        return tuple(repeat(value) for value in example)
    repeated: Tensor = repeat(example)
    return repeated


def _device(net: nn.Module) -> torch.device | None:
    """Where the net's first parameter or buffer lies; None if it has neither."""
    return next((tensor.device for tensors in (net.parameters(), net.buffers()) for tensor in tensors), None)


def synchronise(device: torch.device | None) -> None:
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "mps":
        torch.mps.synchronize()


# How sure ------------------------------------------------------------------------------------------------------------


def interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """Mean of `values` (one per seed) and its two-sided confidence bounds by Student's t: (mean, low, high).

    One value has no spread: its bounds are NaN.

    Raises:
        ValueError: there is no value, or `level` is not inside (0, 1).
    """
    if not len(values) or not 0 < level < 1:
        raise ValueError(f"interval wants at least one value and 0 < level < 1, not {len(values)} and level={level}")
    mean = statistics.fmean(values)
    if len(values) == 1:
        return mean, torch.nan, torch.nan
    from scipy import stats  # type: ignore[import-untyped]  # lazily: slow to import

    quantile = float(stats.t.ppf((1 + level) / 2, len(values) - 1))
    half = quantile * statistics.stdev(values) / len(values) ** 0.5
    return mean, mean - half, mean + half


def paired(a: Sequence[float], b: Sequence[float], *, level: float = 0.95) -> tuple[float, float, float]:
    """`interval` of the differences a[i] - b[i], for two methods run with the same seeds.

    Raises:
        ValueError: the lengths differ, and as `interval`.
    """
    if len(a) != len(b):
        raise ValueError(f"paired wants two values per seed, not {len(a)} and {len(b)} values")
    return interval([x - y for x, y in zip(a, b, strict=True)], level=level)
