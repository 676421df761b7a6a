"""What this machine is and how fast it really is: ceilings measured once and kept by the host's fingerprint."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from fullbore.base.errors import InputError, RunFailed
from fullbore.base.files import write_atomic
from fullbore.base.paths import machine_cache
from fullbore.base.units import plural
from fullbore.perf.measure import proc
from fullbore.perf.measure.condition import condition
from fullbore.spec.hardware import Ceilings, Machine

if TYPE_CHECKING:
    from torch import Tensor

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
_LIMITERS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
_METHOD = 5
"""Changed with how ceilings are measured, or how steps are predicted from them: what was kept of a host before is then
of no use."""
_SIDES = {"fp32": 512, "bf16": 1024, "int8": 1024}
"""Of square products: long enough for the full rate, short enough to fit between a neighbour's turns on a core."""
_PICTURES = (8, 64, 28)
"""Pictures, channels and side of those that are convolved."""
_MATMUL_SECONDS = 0.1
_ROUNDS = 3
"""A measurement that neighbours disturb is repeated up to so many times."""
_DISK_SECONDS = 0.6
_DISK_BYTES = 64 * 2**20
_DECODE_SECONDS = 0.15
_DISTURBED = 0.1
"""Share of the cores used by others from which on a measurement counts as disturbed."""
_OWN_SHARE = 0.75
"""So does one in which our threads had less than this of the time of their cores."""
_CALM_SECONDS = 0.2


def machine() -> Machine:
    """Who this host is; imports neither torch nor numpy."""
    processor, flags = _processor()
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = "none"
    cores, memory = proc.core_count(), proc.memory_total()
    limits = [f"{name}={os.environ[name]}" for name in _LIMITERS if name in os.environ]
    identity = [_METHOD, processor, cores, flags, torch_version, round(memory / 2**30), platform.machine(), limits]
    digest = hashlib.blake2b(json.dumps(identity).encode(), digest_size=8).hexdigest()
    return Machine(
        processor=processor,
        cores=cores,
        memory_bytes=memory,
        flags=flags,
        torch=torch_version,
        python=platform.python_version(),
        kernel=platform.release(),
        fingerprint=digest,
    )


def _processor() -> tuple[str, tuple[str, ...]]:
    fields = {}
    for line in proc.read("/proc/cpuinfo").partition("\n\n")[0].splitlines():
        name, _, value = line.partition(":")
        fields[name.strip()] = value.strip()
    present = set((fields.get("flags") or fields.get("Features") or "").split())
    name = fields.get("model name") or platform.processor() or platform.machine()
    model = "/".join(fields[key] for key in ("cpu family", "model", "stepping") if key in fields)
    return f"{name} ({model})" if model else name, tuple(flag for flag in _FLAGS if flag in present)


def probe(*, refresh: bool = False, folder: Path, kernels: bool = False) -> Ceilings:
    """Measured ceilings of this host, from the cache if it was measured before; at most about 6 s if not. What
    neighbours disturbed is noted, and measured again at the next call that finds them gone.

    `kernels`: the curves of kernels, too, about 40 s if they were not measured before; without, they are given if they
    were. `folder`: where the disk is measured (removed again), if another one was measured before.
    Raises InputError if it cannot be written. Torch's number of threads is as before afterwards.
    """
    host = machine()
    cache = machine_cache() / f"ceilings-{host.fingerprint}.json"
    known = _cached(cache, host.fingerprint)
    lacking = kernels and (known is None or known.curves is None)
    if known is not None and not refresh and not lacking and not (known.notes and _calm(host.cores)):
        if known.disk_device == (device := _device(folder)):
            return known
        disk_write, disk_read = _disk(folder)
        found = replace(known, disk_write=disk_write, disk_read=disk_read, disk_device=device)
    else:
        found = _measure(host, folder)
        found = _best_of(known, found) if known is not None and not refresh else found
        if kernels:
            found = _with_kernels(host, found)
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cache, json.dumps(found.to_json(), indent=1) + "\n")
    return found


def _measure(host: Machine, folder: Path) -> Ceilings:
    disturbed: list[str] = []
    products, convolutions = _products(host.cores, disturbed), _convolutions(host.cores, disturbed)
    bandwidth = _memory_bandwidth(host, disturbed)
    disk_write, disk_read = _disk(folder)
    jpeg, tokenise = _jpeg(disturbed), _tokenise(disturbed)
    some = ", ".join(disturbed[:3]) + (f" and {len(disturbed) - 3} more" if len(disturbed) > 3 else "")
    told = f"other processes disturbed the measurement of {some}: it is repeated when they are gone"
    return Ceilings(
        fingerprint=host.fingerprint,
        measured_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        matmul_flops=products,
        memory_bandwidth=bandwidth,
        disk_write=disk_write,
        disk_read=disk_read,
        jpeg_decode=jpeg,
        tokenise=tokenise,
        convolution_flops=convolutions,
        disk_device=_device(folder),
        notes=(told,) if disturbed else (),
        condition=condition(),
    )


def _with_kernels(host: Machine, found: Ceilings) -> Ceilings:
    """`found` with the curves of kernels, measured now."""
    from fullbore.perf.measure import curves, reference

    neighbours = proc.Neighbours()
    source = f"measured on this host, {time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC, {host.processor}"
    with _threads_restored(), curves.exact():
        measured = reference.fitted(curves.measure(host.cores), host.cores, source)
    told = "other processes disturbed the measurement of kernels: doctor --refresh repeats it"
    disturbed = neighbours.cores() > _DISTURBED * host.cores
    return replace(found, curves=measured, notes=(*found.notes, told) if disturbed else found.notes)


def _calm(cores: int) -> bool:
    """Whether others leave the cores alone now, so that a disturbed measurement is worth repeating."""
    neighbours = proc.Neighbours()
    time.sleep(_CALM_SECONDS)
    return neighbours.cores() <= _DISTURBED * cores


def _best_of(one: Ceilings, two: Ceilings) -> Ceilings:
    """The higher of each rate: a neighbour makes a ceiling look lower, never higher. The later notes hold."""

    def best(first: Rates, second: Rates) -> Rates:
        return {
            dtype: {threads: max(rate, first.get(dtype, {}).get(threads, 0.0)) for threads, rate in by_threads.items()}
            for dtype, by_threads in second.items()
        }

    return replace(
        two,
        matmul_flops=best(one.matmul_flops, two.matmul_flops),
        convolution_flops=best(one.convolution_flops, two.convolution_flops),
        memory_bandwidth=max(one.memory_bandwidth, two.memory_bandwidth),
        curves=one.curves,
        jpeg_decode=max(one.jpeg_decode or 0.0, two.jpeg_decode or 0.0) or None,
        tokenise=max(one.tokenise or 0.0, two.tokenise or 0.0) or None,
    )


def _cached(path: Path, fingerprint: str) -> Ceilings | None:
    """What was measured before; none if nothing was, or if the file is torn, foreign or of another shape."""
    try:
        ceilings = Ceilings.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return ceilings if ceilings.fingerprint == fingerprint else None


def _best_seconds(call: Callable[[], object], limit: float, name: str, disturbed: list[str], threads: int = 1) -> float:
    """Shortest of many calls, each on `threads` cores, after one that warms up: `limit` seconds of them, repeated while
    neighbours disturb. If they do to the last, `name` joins `disturbed`."""
    call()
    best = float("inf")
    for _ in range(_ROUNDS):
        neighbours, used, began, calls = proc.Neighbours(), time.process_time(), time.perf_counter(), 0
        while time.perf_counter() - began <= limit or not calls:
            clock = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - clock)
            calls += 1
        own = (time.process_time() - used) / (time.perf_counter() - began) / threads
        if own >= _OWN_SHARE and neighbours.cores() <= _DISTURBED * len(proc.allowed_cores()):
            return best
    disturbed.append(name)
    return best


@contextmanager
def _threads_restored() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


Rates = dict[str, dict[int, float]]


def _products(cores: int, disturbed: list[str]) -> Rates:
    """FLOP/s of a product of two square matrices by dtype and threads."""
    import torch

    found: Rates = {}
    for dtype, side in _SIDES.items():
        matrix = _random((side, side), dtype)
        call = partial(torch._int_mm if dtype == "int8" else torch.mm, matrix, matrix)
        found |= _rates(dtype, f"{dtype} products", call, 2.0 * side**3, cores, disturbed)
    return found


def _convolutions(cores: int, disturbed: list[str]) -> Rates:
    """FLOP/s of a 3x3 convolution of small pictures by dtype and threads."""
    import torch

    found: Rates = {}
    pictures, channels, side = _PICTURES
    for dtype in ("fp32", "bf16"):
        given, weights = _random((pictures, channels, side, side), dtype), _random((channels, channels, 3, 3), dtype)
        call = partial(torch.conv2d, given, weights, padding=1)
        flops = 2.0 * pictures * side**2 * 9 * channels**2
        found |= _rates(dtype, f"{dtype} convolutions", call, flops, cores, disturbed)
    return found


def _random(shape: tuple[int, ...], dtype: str) -> Tensor:
    import torch

    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
    return (20 * torch.randn(shape, generator=torch.Generator().manual_seed(0))).to(dtypes[dtype])


def _rates(dtype: str, name: str, call: Callable[[], object], flops: float, cores: int, disturbed: list[str]) -> Rates:
    """By threads; empty if this build of torch lacks the kernel. More threads are never slower: where they are measured
    so, something disturbed."""
    import torch

    found: dict[int, float] = {}
    with _threads_restored(), torch.inference_mode():
        for threads in sorted({1, cores}):
            torch.set_num_threads(threads)
            try:
                seconds = _best_seconds(
                    call, _MATMUL_SECONDS, f"{name} on {plural(threads, 'core')}", disturbed, threads
                )
            except RuntimeError:
                return {}
            found[threads] = max(flops / seconds, *found.values(), 0.0)
    return {dtype: found}


def _memory_bandwidth(host: Machine, disturbed: list[str]) -> float:
    """Bytes/s read and written by a copy on all cores."""
    import torch

    size = min(256 * 2**20, max(2**20, proc.memory_available() // 8))
    source = torch.ones(size, dtype=torch.uint8)
    target = torch.empty_like(source)
    with _threads_restored():
        torch.set_num_threads(host.cores)
        seconds = _best_seconds(lambda: target.copy_(source), 0.2, "memory bandwidth", disturbed, host.cores)
        return 2 * size / seconds


def _device(folder: Path) -> int | None:
    """The file system that `folder` is on, or will be."""
    there = next((path for path in (folder, *folder.absolute().parents) if path.exists()), None)
    return there.stat().st_dev if there is not None else None


def _disk(folder: Path) -> tuple[float, float]:
    """Bytes/s written and fsynced, and read back past the page cache where the kernel lets go of it."""
    block = os.urandom(4 * 2**20)
    path = folder / f".probe.{os.getpid()}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            began, written = time.perf_counter(), 0
            with open(path, "wb", buffering=0) as file:
                while written < _DISK_BYTES and time.perf_counter() - began < _DISK_SECONDS:
                    written += file.write(block)
                    os.fsync(file.fileno())
            write_rate = written / (time.perf_counter() - began)
            with open(path, "rb", buffering=0) as file:
                if hasattr(os, "posix_fadvise"):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                began = time.perf_counter()
                while file.read(len(block)):
                    pass
            return write_rate, written / (time.perf_counter() - began)
        finally:
            path.unlink(missing_ok=True)
    except OSError as error:
        kind = RunFailed if error.errno == errno.ENOSPC else InputError
        hint = "give a folder with 64 MB of free space"
        raise kind(f"cannot measure the disk in {folder}: {error.strerror}", hint=hint) from error


def _jpeg(disturbed: list[str]) -> float | None:
    """Pixels/s that one core decodes: a smooth picture with some noise, quality 90, as photographs are."""
    import numpy as np
    import simplejpeg

    rows, columns = np.mgrid[0:384, 0:512]
    smooth = np.stack([rows / 2, columns / 3, (rows + columns) / 4], axis=-1)
    noise = np.random.default_rng(0).normal(0, 8, smooth.shape)
    picture = simplejpeg.encode_jpeg(np.clip(smooth + noise, 0, 255).astype(np.uint8), quality=90)
    seconds = _best_seconds(lambda: simplejpeg.decode_jpeg(picture), _DECODE_SECONDS, "decoding", disturbed)
    return float(rows.size / seconds)


def _tokenise(disturbed: list[str]) -> float:
    """Bytes of text/s that one core tokenises: source code, with a byte-level BPE trained on it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [Path(module).read_text(encoding="utf-8") for module in _sources()]
    text = "\n".join(texts) or "\n".join(f"def f{i}(x):\n    return x + {i * i}" for i in range(4000))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([text], trainer)
    seconds = _best_seconds(lambda: tokenizer.encode(text), _DECODE_SECONDS, "tokenising", disturbed)
    return len(text.encode()) / seconds


def _sources() -> list[str]:
    import argparse
    import tarfile
    import threading

    files = [module.__file__ for module in (argparse, tarfile, threading)]
    return [file for file in files if file and file.endswith(".py") and Path(file).is_file()]
