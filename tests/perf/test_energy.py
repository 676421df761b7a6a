"""Joules: counters in a folder like the kernel's, the model where there are none, and sums that equal the whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fullbore.flow import energy as energies
from fullbore.perf.measure import counters, energy, proc
from fullbore.perf.measure.energy import Meter
from fullbore.perf.model.energy import KILOWATT_HOUR, Energy, accelerators, exactly, metered, processor
from fullbore.perf.plan.facts import Facts, gather
from fullbore.record.ledger import Ledger
from fullbore.record.read import events
from fullbore.record.sink import Sink
from fullbore.record.span import Recorder
from fullbore.spec.energy import EnergySection
from fullbore.spec.plan import Prediction
from tests.perf.fit_power import fit, published

RANGE = 262_143_328_850
"""Microjoules at which a package's counter begins again, on many Xeons."""
TOGETHER = {"forward": 12.0, "backward": 24.0, "data wait": 4.0}


def zone(folder: Path, name: str, label: str, microjoules: int, span: int | None = RANGE) -> Path:
    place = folder / name
    place.mkdir(parents=True)
    (place / "name").write_text(f"{label}\n")
    (place / "energy_uj").write_text(f"{microjoules}\n")
    if span is not None:
        (place / "max_energy_range_uj").write_text(f"{span}\n")
    return place / "energy_uj"


@pytest.fixture
def powercap(tmp_path: Path) -> Path:
    """A machine of one package, as Linux shows it."""
    zone(tmp_path, "intel-rapl:0", "package-0", 5_000_000)
    zone(tmp_path, "intel-rapl:0:0", "core", 3_000_000)
    zone(tmp_path, "intel-rapl:0:1", "dram", 1_000_000)
    zone(tmp_path, "intel-rapl:1", "psys", 9_000_000)
    zone(tmp_path, "intel-rapl-mmio:0", "package-0", 5_000_000)
    return tmp_path


def test_package_and_memory_are_counted_once(powercap: Path) -> None:
    meter = Meter(powercap)
    assert meter.names == ("package-0", "package-0 dram") and meter.problems == []
    assert meter.joules() == {"package-0": 0.0, "package-0 dram": 0.0}
    (powercap / "intel-rapl:0" / "energy_uj").write_text("47500000\n")
    (powercap / "intel-rapl:0:1" / "energy_uj").write_text("1250000\n")
    assert meter.joules() == {"package-0": 42.5, "package-0 dram": 0.25}


def test_a_counter_that_begins_again(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    meter = Meter(tmp_path)
    counter.write_text("2000000\n")
    assert meter.joules()["package-0"] == pytest.approx(3.0)
    counter.write_text("5000000\n")
    assert meter.joules()["package-0"] == pytest.approx(6.0)
    counter.write_text("1000000\n")
    assert meter.joules()["package-0"] == pytest.approx(6.0 + RANGE / 1e6 - 4.0)


def test_a_counter_that_begins_again_nobody_knows_when_never_counts_back(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 9_000_000, span=None)
    meter = Meter(tmp_path)
    counter.write_text("1000000\n")
    assert meter.joules()["package-0"] == 0.0
    counter.write_text("4000000\n")
    assert meter.joules()["package-0"] == 3.0
    counter.unlink()
    assert meter.joules()["package-0"] == 3.0


def test_no_counters(tmp_path: Path) -> None:
    meter = Meter(tmp_path / "nothing")
    assert (meter.names, meter.problems, dict(meter.joules())) == ((), [], {})


def test_what_cannot_be_read_is_told(powercap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read everything: the refusal is the kernel's, given by hand."""
    refused = powercap / "intel-rapl:0" / "energy_uj"
    plain = Path.read_text

    def read_text(self: Path, *arguments: Any, **options: Any) -> str:
        if self == refused:
            raise PermissionError(13, "Permission denied", str(self))
        return plain(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read_text)
    (powercap / "intel-rapl:0:1" / "energy_uj").write_text("many\n")
    meter = Meter(powercap)
    assert meter.names == ()
    assert meter.problems == [
        f"{refused}: Permission denied",
        f"{powercap / 'intel-rapl:0:1' / 'energy_uj'}: not a number",
    ]


def test_accelerators_count_where_their_library_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted = {0: 5_000, 1: 7_000}

    def total(handle: int) -> int:
        if handle == 1:
            raise RuntimeError("Not Supported")
        return counted[handle]

    library = SimpleNamespace(
        nvmlInit=lambda: None,
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetTotalEnergyConsumption=total,
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    meter = Meter(tmp_path)
    counted[0] += 2_500
    assert meter.joules() == {"accelerator 0": 2.5}
    assert meter.problems == ["accelerator 1: Not Supported"]


def test_samples_carry_joules(powercap: Path, tmp_path: Path) -> None:
    tree, meter = proc.Tree(0), Meter(powercap)
    before = counters.reading(tree, meter)
    (powercap / "intel-rapl:0" / "energy_uj").write_text("25000000\n")
    found = counters.sample(before, counters.reading(tree, meter), 1.0, 2)
    assert found["joules"] == {"package-0": 20.0, "package-0 dram": 0.0}
    assert "joules" not in counters.sample(counters.reading(tree), counters.reading(tree), 1.0, 2)


def test_a_run_says_which_counters_there_are(powercap: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy.Meter.__init__, "__defaults__", (powercap,))
    recorder = Recorder(Sink(tmp_path / "events.jsonl"))
    with counters.Counters(recorder, interval=60):
        pass
    recorder.close()
    (told,) = events(tmp_path / "events.jsonl", "energy")
    assert told["counters"] == ["package-0", "package-0 dram"] and told["problems"] == []


def told(samples: list[dict[str, Any]], problems: tuple[str, ...] = ()) -> Facts:
    """A run of 40 s: forward, backward, waiting, in four intervals of 10 s, and these samples."""
    share = {state: seconds / 4 for state, seconds in TOGETHER.items()}
    happened: list[dict[str, Any]] = [{"kind": "energy", "counters": [], "problems": list(problems)}]
    happened += [{"kind": "ledger", "begin": at, "end": at + 10, "seconds": share} for at in (0, 10, 20, 30)]
    happened += [{"kind": "resource", "cores": 2, **sample} for sample in samples]
    return gather(Ledger(TOGETHER), happened)


def sums(answer: dict[str, Any]) -> Iterator[float]:
    yield answer["joules"]["value"]
    yield sum(state["joules"] for state in answer["states"].values())
    yield sum(part["joules"]["value"] for part in answer["parts"])


def test_what_was_counted_is_laid_over_the_states_and_nothing_is_lost() -> None:
    samples = [
        {"t": end, "seconds": 8.0, "cpu_self": 1.0, "joules": {"package-0": joules, "package-0 dram": 8.0}}
        for end, joules in ((8, 80.0), (16, 240.0), (24, 160.0), (32, 0.0), (40, 400.0))
    ]
    found = energies.of_run(told(samples), None)
    answer = found.to_json()
    assert answer["source"] == "measured" and answer["joules"]["low"] == answer["joules"]["high"]
    for total in sums(answer):
        assert total == pytest.approx(880.0 + 40.0)
    assert "100.0 % of the time" in answer["parts"][0]["how"]


def test_what_was_not_counted_is_taken_at_the_mean() -> None:
    samples = [{"t": 10, "seconds": 10.0, "cpu_self": 1.0, "joules": {"package-0": 300.0}}]
    answer = energies.of_run(told(samples), None).to_json()
    assert answer["joules"]["value"] == pytest.approx(30.0 * 40)
    assert "25.0 % of the time" in answer["parts"][0]["how"]


def test_accelerators_and_a_processor_that_does_not_count() -> None:
    samples = [{"t": 40, "seconds": 40.0, "cpu_self": 1.0, "joules": {"accelerator 0": 4000.0, "accelerator 1": 400.0}}]
    answer = energies.of_run(told(samples), EnergySection(idle_watts=10, busy_watts=30)).to_json()
    assert answer["source"] == "processor modelled, accelerators measured"
    for total in sums(answer):
        assert total == pytest.approx(4400.0 + 40 * 20.0)


def test_what_has_no_counter_is_modelled_between_two_ends() -> None:
    samples = [{"t": 40, "seconds": 40.0, "cpu_self": 2.0}]
    answer = energies.of_run(told(samples), None).to_json()
    assert answer["source"] == "modelled" and "nobody said" in answer["parts"][0]["how"]
    for total in sums(answer):
        assert total == pytest.approx(2 * 3.64 * 40)
    assert answer["joules"]["low"] == pytest.approx(2 * 1.58 * 40)
    assert answer["joules"]["high"] == pytest.approx(2 * 5.97 * 40)
    refused = energies.of_run(told(samples, ("/sys/energy_uj: Permission denied",)), None).to_json()
    assert "energy_uj: Permission denied" in refused["parts"][0]["how"]


def test_own_watts_are_a_line_between_their_ends() -> None:
    draw = processor({"wait": 0.0, "forward": 1.0, "all": 9.0}, 4, idle_watts=20, busy_watts=100)
    assert [draw.watts[state].value for state in ("wait", "forward", "all")] == [20, 40, 100]
    assert {(watts.low, watts.high) for watts in draw.watts.values()} == {(20, 100)}


def test_money_and_carbon_count_the_building() -> None:
    section = EnergySection(pue=1.5, price_per_kwh=0.2, currency="EUR", carbon_per_kwh=400)
    phases = {"preparing": (900.0, 2.0), "training": (3600.0, 2.0)}
    found = energies.predicted(phases, 2, section, Prediction(50.0, "tokens/s"), "training")
    answer = found.to_json()
    assert answer["joules"]["value"] == pytest.approx(4500 * 7.28)
    hours = 4500 * 7.28 * 1.5 / KILOWATT_HOUR
    assert answer["kilowatt_hours"]["value"] == pytest.approx(hours)
    assert answer["cost"]["value"] == pytest.approx(0.2 * hours)
    assert answer["carbon_grams"]["value"] == pytest.approx(400 * hours)
    assert (answer["unit"], answer["joules_per_unit"]["value"]) == ("token", pytest.approx(7.28 / 50))
    plain = energies.predicted(phases, 2, None).to_json()
    assert (plain["cost"], plain["carbon_grams"], plain["joules_per_unit"]) == (None, None, None)


def test_what_was_told_holds_for_a_longer_ledger() -> None:
    draw = metered("processor", "", {"forward": 50.0, "start": 10.0}, {"forward": 3.0, "start": 1.0})
    assert draw.otherwise == exactly(40.0)
    found = Energy((draw,), {"forward": 3.0, "start": 1.0}, unit="token", count=8.0, training=("forward",))
    again = Energy.from_json(found.to_json(), {"forward": 4.0, "start": 1.0, "report": 2.0})
    assert again == Energy(found.draws, again.seconds, unit="token", count=8.0, training=("forward",))
    assert again.to_json()["joules"]["value"] == 4 * 50 + 10 + 2 * 40
    assert Energy.from_json(found.to_json(), found.seconds).to_json() == found.to_json()


def test_the_curves_of_accelerators_are_those_of_the_published_table() -> None:
    table = published()
    assert sum(map(len, table.values())) == 1609 and set(table) == set(accelerators())
    for name, known in accelerators().items():
        for column, value in fit(table[name]).items():
            assert getattr(known, column) == pytest.approx(value, rel=1e-3), (name, column)


def test_an_accelerator_under_a_power_limit() -> None:
    known = accelerators()["v100"]
    idle, half, full, limited = (known.watts(*asked).value for asked in ((0.0,), (0.5,), (1.0,), (1.0, 150.0)))
    assert idle == known.idle_w and full == known.busy_w and half == pytest.approx((idle + full) / 2)
    assert limited == pytest.approx(150 * known.kept) and known.watts(0.1, 150.0) == known.watts(0.1)
    assert all(0 < each.limit_error < 0.05 and 0 < each.linear_error < 0.07 for each in accelerators().values())
