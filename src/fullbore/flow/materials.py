"""From a run folder to what training, judging and serving work with: shards, tokenizer, task, sizes, setup.

Everything is read from disk, so that the run's own process, a rank and a resumed run build the very same things.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from fullbore.base.errors import InputError
from fullbore.base.paths import RunPaths
from fullbore.data.feed import Feed, once
from fullbore.data.shards import Shards
from fullbore.models import build, tasks, tokenizer
from fullbore.record.progress import Progress
from fullbore.record.span import Recorder
from fullbore.spec.job import Job
from fullbore.spec.model import ModelSection, TaskSection
from fullbore.spec.plan import Plan
from fullbore.spec.train import TrainSection
from fullbore.train.loop import TrainSetup

_JUDGE_BATCH = 64


@dataclass(frozen=True)
class Materials:
    """All that training needs of a prepared run."""

    job: Job
    model: ModelSection
    """With the folder that the run keeps, where the job names one."""
    train: TrainSection
    task_section: TaskSection
    shards: Shards
    vocabulary: tokenizer.Tokenizer | None
    task: tasks.Task
    sizes: build.Sizes

    def network(self) -> nn.Module:
        return build.build(self.model, self.task_section, self.sizes, self.train.seed)

    def feed(self, rank: int, world_size: int, recorder: Recorder | None = None, plan: Plan | None = None) -> Feed:
        """`plan`: says how far ahead and with how many threads it works; none: the job does."""
        return Feed(
            self.shards,
            global_batch_size=self.train.global_batch_size,
            seed=self.train.seed,
            rank=rank,
            world_size=world_size,
            collate=self.task.collate,
            prefetch=plan.prefetch if plan is not None else self.train.prefetch,
            threads=plan.feed_threads if plan is not None else self.train.feed_threads,
            on_busy=recorder.busy if recorder is not None else None,
        )

    def judged(
        self, split: str, rank: int = 0, world_size: int = 1, limit: int | None = None
    ) -> Iterator[dict[str, Tensor]]:
        """Every row of a split once, in order; nothing if the split is empty."""
        if not self.shards.rows(split):
            return iter(())
        return once(self.shards, split, _JUDGE_BATCH, self.task.collate, rank=rank, world_size=world_size, limit=limit)

    def task_on(self, split: str) -> tasks.Task:
        """The task as it is judged on `split`: a token of each stands for other numbers of bytes."""
        return tasks.task(self.task_section, self.shards.info, self.vocabulary, seed=self.train.seed, split=split)

    def units_per_row(self) -> int:
        return self.train.sequence_length if self.task_section.kind.endswith("_lm") else 1


def load(job: Job, paths: RunPaths) -> Materials:
    """Open the artifacts of a run. Raises InputError if a split is empty that the job cannot do without."""
    if job.train is None or job.model is None or job.task is None:
        raise InputError(f"{paths.job}: no [train], [model] and [task] sections", hint="add them to train a model")
    shards = Shards(paths.artifact("shards" if job.tokenizer is not None else "corpus"))
    if not shards.rows("train"):
        raise InputError(
            f"{job.data.source}: the training split is empty", hint="add data, or lower train.sequence_length"
        )
    if job.task.baselines and not shards.rows("validation"):
        raise InputError("task.baselines: there is no validation text to judge them on", hint="raise data.validation")
    if job.train.early_stopping is not None and not shards.rows("validation"):
        raise InputError(
            "train.early_stopping: there are no validation samples to judge by", hint="raise data.validation"
        )
    kept = {"folder": str(paths.artifact("base"))} if job.model.kind == "transformers" else {}
    vocabulary = tokenizer.load(paths.artifact("tokenizer")) if job.tokenizer is not None else None
    return Materials(
        job=job,
        model=job.model.model_copy(update=kept),
        train=job.train,
        task_section=job.task,
        shards=shards,
        vocabulary=vocabulary,
        task=tasks.task(job.task, shards.info, vocabulary, seed=job.train.seed),
        sizes=build.sizes(shards.info, vocabulary, job.train.sequence_length),
    )


def setup(
    materials: Materials,
    plan: Plan,
    paths: RunPaths,
    recorder: Recorder,
    progress: Progress,
    stop: Callable[[], bool],
    *,
    rank: int = 0,
    resume: bool = False,
) -> TrainSetup:
    """What `train.loop.run` is given, for one rank."""
    return TrainSetup(
        section=materials.train,
        plan=plan,
        build=materials.network,
        task=materials.task,
        feed=partial(materials.feed, rank, plan.world_size, recorder, plan),
        validation=partial(materials.judged, "validation", rank, plan.world_size),
        checkpoints=paths.checkpoints,
        recorder=recorder,
        progress=progress,
        stop=stop,
        rank=rank,
        world_size=plan.world_size,
        tensorboard=paths.tensorboard if rank == 0 else None,
        resume=resume,
    )
