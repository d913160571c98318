"""A record written by a Ray cluster of two nodes is the one that one process writes."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from torch import Tensor

from limbeck import Data
from limbeck.data.views import Crop
from limbeck.errors import DataError, RecordError
from limbeck.records import Record
from tests.records.small import contents, data, record

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'limbeck[ray]'")

SETTINGS: dict[str, Any] = {
    "signals": {".logits": "sampled=3/t=0.5", "layer3": "bf16"},
    "views": {"x": 3},
    "block": 20,
}


@pytest.fixture(scope="module")
def nodes() -> Iterator[set[str]]:
    """The ids of two nodes with a CPU each."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        cluster.add_node(num_cpus=1)
        patch.setenv("RAY_ADDRESS", cluster.address)
        ray.init(log_to_driver=False)
        yield {node["NodeID"] for node in ray.nodes()}
        ray.shutdown()
        cluster.shutdown()


class Watched:
    """A random crop that tells in which process it is made, if that is not this one."""

    def __init__(self, told: Callable[[], object] = lambda: None) -> None:
        self.told, self.home = told, os.getpid()

    def __call__(self, x: Any, draw: Any) -> Tensor:
        if os.getpid() != self.home:
            self.told()
        return Crop(1)(x, draw)


def source(told: Callable[[], object] = lambda: None) -> Data:
    return data(Watched(told))


@pytest.fixture
def whole(tmp_path: Path) -> dict[str, bytes]:
    record(tmp_path / "whole", source(), **SETTINGS)
    return contents(tmp_path / "whole")


def test_two_nodes_write_what_one_process_writes(nodes: set[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    seen: list[tuple[int, int]] = []
    told = lambda: (tmp_path / "seen" / ray.get_runtime_context().get_node_id()).touch()  # noqa: E731
    made = record(tmp_path / "r", source(told), **SETTINGS, ray=5, watch=lambda *rows: seen.append(rows))
    made.verify()
    assert contents(tmp_path / "r") == whole
    assert {path.name for path in (tmp_path / "seen").iterdir()} == nodes
    assert seen[-1] == (192, 192)
    assert len(seen) == 5


def test_a_killed_worker_is_made_up_for(nodes: set[str], whole: dict[str, bytes], tmp_path: Path) -> None:
    def die_once() -> None:
        if len(list((tmp_path / "r").glob("*.shard"))) >= 3 and not (tmp_path / "died").exists():
            (tmp_path / "died").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    record(tmp_path / "r", source(die_once), **SETTINGS, ray=2)
    assert (tmp_path / "died").exists()
    assert contents(tmp_path / "r") == whole


def test_what_a_node_says_is_heard_and_the_rest_goes_on(
    nodes: set[str], whole: dict[str, bytes], tmp_path: Path
) -> None:
    def complain() -> None:
        if list((tmp_path / "r").glob("*.shard")):
            raise DataError("example 40 is broken")

    with pytest.raises(RecordError, match="example 40 is broken"):
        record(tmp_path / "r", source(complain), **SETTINGS, ray=2)
    assert Record.open(tmp_path / "r").missing()
    record(tmp_path / "r", source(), **SETTINGS, ray=2)
    assert contents(tmp_path / "r") == whole


def test_the_command(nodes: set[str], tmp_path: Path) -> None:
    words = ["--teacher=cnn", "--teacher-epochs=1", "--examples=100", "--augment", "--views=x:epochs=4"]
    for more in (["--out=one"], ["--out=two", "--ray=3", "--teacher-weights=one-teacher/teacher.safetensors"]):
        line = [sys.executable, "-m", "limbeck", "record", *words, *more]
        done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
    assert "4 of 4 shards to write" in done.stderr
    one, two = (contents(tmp_path / name) for name in ("one", "two"))
    assert len(one) == 6
    assert {name for name in one if one[name] != two[name]} == {"manifest.json"}, "which holds the command"
