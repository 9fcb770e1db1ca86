"""fit: the whole training, from top to bottom."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from toque import data
from toque.data import OwnData
from toque.train import distributed, finish, first_signal, parts, prepare
from toque.train import run as settings
from toque.train.distributed import World, preparing
from toque.train.distributed.follower import SilentLog, SilentProgress, SilentSaver
from toque.train.logs import loggers, progress
from toque.train.logs.clock import Clock, memory_bytes
from toque.train.logs.crowding import crowded
from toque.train.logs.log import MetricsLog, Window
from toque.train.measure import Evaluation, Loss, measure
from toque.train.metrics import Scores
from toque.train.nonfinite import NonFinite
from toque.train.optimisation.schedule import schedule
from toque.train.prepare import Own, OwnModel
from toque.train.reporting import conclude
from toque.train.rewind import Rewindable
from toque.train.run import Run
from toque.train.run_folder import environment, folder
from toque.train.run_folder.inventory import Inventory
from toque.train.state import checkpoint
from toque.train.state.saving import Saver
from toque.train.steps.precision import Precision
from toque.train.stop import Stopped, StopRequest
from toque.train.stopping import EarlyStop


@dataclass(frozen=True)
class Result:
    """How a run ended.

    run:         the resolved settings
    out:         the run folder
    model:       the network with the kept weights, in evaluation mode
    classes:     the names of its outputs
    evaluation:  what the kept weights answer on the validation images
    scores:      what that is worth and how sure it is; None where the outputs name no classes
    images_seen: how many images were trained on, also before a restart
    seconds:     how long this call took
    """

    run: Run
    out: Path
    model: nn.Module
    classes: tuple[str, ...]
    evaluation: Evaluation
    scores: Scores | None
    images_seen: int
    seconds: float

    @property
    def accuracy(self) -> float | None:
        return self.evaluation.accuracy

    @property
    def loss(self) -> float:
        return self.evaluation.loss

    def summary(self) -> str:
        """ "accuracy 91.2 % (90.0 to 92.4), loss 0.3051 on 2000 validation images"."""
        return f"{self.evaluation.summary(self.scores)} validation images"

    @property
    def weights(self) -> Path:
        return self.out / folder.WEIGHTS

    @property
    def report(self) -> Path:
        return self.out / folder.REPORT


def fit(
    run: Run,
    *,
    train: OwnData | None = None,
    val: OwnData | None = None,
    model: OwnModel | None = None,
    loss: Loss | None = None,
    show: progress.Kind = "auto",
) -> Result:
    """Train, or continue, the run that the settings describe; a pure function of them and the data.

    Killed at any moment and called again with the same arguments, it ends in the same bits (same
    machine and number of torch threads). Progress is counted in images: order, augmentation,
    learning rate and torch's own draws are functions of (seed, images seen).

    Args:    train, val: your own Dataset giving (image, target), in place of `run.data`; without
             `val` a keyed share of `train` is kept to validate
             model: your own module, or a function that builds it (called under the run's seed;
             prefer it: a module you built has drawn its weights from somewhere else)
             loss: (outputs, targets) -> mean over the batch
             show: "auto", "bar", "lines" or "quiet"
    Raises:  ValueError, TypeError, FileNotFoundError: one sentence with the fix, before anything is
             written
             Stopped: after SIGINT or SIGTERM, with the state saved
    Example: >>> result = toque.fit(toque.Run(data="photos/", model="resnet18", epochs=10))
             >>> result.accuracy, result.report
    """
    with distributed.joined(run.distributed.timeout_s) as world, distributed.together(world):
        return _fit(run, Own(train, val, model, loss), show, world)


def _fit(run: Run, own: Own, show: progress.Kind, world: World) -> Result:
    began = time.monotonic()
    splits = prepare.open_splits(run, own)
    task = prepare.task_of(splits, own)
    asked, run = run, prepare.resolve(run, splits, own, task)
    preparing.check(run, world)
    device = prepare.pick_device(run.device, world.local_rank)
    training_pipeline, validation_pipeline = prepare.pipelines(run, splits, task)
    network = preparing.place(run, world, prepare.build_model(run, splits, own, task, device))
    training_loss, validation_loss = prepare.build_losses(run, own, task)
    num_images = len(splits.train)
    total_images = parts.total_images(run, splits)
    rate = schedule(run, total_images)
    precision = Precision(run.precision, device)
    early = EarlyStop(run.stop)
    window = Window(task.counts_right, world)
    trouble = NonFinite(
        run.nonfinite,
        run.batch_size,
        name_of=splits.train.name,
        warn=lambda sentence: warn(sentence),
        scaled=precision.name == "float16",
    )
    images_seen = 0
    shown = progress.create(show) if world.first else SilentProgress()
    notes: list[str] = []

    def warn(sentence: str) -> None:
        notes.append(sentence)
        shown.say(f"warning: {sentence}")

    step = parts.build_step(run, splits, network, training_loss, precision, world, shown.say)
    step.warn = warn
    fingerprint = environment.fingerprint(device) | {"precision": precision.name}
    fingerprint |= preparing.fingerprint(run, world)
    recorded = prepare.record(splits, fingerprint)
    distributed.check_same(world, settings.identity(run), recorded)

    def state() -> dict[str, Any]:
        return {
            **step.state_dict(),
            "images_seen": images_seen,
            "window": window.state_dict(),
            "scores": early.scores,
            "nonfinite": trouble.state_dict(),
            "environment": fingerprint,
        }

    def restore(saved: Mapping[str, Any]) -> int:
        step.load_state_dict(saved)
        window.load_state_dict(saved["window"])
        early.scores = saved["scores"]
        trouble.load_state_dict(saved["nonfinite"])
        count: int = saved["images_seen"]
        return count

    def validate(model: nn.Module) -> Evaluation:
        batches = data.evaluation_batches(
            splits.val,
            validation_pipeline,
            batch_size=run.batch_size,
            threads=run.threads or 1,
            workers=run.workers,
            rank=world.rank,
            ranks=world.size,
        )
        world.share(model, "the running statistics", parameters=False)
        shape = (splits.channels, run.image_size or 1, run.image_size or 1)
        lockstep = preparing.lockstep(run, world, model, len(splits.val), shape)
        return measure(model, batches, task, validation_loss, device, precision, world, lockstep)

    for note in (*splits.notes, *preparing.notes(run, world, network)):
        warn(note)
    images = Inventory(splits)
    opened = folder.opened(run, recorded, images) if world.first else folder.elsewhere(run)
    with opened as out, StopRequest() as stop, contextlib.ExitStack() as end:
        end.enter_context(precision.in_force())
        end.enter_context(preparing.steady_threads(run, device))
        if not out.locked:
            warn(f"{out.path} cannot be locked: do not let two processes train in it")
        found, restored, damages = world.first_does(
            lambda: checkpoint.load_newest(out.checkpoints), "the checkpoint"
        )
        for damage in damages:
            warn(damage)
        if found is not None:
            images_seen = restore(restored)
            if early.due:
                total_images = images_seen
            shown.say(f"{out.path} continues at image {images_seen} of {total_images}")
            changed = environment.differences(restored["environment"], fingerprint)
            if changed:
                warn(
                    f"this run cannot end in the bits it would have had: "
                    f"{', '.join(changed)} since it was saved."
                )
        log: MetricsLog | SilentLog = SilentLog()
        saver: Saver | SilentSaver = SilentSaver()
        if world.first:
            others = loggers.create(run, out.path, images_seen, warn)
            log = MetricsLog(out.metrics, images_seen, others)
            saver = Saver(out.checkpoints, run.checkpoint, warn)
        end.callback(log.close)
        end.enter_context(saver)
        decisions = distributed.Decisions(world)
        if found is None and world.size == 1:
            first_signal.write(
                out.path, run, splits.train, training_pipeline, network, device, warn
            )
        if found is None and isinstance(own.model, nn.Module):
            # Weights from somewhere else: a restart must not depend on drawing them again.
            saver.save(state(), 0, None)

        batches = Rewindable(
            lambda start: parts.train_batches(
                run, splits, training_pipeline, start, total_images, world
            ),
            images_seen,
        )
        end.enter_context(contextlib.closing(batches))
        row_images = run.log.every_images or num_images
        row_began, row_began_images = time.monotonic(), images_seen
        first_step = True
        evaluated_images = -1
        shown.begin(images_seen, total_images)
        end.callback(shown.end)
        if busy := crowded(device, environment.num_cores()):
            shown.say(busy)
        network.train()
        clock = Clock(device)
        for batch in clock.watch(batches):
            learning_rate = rate(images_seen) * trouble.rate_factor
            clock.step_begins()
            outcome = step(batch, images_seen, learning_rate)
            clock.step_ends()
            before, images_seen = images_seen, images_seen + run.batch_size

            row_due = images_seen // row_images > before // row_images
            epoch_done = images_seen // num_images > before // num_images
            last = images_seen >= total_images
            due, signal_number = decisions.agree(saver.due(), stop.signal_number)
            save_due = epoch_done or last or due or signal_number is not None
            if window.add(outcome) or row_due or save_due or first_step:
                # Also before every checkpoint: what led to no number is never the newest one.
                if trouble.judge(window.settle(), learning_rate):
                    factor = trouble.rate_factor
                    saver.settle()
                    began_images = trouble.began_images
                    good = world.first_does(
                        partial(checkpoint.load_scored, out.checkpoints, began_images),
                        "the checkpoint to go back to",
                    )
                    if good is None:
                        raise trouble.no_way_back()
                    images_seen = restore(good)
                    trouble.rolled_back(images_seen, factor)
                    log.cut(images_seen)
                    batches.rewind(images_seen)
                    row_began, row_began_images = time.monotonic(), images_seen
                    continue
                save_due = (save_due and not trouble.streak) or last
                clock.settled()
                first_step = False
            if row_due or last:
                now = time.monotonic()
                row = window.take()
                if trouble.skipped_steps:
                    row["skipped_steps"] = trouble.skipped_steps
                row |= {
                    "images_seen": images_seen,
                    "epoch": images_seen / num_images,
                    "split": "train",
                    "learning_rate": learning_rate,
                    "images_per_s": (images_seen - row_began_images) / max(now - row_began, 1e-9),
                    "time_s": now - began,
                    **clock.take("train"),
                    "memory_bytes": memory_bytes(device),
                }
                log.write(row)
                shown.step(images_seen, row["loss"], learning_rate)
                row_began, row_began_images = now, images_seen
            score = None
            if epoch_done or last:
                clock.lap("host")
                with step.optimizers.averaged(), step.evaluated() as evaluated:
                    evaluation = validate(evaluated)
                evaluated_images = images_seen
                clock.lap("validation")
                score = evaluation.score
                last = early.add(score) or last
                now = time.monotonic()
                row = {
                    "images_seen": images_seen,
                    "epoch": images_seen / num_images,
                    "split": "val",
                    "loss": evaluation.loss,
                    "images_per_s": len(splits.val) / max(now - row_began, 1e-9),
                    "time_s": now - began,
                    **clock.take("val"),
                    **evaluation.metrics,
                }
                log.write(row)
                shown.say(finish.epoch_sentence(row, log.rows, evaluation.main))
                if hint := clock.advise(row, run, splits.train):
                    shown.say(hint)
                row_began = time.monotonic()
            if save_due:
                clock.lap("host")
                saver.save(state(), images_seen, score)
                clock.lap("checkpoint")
                if signal_number is not None and not last:
                    saved = saver.settle()
                    raise Stopped(signal_number, finish.stop_sentence(saved, images_seen))
            if early.due:
                break

        shown.end()
        decisions.settle()
        saver.finish()
        kept, kept_images = finish.keep_weights(run, out, step, splits, task, warn, world)
        if kept_images != evaluated_images:  # else these very weights were validated last
            evaluation = validate(kept)
        seconds = time.monotonic() - began
        scores = world.first_does(
            lambda: conclude(
                asked, run, out, splits, evaluation, recorded, notes,
                images_seen=images_seen, seconds=seconds,
            ),
            "the report",
        )  # fmt: skip
        return Result(run, out.path, kept, splits.classes, evaluation, scores, images_seen, seconds)
