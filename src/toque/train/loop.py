"""fit: the whole training, from top to bottom."""

from __future__ import annotations

import contextlib
import time

from torch import nn

from toque.data import OwnData
from toque.train import build, distributed, finish, first_signal, parts, prepare
from toque.train import run as settings
from toque.train.course.early_stop import EarlyStop
from toque.train.course.nonfinite import NonFinite
from toque.train.course.rewind import Rewindable
from toque.train.course.rolling_back import RollBack
from toque.train.course.standing import Standing
from toque.train.distributed import World, preparing
from toque.train.distributed.follower import SilentLog
from toque.train.logs import loggers, progress
from toque.train.logs.clock import Clock
from toque.train.logs.crowding import crowded
from toque.train.logs.log import MetricsLog
from toque.train.logs.rows import Rows
from toque.train.logs.window import Window
from toque.train.measure import Loss
from toque.train.optimisation.schedule import schedule
from toque.train.prepare import Own, OwnModel
from toque.train.reporting import conclude
from toque.train.result import Result
from toque.train.run import Run
from toque.train.run_folder import environment, folder
from toque.train.run_folder.inventory import Inventory
from toque.train.steps.precision import Precision
from toque.train.stop import Stopped, StopRequest
from toque.train.validation import Validation


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
    prepare.check_given(run, given := Own(train, val, model, loss))
    with distributed.joined(run.distributed.timeout_s) as world, distributed.together(world):
        return _fit(run, given, show, world)


def _fit(run: Run, own: Own, show: progress.Kind, world: World) -> Result:
    began = time.monotonic()
    shown = progress.create(show) if world.first else progress.Silent()
    notes: list[str] = []

    def warn(sentence: str) -> None:
        notes.append(sentence)
        shown.say(f"warning: {sentence}")

    with progress.said_if_slow(shown, f"looking at every image of {run.data} …"):
        splits = prepare.open_splits(run, own)
    task = prepare.task_of(splits, own)
    asked, run = run, prepare.resolve(run, splits, own, task)
    prepare.check_apart(run, splits)
    preparing.check(run, world)
    device = build.device(run.device, world.local_rank)
    training_pipeline, validation_pipeline = build.pipelines(run, splits, task)
    precision = Precision(run.precision, device)
    fingerprint = preparing.fingerprint(run, world, precision)
    recorded = prepare.record(splits, fingerprint)
    # Before the model: ranks with other models could not even exchange its first weights.
    differing = distributed.check_same(world, settings.identity(run), recorded)
    made = build.network(run, splits, own, task, device, shown.say)
    network = preparing.place(run, world, made)
    training_loss, validation_loss = build.losses(run, own, task, device)
    num_images, total_images = len(splits.train), parts.total_images(run, splits)
    rate = schedule(run, total_images)
    early = EarlyStop(run.stop)
    window = Window(task.counts_right, world)
    trouble = NonFinite(
        run.nonfinite, run.batch_size, name_of=splits.train.name, warn=warn,
        scaled=precision.name == "float16",
        world=world,
    )  # fmt: skip
    step = parts.build_step(run, splits, network, training_loss, precision, world, shown.say)
    step.warn = warn
    now = Standing(step, window, early, trouble, fingerprint)
    validate = Validation(
        run, splits, validation_pipeline, task, validation_loss, precision, world, shown
    )
    shown.say(prepare.in_words(run, splits, task, device))
    notes_before = (*splits.notes, *prepare.notes(run, splits), *differing)
    for note in (*notes_before, *preparing.notes(run, world, network)):
        warn(note)
    images = Inventory(splits)
    opened = folder.opened(run, recorded, images) if world.first else folder.elsewhere(run)
    with opened as out, StopRequest() as stop, contextlib.ExitStack() as end:
        end.enter_context(precision.in_force())
        end.enter_context(preparing.steady_threads(run, device))
        if not out.locked:
            warn(f"{out.path} cannot be locked: do not let two processes train in it")
        checkpoints = preparing.checkpoints(
            run, world, out.checkpoints, network, step.optimizers.parts, step.ema
        )
        if checkpoints.note:
            warn(checkpoints.note)
        fresh = not now.continue_from(checkpoints, warn)
        if early.due:
            total_images = now.images_seen
        if not fresh:
            shown.say(f"{out.path} continues at image {now.images_seen} of {total_images}")
            if world.first and (rewritten := images.rewritten(out.path)):
                warn(rewritten)
        log: MetricsLog | SilentLog = SilentLog()
        if world.first:
            others = loggers.create(run, out.path, now.images_seen, warn)
            log = MetricsLog(out.metrics, now.images_seen, others)
        saver = checkpoints.saver(run.checkpoint, warn)
        end.callback(log.close)
        end.enter_context(saver)
        if fresh and world.size == 1:
            first_signal.write(
                out.path, run, splits.train, training_pipeline, network, device, warn,
                at_a_time=step.micro_batch,
            )  # fmt: skip
        if fresh and (isinstance(own.model, nn.Module) or isinstance(run.pretrained, str)):
            # Weights from somewhere else: a restart must not depend on drawing them again.
            saver.save(now.state_dict(), 0, None)
        batches = Rewindable(
            lambda start: parts.train_batches(run, splits, start, total_images, world, device),
            now.images_seen,
        )
        end.enter_context(contextlib.closing(batches))
        roll_back = RollBack(now, trouble, checkpoints, saver, log, batches, warn)
        decisions = distributed.Decisions(world)
        shown.begin(now.images_seen, total_images)
        end.callback(shown.end)
        if busy := crowded(device, environment.num_cores()):
            shown.say(busy)
        network.train()
        clock = Clock(device)
        rows = Rows(run, num_images, window, clock, device, began)
        rows.begin(now.images_seen)
        row_images = run.log.every_images or num_images
        first_step = True
        evaluated_images = -1

        for batch in clock.watch(batches):
            before = now.images_seen
            learning_rate = rate(before) * trouble.rate_factor
            clock.step_begins()
            outcome = step(batch, before, learning_rate)
            clock.step_ends()
            now.images_seen = images_seen = before + run.batch_size

            row_due = images_seen // row_images > before // row_images
            epoch_done = images_seen // num_images > before // num_images
            last = images_seen >= total_images
            due, signal_number = decisions.agree(world.first and saver.due(), stop.signal_number)
            save_due = epoch_done or last or due or signal_number is not None
            # Also before every checkpoint: what led to no number is never the newest one.
            if not (window.add(outcome) or row_due or save_due or first_step):
                continue
            if trouble.judge(window.settle(), learning_rate):
                roll_back()
                rows.begin(now.images_seen)
                continue
            clock.settled()
            first_step = False
            save_due = (save_due and not trouble.streak) or last

            if row_due or last:
                row = rows.training(images_seen, learning_rate, trouble.skipped_steps)
                log.write(row)
                shown.step(images_seen, row["loss"], learning_rate)
            score = None
            if epoch_done or last:
                clock.lap("host")
                with step.optimizers.averaged(), step.evaluated() as evaluated:
                    evaluation = validate(evaluated)
                evaluated_images = images_seen
                clock.lap("validation")
                score = evaluation.score
                last = early.add(score) or last
                row = rows.validation(images_seen, evaluation, len(splits.val))
                log.write(row)
                shown.say(finish.epoch_sentence(row, log.rows, evaluation.main))
                if hint := clock.advise(row, run, splits.train):
                    shown.say(hint)
            if save_due:
                clock.lap("host")
                ends = last or signal_number is not None
                saver.save(now.state_dict(), images_seen, score, waiting=ends)
                clock.lap("checkpoint")
                if signal_number is not None and not last:
                    saved = saver.settle()
                    raise Stopped(signal_number, finish.stop_sentence(saved, images_seen))
            if early.due:
                break

        shown.end()
        decisions.settle()
        saver.finish()
        kept, kept_images = finish.keep_weights(
            run, out, checkpoints, step, splits, task, warn, world
        )
        if kept_images != evaluated_images:  # else these very weights were validated last
            evaluation = validate(kept)
        seconds = time.monotonic() - began
        ended = world.first_does(
            lambda: conclude(
                asked, run, out, splits, evaluation, recorded, notes,
                images_seen=now.images_seen, seconds=seconds,
            ),
            "the report",
        )  # fmt: skip
        return Result(
            run, out.path, kept, splits.classes, evaluation, ended.scores, ended.intervals,
            now.images_seen, seconds,
        )  # fmt: skip
