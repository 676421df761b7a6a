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
from fullbore.perf.measure import probe
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


def test_probe_measures_everything_keeps_it_and_leaves_no_trace(tmp_path: Path) -> None:
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


def test_a_torn_or_foreign_cache_is_measured_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_MATMUL_SECONDS", 0.01)
    good = probe.probe(folder=tmp_path)
    cache = machine_cache() / f"ceilings-{good.fingerprint}.json"
    whole = cache.read_text()
    for damaged in (whole[: len(whole) // 2], "[]", json.dumps({**json.loads(whole), "fingerprint": "another"})):
        cache.write_text(damaged)
        assert probe.probe(folder=tmp_path).fingerprint == good.fingerprint
        assert Ceilings.from_json(json.loads(cache.read_text())).fingerprint == good.fingerprint


def test_an_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot measure the disk in .*file: "):
        probe._disk(tmp_path / "file")


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


def test_neighbours_do_not_lower_what_the_cores_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = lambda: (sum(range(20_000)), time.sleep(0.05))  # noqa: E731
    monkeypatch.setattr(probe, "_others", lambda *readings: 2.0)
    assert probe._best_seconds(waits, 0.0) < 0.05
    monkeypatch.setattr(probe, "_others", lambda *readings: 0.0)
    assert probe._best_seconds(waits, 0.0) >= 0.05
