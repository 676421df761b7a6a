"""What a job may say of its machine's power."""

from __future__ import annotations

from pathlib import Path

import pytest

from fullbore.base.errors import JobError
from fullbore.spec.energy import EnergySection
from fullbore.spec.load import load, to_toml


def job(folder: Path, text: str) -> Path:
    path = folder / "job.toml"
    path.write_text(f'name = "a"\n[data]\nsource = "x"\n{text}')
    return path


def test_nothing_is_assumed_and_all_of_it_comes_back(tmp_path: Path) -> None:
    assert load(job(tmp_path, "")).job.energy is None
    text = '[energy]\nidle_watts = 3\nbusy_watts = 40.5\npue = 1.2\nprice_per_kwh = 0.31\ncurrency = "EUR"\n'
    whole = load(job(tmp_path, text)).job
    assert whole.energy == EnergySection(
        idle_watts=3, busy_watts=40.5, pue=1.2, price_per_kwh=0.31, currency="EUR", carbon_per_kwh=None
    )
    (tmp_path / "again.toml").write_text(to_toml(whole))
    assert load(tmp_path / "again.toml").job == whole


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("idle_watts = 3", "job.toml:4 energy.busy_watts: missing; a machine's draw goes from one to the other: "
         "energy.idle_watts = 3.0 (job.toml:5)"),
        ("busy_watts = 2\nidle_watts = 3", "job.toml:5 energy.busy_watts: 2 is less than "
         "energy.idle_watts = 3.0 (job.toml:6)"),
        ("pue = 0.9", "job.toml:5 energy.pue: found 0.9, expected a number of at least 1"),
    ],
)  # fmt: skip
def test_what_cannot_be(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(JobError) as refused:
        load(job(tmp_path, f"[energy]\n{text}\n"))
    assert str(refused.value).replace(f"{tmp_path}/", "") == expected
