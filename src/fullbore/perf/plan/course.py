"""What a whole run takes, by state of the ledger, before anything that past runs say of it.

These are first estimates: steps from the cost model, everything else from what it grows with. What this machine
measured corrects each line by itself (`flow.lines`), so a constant here has to have the right form, not the right size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from fullbore.perf.model import compute, feed
from fullbore.perf.plan.steps import COMPILE_SECONDS, judged_rows
from fullbore.record.ledger import State
from fullbore.spec.compress import CompressSection
from fullbore.spec.hardware import Ceilings
from fullbore.spec.job import Job
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.spec.work import Work

STEPS = (State.DATA_WAIT, State.COPY, State.FORWARD, State.BACKWARD, State.COMMUNICATION, State.OPTIMIZER)
"""The states of a step, which together are what a step takes."""
STATE_BYTES = 12.0
"""Bytes of a parameter in a checkpoint: itself and two moments, fp32."""
SNAPSHOT_RATE = 2e9
"""Bytes/s at which training is held up while its state is copied; writing goes on beside it."""
_KEPT_COMPILE_SECONDS = 10.0
"""What compiling takes where the machine kept what was compiled before."""
_START_SECONDS, _RANKS_SECONDS = 2.0, 4.0
"""Starting Python with its imports, and starting ranks as processes of their own."""
_TRIAL_SECONDS, _TRIALS_SECONDS, _TRIAL_SHARE = 0.4, 1.5, 0.05
"""A trial at least; trials at least, and as a share of the training that they are for (`flow.plan`)."""
_WAIT_SECONDS, _COPY_SECONDS, _EXCHANGE_SECONDS, _EVENT_SECONDS = 1e-5, 2e-4, 1e-3, 1e-4
"""Of a step: taking a batch from the feed, making its tensors, one exchange with another rank, its events."""
_COUNTED = 4e6
"""Tokens/s that are counted for the baselines."""
_HASHED = 2e9
"""Bytes/s at which what is kept from before is read and compared with its checksum."""
_ROUND_ROWS, _ROUND_CALL = 33, 1e-3
"""Rows, and seconds beside them, of each variant in a round of timing; 5 to 15 rounds, and 3 s at most beyond 5."""
_THREAD_ROWS = 3 * 32 * 2.7
"""Rows that tell with how many threads a network is faster: three batches on all cores, and three on one, which takes
about 1.7 times as long."""
_ANSWER_SECONDS, _REPORT_SECONDS, _SAVE_SECONDS = 0.25, 0.1, 0.02


@dataclass(frozen=True)
class Amounts:
    """What a job reads and judges."""

    given: feed.Input
    rows: Mapping[str, int]
    """By split."""
    units_per_row: int
    """Tokens of a row of a language model, else 1."""
    kept: frozenset[str] = field(default_factory=frozenset)
    """States of preparing whose result is there from an earlier run: `read`, `tokenise`, `pack`."""


def course(
    job: Job, plan: Plan | None, work: Work | None, ceilings: Ceilings, amounts: Amounts, cores: int,
    *, compiled_before: bool = False,
) -> dict[str, float]:  # fmt: skip
    """Seconds of a run by state; states that the job does not come to are absent. Without a plan, nothing is trained.

    `compiled_before`: this machine has compiled such a step and kept it.
    """
    section = job.train
    found: dict[str, float] = {State.START: _START_SECONDS, State.REPORT: _REPORT_SECONDS}
    found |= _preparing(job, ceilings, amounts, cores)
    if plan is None or work is None or section is None:
        return found
    step = {state: plan.steps * seconds for state, seconds in of_step(section, plan, work, ceilings).items()}
    row = sum(step.values()) / plan.steps / plan.global_batch_size / 3
    found |= step
    found[State.START] += _RANKS_SECONDS * (plan.world_size > 1)
    found[State.PROBE] = _trials(section, sum(step.values()), plan.steps)
    found[State.REPORT] += plan.steps * _EVENT_SECONDS
    if plan.compile:
        found[State.COMPILE] = _KEPT_COMPILE_SECONDS if compiled_before else COMPILE_SECONDS
    saves = 1 + (plan.steps - 1) // plan.checkpoint_every
    found[State.CHECKPOINT] = _SAVE_SECONDS + saves * STATE_BYTES * work.parameters / SNAPSHOT_RATE
    judged = judged_rows(section, plan.steps, plan.evaluate_every, amounts.rows.get("validation", 0))
    counted = amounts.units_per_row * min(plan.steps * plan.global_batch_size, amounts.rows.get("train", 0))
    found[State.EVALUATE] = row * (judged + amounts.rows.get("test", 0))
    if job.task is not None and job.task.baselines:
        found[State.EVALUATE] += len(job.task.baselines) * counted / _COUNTED
    if job.compress is not None:
        found[State.COMPRESS] = _compress(
            job.compress, _variant_row(job.compress, section, plan, work, ceilings, cores)
        )
    if job.serve is not None:
        found[State.SERVE] = (
            _ANSWER_SECONDS + job.serve.prompt_tokens * 4.0 * work.parameters / ceilings.memory_bandwidth
        )
    return found


def of_step(section: TrainSection, plan: Plan, work: Work, ceilings: Ceilings) -> dict[str, float]:
    """Seconds of one step by state."""
    step = compute.predict(work, ceilings, plan, optimizer=section.optimizer)
    found: dict[str, float] = {State.DATA_WAIT: _WAIT_SECONDS, State.COPY: _COPY_SECONDS}
    found |= {state: step[f"state.{state}"].value for state in (State.FORWARD, State.BACKWARD, State.OPTIMIZER)}
    if plan.world_size > 1:
        share = 2 * (plan.world_size - 1) / plan.world_size
        found[State.COMMUNICATION] = _EXCHANGE_SECONDS + share * 8.0 * work.parameters / ceilings.memory_bandwidth
    return found


def _preparing(job: Job, ceilings: Ceilings, amounts: Amounts, cores: int) -> dict[str, float]:
    """Learning a vocabulary and applying it are one state; what was kept of either is spared."""
    plain, kept, given = feed.predict(amounts.given, ceilings, cores), amounts.kept, amounts.given
    look = 0.01 + given.bytes / _HASHED
    found: dict[str, float] = {State.READ: look if State.READ in kept else plain["read"].value}
    if job.tokenizer is None or job.task is None:
        return found
    writing = given.bytes / ceilings.disk_write
    learning = 0.0 if State.TOKENISE in kept else plain["tokenise"].value
    applying = 0.0 if State.PACK in kept else plain["pack"].value - writing
    found[State.TOKENISE] = learning + applying or look
    found[State.PACK] = look if State.PACK in kept else writing
    return found


def _trials(section: TrainSection, training: float, steps: int) -> float:
    """Settings that are tried, each for some steps, and the chosen one once more."""
    free = (section.precision, section.threads, section.micro_batch_size)
    each = max(_TRIAL_SECONDS, 3 * training / steps)
    return each + min(sum(value == "auto" for value in free) * each, max(_TRIALS_SECONDS, _TRIAL_SHARE * training))


def _variant_row(
    section: CompressSection, train: TrainSection, plan: Plan, work: Work, ceilings: Ceilings, cores: int
) -> float:
    """Seconds in which a variant answers a row, on average over the formats: however the model was trained."""
    seconds = []
    for variant in {"fp32", *section.variants}:
        narrow = variant != "fp32" and "bf16" in ceilings.matmul_flops
        alone = replace(
            plan, precision="bf16" if narrow else "fp32", compile=False, threads=cores, world_size=1, accumulation=1,
            micro_batch_size=32, global_batch_size=32,
        )  # fmt: skip
        step = of_step(train, alone, work, ceilings)
        seconds.append((step[State.FORWARD] + step[State.BACKWARD]) / 3 / alone.global_batch_size)
    return sum(seconds) / len(seconds)


def _compress(section: CompressSection, row: float) -> float:
    """Every variant judges its samples twice, int8 sees as many others before, and all are timed; what the layers stand
    in that int8 leaves as they are is timed before. Whatever is timed, is first told how many threads suit it."""
    wanted = {"fp32", *section.variants}
    variants, narrow = len(wanted), wanted == {"fp32", "bf16", "int8"}
    passes = 2 * variants + ("int8" in wanted)
    once = variants * (_ROUND_ROWS * row + _ROUND_CALL)
    timing = max(5 * once, min(15 * once, 3.0)) + 3 * narrow * 2 * _ROUND_ROWS * row
    told = 1 + variants + 2 * narrow
    return row * (passes * section.samples + told * _THREAD_ROWS) + timing
