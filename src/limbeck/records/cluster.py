"""A capture by the nodes of a Ray cluster: its parts are rows of a Ray Data set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from limbeck.data import Data
from limbeck.errors import LimbeckError, RecordError
from limbeck.records.capture import Watch, capture
from limbeck.records.format import Record


def spread(
    record: Record,
    teacher: Any,
    data: Data,
    parts: int,
    watch: Watch,
    settings: Mapping[str, Any],
) -> Record:
    """Capture a record that is begun in so many parts, one after the other on each CPU of the cluster, or each GPU.

    It is the cluster that this process is connected to, or RAY_ADDRESS names, else this machine. Its nodes must see the
    record's folder. What a node lost, Ray gives to another. Raises RecordError with what a part's capture raised.
    """
    import ray
    import ray.data

    if isinstance(teacher, nn.Module):
        teacher.cpu()  # a node may have no GPU
    shared = ray.put((record.path.absolute(), teacher, data))

    def write(row: dict[str, Any]) -> dict[str, Any]:
        path, teacher, data = ray.get(shared)
        try:
            capture(path, teacher, data, part=(int(row["id"]), parts), **settings)
        except LimbeckError as error:  # raised, it would come back without its words
            return {**row, "error": error.args[0]}
        return {**row, "error": ""}

    gpus = 0 if str(settings["device"]) == "cpu" else min(1, ray.cluster_resources().get("GPU", 0))
    ray.data.DataContext.get_current().enable_progress_bars = False  # ours is enough
    shards, written = list(record.expected()), set()
    for row in ray.data.range(parts, override_num_blocks=parts).map(write, num_gpus=gpus).iter_rows():
        if row["error"]:
            raise RecordError(row["error"])
        written.add(row["id"])
        done = sum(shard.rows for number, shard in enumerate(shards) if number % parts in written)
        watch(done, sum(shard.rows for shard in shards))
    return Record.open(record.path)
