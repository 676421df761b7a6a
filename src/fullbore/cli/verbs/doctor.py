"""`fullbore doctor`: what this machine is, what it reaches and what it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from fullbore.base.units import format_bytes, format_count, format_flops
from fullbore.cli import draw
from fullbore.cli.arguments import verb
from fullbore.cli.ink import Ink

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def show(answer: dict[str, Any], ink: Ink) -> Iterator[str]:
    machine, ceilings, disk = answer["machine"], answer["ceilings"], answer["disk"]
    yield ink.bold("This machine")
    packages = answer["environment"]["packages"]
    yield from draw.table([
        ["processor", f"{machine['processor']}, {machine['cores']} cores"],
        ["memory", format_bytes(machine["memory_bytes"])],
        ["instructions", " ".join(machine["flags"]) or "–"],
        ["disk", f"{format_bytes(disk['free_bytes'])} free of {format_bytes(disk['total_bytes'])} ({disk['folder']})"],
        ["python", f"{machine['python']}, kernel {machine['kernel']}"],
        ["packages", ", ".join(f"{name} {version}" for name, version in packages.items() if version)],
    ])  # fmt: skip
    yield from ("", ink.bold(f"What it reaches (measured {ceilings['measured_at']}; --refresh measures again)"))
    yield from draw.table(list(reached(ceilings)), right=(1,))
    if ceilings["curves"] is not None:
        yield from ("", ink.bold("Kernels, by which steps are predicted"))
        yield from draw.table(list(kernels(ceilings["curves"])))
        yield f"  {ceilings['curves']['source']}"
    for note in ceilings["notes"]:
        yield f"  · {note}"
    if answer["missing"]:
        yield from ("", ink.bold("What could be added"))
        yield from draw.table([[name, use] for name, use in answer["missing"].items()])


def _on(threads: str) -> str:
    return f"{threads} thread{'' if threads == '1' else 's'}"


def reached(ceilings: dict[str, Any]) -> Iterator[list[str]]:
    for dtype, by_threads in ceilings["matmul_flops"].items():
        for threads, rate in by_threads.items():
            yield [f"matrix products, {dtype}, {_on(str(threads))}", format_flops(rate)]
    for key, name in (("memory_bandwidth", "memory"), ("disk_write", "disk, writing"), ("disk_read", "disk, reading")):
        yield [name, f"{format_bytes(ceilings[key])}/s"]
    if ceilings["jpeg_decode"] is not None:
        yield ["JPEG decoding, one core", f"{format_count(ceilings['jpeg_decode'])} pixels/s"]
    if ceilings["tokenise"] is not None:
        yield ["tokenising, one core", f"{format_bytes(ceilings['tokenise'])}/s"]


def kernels(curves: dict[str, Any]) -> Iterator[list[str]]:
    for name, rates in curves["products"].items():
        dtype, threads = name.split("/")
        least, most = min(rates, key=lambda shape: rates[shape]), max(rates, key=lambda shape: rates[shape])
        told = f"{format_flops(rates[least])} ({least}) to {format_flops(rates[most])} ({most})"
        yield [f"products, {dtype}, {_on(threads)}", told]
    for name, rates in curves["moving"].items():
        dtype, threads = name.split("/")
        slow, fast = min(rates.values()), max(rates.values())
        yield [f"sums of arrays, {dtype}, {_on(threads)}", f"{format_bytes(slow)}/s to {format_bytes(fast)}/s"]
    for name, seconds in curves["launching"].items():
        way, dtype, threads = name.split("/")
        yield [f"launching, {dtype} {way}, {_on(threads)}", f"{seconds * 1e6:.1f} µs"]


@app.command()
@verb(show)
def doctor(
    refresh: Annotated[bool, typer.Option("--refresh", help="Measure again.")] = False,
    brief: Annotated[bool, typer.Option("--brief", help="Leave out kernels: 6 s instead of a minute.")] = False,
) -> dict[str, Any]:
    """Show what this machine is, what it reaches and what it lacks."""
    from fullbore import door

    return door.doctor(refresh=refresh, brief=brief)
