from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fullbore.base.errors import InputError
from fullbore.base.paths import machine_cache
from fullbore.perf.measure import probe, proc
from fullbore.spec.hardware import Ceilings


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_machine_is_stable_and_follows_what_limits_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one = probe.machine()
    assert one == probe.machine()
    assert one.cores >= 1 and one.memory_bytes > 2**28 and one.torch == torch.__version__
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert probe.machine().fingerprint != one.fingerprint


def test_machine_imports_no_torch() -> None:
    code = "import sys; from fullbore.perf.measure.probe import machine; machine(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_probe_measures_everything_keeps_it_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_calm", lambda cores: False)
    work = tmp_path / "work"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        ceilings = probe.probe(folder=work)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert {"fp32", "bf16"} <= set(ceilings.matmul_flops)
    assert all(rate > 1e8 for rates in ceilings.matmul_flops.values() for rate in rates.values())
    assert ceilings.memory_bandwidth > 1e8 and ceilings.disk_write > 0 and ceilings.disk_read > 0
    assert ceilings.jpeg_decode and ceilings.tokenise
    assert list(work.iterdir()) == []
    assert probe.probe(folder=tmp_path / "elsewhere") == ceilings, "the second time it is read, not measured"
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.slow
def test_a_torn_or_foreign_cache_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_MATMUL_SECONDS", 0.01)
    good = probe.probe(folder=tmp_path)
    cache = machine_cache() / f"ceilings-{good.fingerprint}.json"
    whole = cache.read_text()
    for damaged in (whole[: len(whole) // 2], "[]", json.dumps({**json.loads(whole), "fingerprint": "another"})):
        cache.write_text(damaged)
        assert probe.probe(folder=tmp_path).fingerprint == good.fingerprint
        assert Ceilings.from_json(json.loads(cache.read_text())).fingerprint == good.fingerprint


def test_only_another_disk_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = probe.probe(folder=tmp_path)
    monkeypatch.setattr(probe, "_measure", lambda host, folder: pytest.fail("all of it is known"))
    monkeypatch.setattr(probe, "_calm", lambda cores: False)
    assert probe.probe(folder=tmp_path / "not" / "there") == known
    memory = Path("/dev/shm")
    other = probe.probe(folder=memory)
    assert other.disk_device == memory.stat().st_dev != known.disk_device and other.disk_write != known.disk_write
    assert other == replace(
        known, disk_device=other.disk_device, disk_write=other.disk_write, disk_read=other.disk_read
    )


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot measure the disk in .*file: "):
        probe._disk(tmp_path / "file")


@pytest.mark.slow
def test_what_neighbours_disturbed_is_measured_again_when_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_MATMUL_SECONDS", 0.01)
    good = probe.probe(folder=tmp_path)
    cache = machine_cache() / f"ceilings-{good.fingerprint}.json"
    disturbed = replace(good, memory_bandwidth=1.0, tokenise=1e12, notes=("other processes used 1.5 of 2 cores",))
    cache.write_text(json.dumps(disturbed.to_json()))
    monkeypatch.setattr(probe, "_calm", lambda cores: False)
    assert probe.probe(folder=tmp_path) == disturbed, "measuring again now would tell no more"
    monkeypatch.setattr(probe, "_calm", lambda cores: True)
    again = probe.probe(folder=tmp_path)
    assert again.memory_bandwidth > 1.0 and again.tokenise == 1e12, "the higher of the two"


def test_a_disturbed_measurement_is_repeated_and_noted_if_it_stays_so(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[float] = []
    monkeypatch.setattr(proc.Neighbours, "cores", lambda _: used.pop(0))
    monkeypatch.setattr(probe, "_OWN_SHARE", 0.0)
    busy = lambda: sum(range(20_000))  # noqa: E731
    for seen, noted, left in (([0.0, 9.0], [], 1), ([2.0, 0.0, 9.0], [], 1), ([2.0, 2.0, 2.0, 9.0], ["sums"], 1)):
        used[:] = seen
        disturbed: list[str] = []
        assert probe._best_seconds(busy, 0.01, "sums", disturbed) < 0.1
        assert (disturbed, len(used)) == (noted, left)


def test_a_thread_that_waited_for_a_core_was_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc.Neighbours, "cores", lambda _: 0.0)
    disturbed: list[str] = []
    probe._best_seconds(lambda: time.sleep(0.01), 0.02, "sleep", disturbed)
    assert disturbed == ["sleep"]


def test_two_cores_are_not_believed_to_be_slower_than_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_best_seconds", lambda call, limit, name, disturbed, threads=1: float(threads))
    assert probe._rates("int8", "int8 products", lambda: None, 1e9, 2, []) == {"int8": {1: 1e9, 2: 1e9}}
    known = Ceilings("host", "now", {"int8": {1: 9.0, 2: 1.0}}, 1.0, 1.0, 1.0, convolution_flops={"int8": {2: 11.0}})
    assert known.peak("int8", 1) == 11 and known.peak("int8", 2) == 11
    assert known.rate("matmul", "int8", 2) == 9 and known.rate("convolution", "int8", 1) == 11
    assert Ceilings.from_json(json.loads(json.dumps(known.to_json()))) == known
