from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import example_run
import pytest
from page import Page

from fullbore.base.errors import InputError
from fullbore.base.paths import RunPaths
from fullbore.record.run import RunFolder
from fullbore.ui.report import PANELS, write
from fullbore.ui.view import BINS, MESSAGES, view

PANEL_IDS = [name for name, *_ in PANELS]


@pytest.mark.parametrize("make", example_run.EVERY, ids=lambda make: make.__name__)
def test_any_run_folder_gives_a_whole_page(make: Callable[[], RunFolder]) -> None:
    run = make()
    path = write(run)
    assert path == run.paths.report
    page = Page(path)
    assert page.unbalanced == []
    assert page.ids()[0] == "verdict" and page.ids()[1:] == [name for name in PANEL_IDS if name in page.ids()]
    assert run.name in page.sections["page"]
    assert path.stat().st_size < 1_000_000


def test_a_done_run_has_every_panel_and_what_it_found(tmp_path: Path) -> None:
    run = example_run.done()
    page = Page(write(run, tmp_path / "elsewhere.html"))
    assert page.ids() == ["verdict", *PANEL_IDS]
    assert "47 %" in page.sections["verdict"] and "--set train.global_batch_size=32" in page.sections["verdict"]
    assert "19.8k" in page.sections["verdict"] and "38.2 %" in page.sections["verdict"]
    assert "bigram 2.31 · trigram 1.94" in page.sections["verdict"]
    assert "tokenizercached" in page.sections["flow"] and "10 ms" not in page.sections["flow"]
    assert [tag for tag, found in page.tags if tag == "li" and "lit" in (found.get("class") or "")] == ["li"]
    assert "bigram 2.31" in page.sections["learning"] and len(page.drawn("mark")) == 2
    assert "+21 %" in page.sections["predicted"] and "rejected drop 2.55 %" in page.sections["compression"]
    assert "--set train.precision=…" in page.sections["plan"] and "--set train.budget" not in page.sections["plan"]
    assert "def __init__(self" in page.sections["completion"]
    assert 'source = "python://stdlib"' in page.sections["provenance"]
    assert "not UTF-8" in page.sections["events"]


def test_artifacts_are_linked_to_their_parents() -> None:
    run = example_run.done()
    page = Page(write(run))
    digests = {str(found["id"]) for _, found in page.tags if str(found.get("id", "")).startswith("a-")}
    links = {str(found["href"]).removeprefix("#") for tag, found in page.tags if tag == "a"}
    assert len(digests) == 5 and len(links) == 4 and links < digests


@pytest.mark.parametrize("make", [example_run.done, example_run.killed, example_run.ranks, example_run.resumed])
def test_shares_sum_to_one_hundred(make: Callable[[], RunFolder]) -> None:
    shares = Page(write(make())).shares
    assert len(shares) > 5 and abs(sum(shares) - 100) < 0.05


def test_the_timeline_holds_the_same_seconds_as_the_ledger() -> None:
    shown = view(example_run.done())
    (line,) = shown.timelines
    for state, seconds in shown.ledger.seconds.items():
        assert sum(line.shares[state]) * shown.seconds / BINS == pytest.approx(seconds, abs=1e-6)


def test_a_failed_run_says_why_first() -> None:
    page = Page(write(example_run.failed()))
    assert page.sections["verdict"].startswith("Failed: loss is NaN at step 121")
    assert "lower train.learning_rate" in page.sections["verdict"]
    events = page.sections["events"]
    assert events.index("loss is NaN") < events.index("gradient norm 412")
    assert "not finished" in page.sections["flow"]
    assert "compression" not in page.ids() and "compression" in page.sections["page"]


def test_a_killed_run_is_read_from_its_events() -> None:
    run = example_run.killed()
    shown = view(run)
    assert shown.status == "killed" and shown.step_count == 140 and shown.steps["loss"].count == 140
    assert shown.ledger.wall == pytest.approx(shown.seconds)
    assert [stage.name for stage in shown.stages] == ["read", "tokenizer", "pack", "plan", "train"]
    assert not shown.stages[-1].finished and shown.stages[-1].seconds > 25
    page = Page(write(run))
    assert shown.verdict["limit"] == "model compute" and "was limited by" in page.sections["verdict"]
    assert f"fullbore resume {run.name}" in page.sections["verdict"] and "20." in page.sections["verdict"]


def test_a_resumed_run_has_each_step_once_and_no_gap() -> None:
    shown = view(example_run.resumed())
    assert shown.steps["loss"].x == tuple(range(1, 301))
    assert shown.seconds < 120 and len(shown.resumed) == 1
    assert shown.ledger.wall == pytest.approx(shown.seconds)
    assert all(
        sum(shares) == pytest.approx(1, abs=0.01) for shares in zip(*shown.timelines[0].shares.values(), strict=True)
    )
    assert "resumed at step 100; skipped: step-00000140" in Page(write(example_run.resumed("again"))).sections["events"]


def test_ranks_have_a_row_each() -> None:
    page = Page(write(example_run.ranks(count=3)))
    assert all(f"rank {rank}" in page.sections["time"] for rank in range(3))
    assert "waiting for a straggler" in write(example_run.ranks("two")).read_text()


def test_many_ranks_are_cut_and_it_is_said() -> None:
    page = Page(write(example_run.ranks(count=14)))
    assert "14 ranks; the first 12 are drawn" in page.sections["time"]


@pytest.mark.slow
def test_a_long_run_stays_small_and_says_what_is_thinned() -> None:
    run = example_run.done(steps=100_000)
    shown = view(run)
    assert shown.steps["loss"].count == 100_000
    for series in [*shown.steps.values(), *shown.metrics.values(), *shown.resources.values()]:
        assert len(series.x) * (3 if series.thinned else 1) <= 1000
    page = Page(write(run))
    assert "100,000 steps drawn as" in page.sections["learning"]
    assert run.paths.report.stat().st_size < 1_000_000


def test_many_messages_keep_the_first_error_and_say_what_is_left_out() -> None:
    run = example_run.folder("chatty")
    session = example_run.Session(run)
    with session.told():
        for index in range(5000):
            level = "error" if index == 2500 else "info"
            session.recorder.event("message", level=level, text=f"line {index} " + "x" * 5000)
        session.recorder.close()
    shown = view(run)
    assert shown.messages[0].text.startswith("line 2500 ") and len(shown.messages) == MESSAGES + 1
    assert f"{5000 - MESSAGES - 1} messages in the middle are left out" in Page(write(run)).sections["events"]
    assert run.paths.report.stat().st_size < 1_000_000


def test_whatever_a_run_wrote_is_escaped() -> None:
    attack = '<script>alert(1)</script><img src=x onerror="alert(1)">'
    run = example_run.failed(text=attack)
    result = json.loads(run.paths.result.read_text())
    result |= {
        "completion": {"prompt": attack, "text": attack},
        "verdict": {"limit": attack, "sentence": attack, "evidence": [attack], "advice": [{"change": attack}]},
        "baselines": {attack: 1.0},
        "compression": [{"variant": attack, "value": 1.0, "samples_per_second": 3.0, "bytes": 5, "reason": attack}],
        "predicted": {attack: {"predicted": 1.0, "measured": 2.0, "unit": attack}},
        "stages": [{"stage": attack, "seconds": 1.0, "detail": attack}],
        "metrics": {attack: 1.0},
        "ledger": {attack: {"seconds": 1.0, "share": 1.0}}, "busy": {attack: 1.0},
    }  # fmt: skip
    run.paths.result.write_text(json.dumps(result))
    run.paths.job.write_text(f"# {attack}")
    page = Page(write(run))
    assert page.unbalanced == []
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert not any(tag == "img" or any(name.startswith("on") for name in found) for tag, found in page.tags)


@pytest.mark.parametrize(
    "strange",
    [
        {"status": "done", "verdict": 5, "stages": "x", "metrics": [], "ledger": None, "predicted": {"a": 1}},
        {
            "status": "done",
            "ledger": {"forward": 3},
            "compression": [None, {"value": "x", "interval": [1]}],
        },
        {"status": "failed", "error": None, "completion": {"text": None}, "mfu": float("nan"), "seconds": "1"},
        [],
    ],
)
def test_a_strange_result_still_gives_a_page(strange: object) -> None:
    run = example_run.killed()
    run.paths.result.write_text(json.dumps(strange))
    assert Page(write(run)).unbalanced == []


def test_strange_events_are_passed_over() -> None:
    run = example_run.killed()
    with open(run.paths.events(), "a") as file:
        file.write(
            '\n7\n"kind"\n[1]\n{"kind":"step"}\n{"kind":"ledger","begin":"x"}\n{"kind":"metric","step":1,"x":"y"}\n'
        )
    assert view(run).steps["loss"].count == 140


def test_a_damaged_artifact_is_named() -> None:
    run = example_run.done()
    (run.paths.artifact("model") / "data.bin").write_bytes(b"short")
    assert "truncated or overwritten" in Page(write(run)).sections["provenance"]


def test_the_page_needs_nothing_from_outside() -> None:
    page = Page(write(example_run.done()))
    outward = [
        found for _, found in page.tags for name in ("src", "href") if not str(found.get(name) or "#").startswith("#")
    ]
    assert outward == []
    assert "default-src 'none'" in str(page.tags)
    assert "url(" not in write(example_run.packed()).read_text()


def test_the_same_run_gives_the_same_bytes() -> None:
    run = example_run.done()
    assert write(run).read_bytes() == write(run).read_bytes()


def test_no_run_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"env\.json"):
        write(RunFolder("nothing", RunPaths(tmp_path)))
