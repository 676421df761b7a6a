"""Curves of kernels: what is measured, what is filled in, what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fullbore.perf.measure import curves, families, probe, proc, reference
from fullbore.perf.measure.families import Family, Operand
from fullbore.perf.model import kernels
from fullbore.perf.model.kernels import Device, Seconds
from fullbore.spec.curves import Curve, Curves
from fullbore.spec.hardware import Ceilings


def family(flops: float = 1.0, seen: list[Tensor] | None = None) -> Family:
    def call(x: Tensor, y: Tensor) -> Tensor:
        if seen is not None:
            seen.append(x)
        return x + y

    def operands(rows: int, columns: int) -> tuple[Operand, ...]:
        return (Operand((rows, columns)),) * 2

    return Family("add", "fp32", ((8.0, 64.0), (16.0, 256.0)), operands, call, lambda *s: flops * prod(s))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_SECONDS", 1e-4)
    monkeypatch.setattr(curves, "_ARENA_BYTES", 2**20)
    monkeypatch.setattr(curves, "families", lambda: iter([family()]))


@pytest.mark.usefixtures("few")
def test_each_family_is_measured_for_one_thread_and_for_all() -> None:
    found = curves.measure(2)
    assert set(found) == {"add/fp32/1", "add/fp32/2"}
    assert all(len(curve.seconds) == 4 and min(curve.seconds) > 0 for curve in found.values())
    assert found["add/fp32/1"].at((64, 256)) == pytest.approx(found["add/fp32/1"].seconds[-1])


@pytest.mark.usefixtures("few")
def test_passes_among_neighbours_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curves, "_seconds", lambda *_: next(times))
    monkeypatch.setattr(proc.Neighbours, "cores", lambda _: next(busy))
    times = iter([4.0] * 4 + [3.0] * 4 + [2.0] * 4 + [1.0] * 4)
    busy: Iterator[float] = iter([9.0, 0.0, 0.0])
    found = curves.measure(1)
    assert found["add/fp32/1"].seconds == (2.0,) * 4 and next(times) == 1.0, "two calm passes were enough"
    times = iter([4.0] * 4 + [3.0] * 4 + [2.0] * 4 + [1.0] * 4)
    busy = iter([9.0] * 4)
    assert curves.measure(1)["add/fp32/1"].seconds == (1.0,) * 4, "there is an end to it"


def test_operands_take_turns_so_that_they_are_not_in_the_cache() -> None:
    seen: list[Tensor] = []
    curves._seconds(family(seen=seen), (64.0, 256.0), curves._Arena())
    assert len({x.data_ptr() for x in seen}) == min(len(seen), curves._COPIES) > 1


def test_what_costs_too_much_has_the_rate_of_the_points_below() -> None:
    large = family(flops=curves._FLOPS / (8 * 256))
    assert list(curves._affordable(large)) == [(8.0, 16.0), (8.0, 256.0), (64.0, 16.0)]
    table = {(8.0, 16.0): 1.0, (8.0, 256.0): 10.0, (64.0, 16.0): 5.0}
    assert curves._filled(large, table) == (1.0, 10.0, 5.0, 80.0)


def test_every_family_can_be_called_and_says_what_it_is() -> None:
    arena, names = curves._Arena(), set[str]()
    with curves.exact(), torch.no_grad():
        for item in families.families():
            smallest = tuple(axis[0] for axis in item.axes)
            operands = arena.ring(item.operands(*map(int, smallest)))[0]
            item.call(*operands)
            names.add(f"{item.name}/{item.dtype}")
    assert {"map/fp32", "map/bf16", "product.NT/bf16", "convolution2.weight/fp32", "adamw/fp32"} <= names


def test_reproducible_kernels_are_asked_for_and_then_no_more() -> None:
    before = torch.get_deterministic_debug_mode()
    with curves.exact():
        assert torch.get_deterministic_debug_mode() == 2
    assert torch.get_deterministic_debug_mode() == before


def test_launching_and_what_a_network_adds_are_found_from_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    flat = {
        f"{name}/{dtype}/{threads}": Curve(((1.0, 1e12),), (1e-5, 2e-5))
        for name in ("map",)
        for dtype in ("fp32", "bf16")
        for threads in (1, 2)
    }
    true = Curves("here", flat, {
        f"{way}/{dtype}/{threads}": seconds
        for way, seconds in (("forward", 3e-6), ("backward", 2e-6))
        for dtype in ("fp32", "bf16")
        for threads in (1, 2)
    }, {
        f"{dtype}/{threads}": 1.25 for dtype in ("fp32", "bf16") for threads in (1, 2)})  # fmt: skip

    def taken(item: reference.Reference, precision: str) -> Seconds:
        traced = reference.trace(item.network, item.task, item.sizes).launches[precision]
        return kernels.seconds(traced, Device(true, precision, torch.get_num_threads()), item.samples)

    monkeypatch.setattr(reference, "_taken", taken)
    monkeypatch.setattr(reference, "_TURNS", 1)
    monkeypatch.setattr(reference, "_ROUNDS", 60)
    threads = torch.get_num_threads()
    found = reference.fitted(flat, 2, "here")
    torch.set_num_threads(threads)
    for key in true.launching:
        assert found.launching[key] == pytest.approx(true.launching[key], rel=0.3)
    for key in true.sustained:
        assert found.sustained[key] == pytest.approx(1.25, rel=0.1)


def test_the_probe_keeps_curves_and_a_run_does_not_wait_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    plain = Ceilings("", "now", {"fp32": {1: 1e9}}, 1e9, 1e9, 1e9, disk_device=probe._device(tmp_path))
    monkeypatch.setattr(probe, "_measure", lambda host, folder: replace(plain, fingerprint=host.fingerprint))
    monkeypatch.setattr(curves, "measure", lambda cores: {"map/fp32/1": Curve(((1.0, 2.0),), (1.0, 2.0))})
    monkeypatch.setattr(reference, "fitted", lambda found, cores, source: Curves(source, found))
    assert probe.probe(folder=tmp_path).curves is None
    measured = probe.probe(folder=tmp_path, kernels=True)
    assert measured.curves is not None and "measured on this host" in measured.curves.source
    assert probe.probe(folder=tmp_path).curves == measured.curves
    assert measured.basis == measured.fingerprint + "+kernels" != replace(measured, curves=None).basis
    assert Ceilings.from_json(json.loads(json.dumps(measured.to_json()))) == measured
    monkeypatch.setattr(curves, "measure", lambda cores: pytest.fail("they are known"))
    probe.probe(folder=tmp_path, kernels=True)
