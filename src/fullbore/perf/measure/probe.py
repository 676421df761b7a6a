"""What this machine is and how fast it really is: ceilings measured once and kept by the host's fingerprint."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from fullbore.base.errors import InputError
from fullbore.base.files import write_atomic
from fullbore.base.paths import machine_cache
from fullbore.perf.measure import proc
from fullbore.spec.hardware import Ceilings, Machine

_FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_tile", "amx_bf16", "amx_int8")
_LIMITERS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
_SIDE = 1024
_MATMUL_SECONDS = 0.25
_DISK_SECONDS = 0.6
_DISK_BYTES = 64 * 2**20
_DECODE_SECONDS = 0.15
_DISTURBED = 0.3
"""Cores used by others from which on a measurement counts as disturbed."""


def machine() -> Machine:
    """Who this host is; imports neither torch nor numpy."""
    processor, flags = _processor()
    try:
        torch_version = version("torch")
    except PackageNotFoundError:
        torch_version = "none"
    cores, memory = proc.core_count(), proc.memory_total()
    limits = [f"{name}={os.environ[name]}" for name in _LIMITERS if name in os.environ]
    identity = [processor, cores, flags, torch_version, round(memory / 2**30), platform.machine(), limits]
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


def probe(*, refresh: bool = False, folder: Path) -> Ceilings:
    """Measured ceilings of this host, from the cache if it was measured before; at most about 6 s if not. What was
    measured beside busy neighbours is measured again once they are gone.

    `folder`: where the disk is measured (removed again). Raises InputError if it cannot be written. Torch's number of
    threads is as before afterwards.
    """
    host = machine()
    cache = machine_cache() / f"ceilings-{host.fingerprint}.json"
    known = _cached(cache, host.fingerprint)
    if known is not None and not refresh and not (known.notes and _calm(host.cores)):
        return known
    found = _measure(host, folder)
    if known is not None and not refresh:
        found = _best_of(known, found)
    cache.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cache, json.dumps(found.to_json(), indent=1) + "\n")
    return found


def _measure(host: Machine, folder: Path) -> Ceilings:
    began, used = time.perf_counter(), time.process_time()
    before = proc.machine_times(proc.allowed_cores())
    matmul = _matmul(host.cores)
    bandwidth = _memory_bandwidth(host)
    disk_write, disk_read = _disk(folder)
    jpeg, tokenise = _jpeg(), _tokenise()
    others = _others(before, proc.machine_times(proc.allowed_cores()), used, began)
    told = f"other processes used {others:.1f} of {host.cores} cores while probing: ceilings may be low"
    return Ceilings(
        fingerprint=host.fingerprint,
        measured_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        matmul_flops=matmul,
        memory_bandwidth=bandwidth,
        disk_write=disk_write,
        disk_read=disk_read,
        jpeg_decode=jpeg,
        tokenise=tokenise,
        notes=(told,) if others > _DISTURBED else (),
    )


def _calm(cores: int) -> bool:
    """Whether few others want the cores now, so that a disturbed measurement is worth repeating."""
    load = proc.read("/proc/loadavg").split()
    return bool(load) and float(load[0]) < 0.5 * cores


def _best_of(one: Ceilings, two: Ceilings) -> Ceilings:
    """The higher of each rate: a neighbour makes a ceiling look lower, never higher. The later notes hold."""
    rates = {
        dtype: {
            threads: max(rate, one.matmul_flops.get(dtype, {}).get(threads, 0.0))
            for threads, rate in by_threads.items()
        }
        for dtype, by_threads in two.matmul_flops.items()
    }
    return replace(
        two,
        matmul_flops=rates,
        memory_bandwidth=max(one.memory_bandwidth, two.memory_bandwidth),
        disk_write=max(one.disk_write, two.disk_write),
        disk_read=max(one.disk_read, two.disk_read),
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


def _best_seconds(call: Callable[[], object], limit: float, cores: int = 1) -> float:
    """Shortest of a few calls, each on `cores` cores, after one that warms up; stops when `limit` seconds are spent.

    Where neighbours had the cores meanwhile, wall time says nothing of this machine: there it is the mean CPU
    time, spread over the cores, if that is less.
    """
    call()
    before, used, began = proc.machine_times(proc.allowed_cores()), time.process_time(), time.perf_counter()
    best, calls = float("inf"), 0
    while (calls < 50 and time.perf_counter() - began <= limit) or not calls:
        clock = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - clock)
        calls += 1
    after, cpu = proc.machine_times(proc.allowed_cores()), (time.process_time() - used) / calls / cores
    return min(best, cpu) if _others(before, after, used, began) > _DISTURBED and cpu > 0 else best


def _others(before: proc.MachineTimes | None, after: proc.MachineTimes | None, used: float, began: float) -> float:
    """Cores that other processes used since readings of process_time (`used`) and perf_counter (`began`)."""
    if before is None or after is None:
        return 0.0
    ours, seconds = time.process_time() - used, time.perf_counter() - began
    return (after.busy - before.busy - ours) / seconds


@contextmanager
def _threads_restored() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _matmul(cores: int) -> dict[str, dict[int, float]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    real = torch.randn(_SIDE, _SIDE, generator=generator)
    whole = torch.randint(-127, 127, (_SIDE, _SIDE), dtype=torch.int8, generator=generator)
    half = real.to(torch.bfloat16)
    calls: dict[str, Callable[[], object]] = {
        "fp32": lambda: real @ real,
        "bf16": lambda: half @ half,
        "int8": lambda: torch._int_mm(whole, whole),
    }
    rates: dict[str, dict[int, float]] = {}
    with _threads_restored(), torch.inference_mode():
        for dtype, call in calls.items():
            for threads in sorted({1, cores}):
                torch.set_num_threads(threads)
                try:
                    seconds = _best_seconds(call, _MATMUL_SECONDS, threads)
                except RuntimeError:  # a torch build without this kernel
                    continue
                rates.setdefault(dtype, {})[threads] = 2 * _SIDE**3 / seconds
    return rates


def _memory_bandwidth(host: Machine) -> float:
    """Bytes/s read and written by a copy on all cores."""
    import torch

    size = min(256 * 2**20, max(2**20, proc.memory_available() // 8))
    source = torch.zeros(size, dtype=torch.uint8)
    target = torch.zeros_like(source)
    with _threads_restored():
        torch.set_num_threads(host.cores)
        return 2 * size / _best_seconds(lambda: target.copy_(source), 0.3, host.cores)


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
        hint = "give a folder with 64 MB of free space"
        raise InputError(f"cannot measure the disk in {folder}: {error.strerror}", hint=hint) from error


def _jpeg() -> float | None:
    """Pixels/s that one core decodes: a smooth picture with some noise, quality 90, as photographs are."""
    import numpy as np
    import simplejpeg

    rows, columns = np.mgrid[0:384, 0:512]
    smooth = np.stack([rows / 2, columns / 3, (rows + columns) / 4], axis=-1)
    noise = np.random.default_rng(0).normal(0, 8, smooth.shape)
    picture = simplejpeg.encode_jpeg(np.clip(smooth + noise, 0, 255).astype(np.uint8), quality=90)
    seconds = _best_seconds(lambda: simplejpeg.decode_jpeg(picture), _DECODE_SECONDS)
    return float(rows.size / seconds)


def _tokenise() -> float:
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
    seconds = _best_seconds(lambda: tokenizer.encode(text), _DECODE_SECONDS)
    return len(text.encode()) / seconds


def _sources() -> list[str]:
    import argparse
    import tarfile
    import threading

    files = [module.__file__ for module in (argparse, tarfile, threading)]
    return [file for file in files if file and file.endswith(".py") and Path(file).is_file()]
