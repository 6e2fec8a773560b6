"""The training loop: shards → SAM2 fine-tuned on the scan. One process, or several by torchrun.

    weights = train(TrainSettings(data=("out/shards",), size="tiny"), Path("runs/sap-tiny"))

A step sees `batch` clips, a few at a time. Which clips, which prompts and which dropout follows
from the numbers of the parts that it is made of, so that a run that was killed goes on exactly from
its last state, and several processes do together what one would do alone. On a CPU that is to the
last bit; GPUs add some sums in an order that is not fixed, so that last bits may differ there.

Gradients are summed over the processes once a step, after the last backward pass.
(DistributedDataParallel sums within each, and would have to find out which parameters were used: a
clip of one frame uses no memory.)
"""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from training.loss_fns import CORE_LOSS_KEY

from pipeline.storage import exclusive_lock
from sap_model.model.build import build
from sap_model.model.checkpoints import fill, find
from sap_model.model.weights_file import read_weights
from sap_model.predict.methods import METHODS, scan_of
from sap_model.train import run_folder, validation
from sap_model.train.clip import ClipBatch
from sap_model.train.loss import FromScratchLoss, Sam2Loss
from sap_model.train.mixture import check_data, check_shared_memory, load, make, rows_of
from sap_model.train.network import PROMPTS, TRAIN, SapTrain
from sap_model.train.optimizer import new_optimizers, rate, set_rate
from sap_model.train.processes import World, flushed_denormals, processes
from sap_model.train.run_folder import RunLog
from sap_model.train.sa1b import write_index
from sap_model.train.scan_clips import ScanClips
from sap_model.train.settings import TrainSettings, Watch
from sap_model.train.shard_rows import ShardRows

DIVERGED, PATIENCE = 20.0, 20
"""A loss that is this many times its running mean for this many steps will not come back."""


def train(settings: TrainSettings, out: Path, watch: Watch | None = None) -> Path:
    """Train, or go on with a run that was stopped.

    Args:
        settings: What the run is.
        out: The run's folder; `checkpoints` says what is in it.
        watch: How it is watched.

    Returns:
        The file with the weights after the last step, as SAM2 publishes its own.

    Raises:
        UserError: Settings, data, checkpoint or folder will not do; or the loss diverged.
    """
    weights = out / "weights.pt"
    with flushed_denormals(), processes() as world, ExitStack() as held:
        finished = False
        with world.agreed():
            settings.chunks(world.size)
            if world.rank == 0:
                held.enter_context(exclusive_lock(out / ".lock", "training"))
                finished = run_folder.holds(out, settings) and weights.is_file()
        if not world.gather(finished)[0]:
            _train(settings, out, watch or Watch(), world)
        elif world.rank == 0:
            print(f"{out} is done already", flush=True)
    return weights


def _train(settings: TrainSettings, out: Path, watch: Watch, world: World) -> None:
    # ---- everything that can be refused is, before the first step
    watched: list[ClipBatch] = []
    held_out: ShardRows | None = None
    state: dict[str, Any] | None = None
    index = out / "sa1b.npy" if any(name == "sa1b" for name, _ in settings.mix) else None
    with world.agreed():
        if world.rank == 0 and index is not None:
            write_index(settings.sa1b or "", index)  # millions of names, listed by one process
    with world.agreed():
        mixture = make(settings, index)
        network = new_network(settings).to(world.device).train()
        if world.rank == 0:
            names = check_data(settings)
            rows = [len(source) for source, _ in mixture.sources]
            run_folder.open_run(out, settings, {"names": names, "rows": rows})
            held_out = rows_of(settings, "validation") if watch.clips else None
            watched = validation_clips(settings, watch, held_out)
            state = run_folder.last_state(out)
        if watch.workers:
            check_shared_memory(mixture[world.rank], watch.workers)
    chunks = settings.chunks(world.size)
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizers = new_optimizers(network, settings)
    loss_of = Sam2Loss(settings.checkpointing) if settings.loss == "sam2" else FromScratchLoss()

    # ---- where an earlier call stopped: all go on from the state that the first process could read
    done, best, usual = 0, -1.0, 0.0
    last_step = world.gather(state and state["step"])[0]
    with world.agreed():
        if world.rank and last_step is not None:
            state = run_folder.state_of(out, last_step)
    if state is not None:
        network.load_state_dict(state["model"])
        for optimizer, its in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(its)
        done, best, usual = state["step"], state["best"], state["usual"]
    records = RunLog(out, settings.steps, done) if world.rank == 0 else None

    # ---- the parts of all steps to come: part k of step s is number s * chunks + k of its process
    first, last = (count * chunks * world.size + world.rank for count in (done, settings.steps))
    numbers = range(first, last, world.size)
    parts = iter(zip(numbers, load(mixture, numbers, watch.workers, world.on_gpu), strict=True))
    half = world.on_gpu if settings.precision == "auto" else settings.precision == "bf16"
    strikes = 0

    for step in range(done + 1, settings.steps + 1):
        started, waited = time.perf_counter(), 0.0
        lr = rate(step - 1, settings)
        set_rate(optimizers, lr)
        if isinstance(loss_of, FromScratchLoss):
            left = 1 - step / settings.steps / max(settings.balanced_fraction, 1e-9)
            loss_of.balance = float(np.clip(left / 0.8, 0, 1))

        # ---- forward and backward, part by part
        sums: dict[str, Tensor] = {}
        for _ in range(chunks):
            asked = time.perf_counter()
            number, batches = next(parts)
            waited += time.perf_counter() - asked
            for k, batch in enumerate(batches):
                batch = batch.to(world.device)
                network.seed(_seed(settings.seed, number, k))
                with torch.autocast(world.device.type, torch.bfloat16, enabled=half):
                    tracked = network(batch)
                losses = loss_of(tracked, batch.masks)
                share = len(batch.bits) / (settings.batch_size * settings.clip_objects)
                (losses[CORE_LOSS_KEY] * share).backward()
                for name, value in losses.items():
                    # on the device: to look at a number would wait for all work before it
                    sums[name] = sums.get(name, 0.0) + value.detach() * share

        # ---- one step for all processes
        world.sum_gradients(trained)
        values = world.sum_values(sums)
        norm = float(nn.utils.clip_grad_norm_(trained, settings.max_grad_norm))
        loss = values[CORE_LOSS_KEY]
        if not (math.isfinite(loss) and math.isfinite(norm)):
            world.refuse(
                f"step {step}: the loss is {loss:g} and its gradient's norm {norm:g}; stopped "
                "before that reached the weights. The same command would come to the same step: "
                f"{run_folder.lower_lr(out)}"
            )
        strikes = strikes + 1 if step > PATIENCE and loss > DIVERGED * usual else 0
        if strikes == PATIENCE:
            world.refuse(
                f"step {step}: for {PATIENCE} steps the loss was over {DIVERGED:g} times its usual "
                f"{usual:.3g}: {run_folder.lower_lr(out)}"
            )
        if not strikes:
            usual += (loss - usual) / min(step, 100)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        # ---- what is seen and kept of it
        if records is None:
            continue
        records.step(step, values, lr, norm, time.perf_counter() - started, waited)
        end = step == settings.steps
        if step % watch.log_every == 0 or end:
            records.show()
        if watched and (step % watch.validate_every == 0 or end):
            score, masks = validation.score(network, watched, settings.min_pixels, half)
            if watch.panoramas and held_out is not None:
                found = validation.panorama_iou(
                    network, settings, held_out, watch.panoramas, watch.panorama_objects
                )
                score = replace(score, panorama=found)
            records.validated(step, score)
            validation.draw(out / "pictures" / f"{step:08d}.jpg", watched, masks)
            if score.criterion > best:
                best = score.criterion
                run_folder.export(network, out / "best.pt")
        # not among strikes: that would push out the last good state (so a state is at no strikes)
        if not strikes and (step % watch.save_every == 0 or end):
            kept = {
                "model": network.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
                "best": best,
                "usual": usual,
            }
            run_folder.save_state(out, step, kept)

    if records is not None:
        records.close()
        run_folder.export(network, out / "weights.pt")


def new_network(settings: TrainSettings) -> SapTrain:
    """The network with the weights that training starts from.

    Raises:
        UserError: The checkpoint cannot be had, or is for another architecture.
    """
    prompts = PROMPTS | {
        "prob_to_use_pt_input_for_train": settings.point_probability,
        "prob_to_use_box_input_for_train": settings.box_probability,
        "num_correction_pt_per_frame": settings.correction_clicks,
    }
    network = build(
        settings.size,
        settings.image_size,
        TRAIN,
        settings.seed,
        freeze_encoder=settings.freeze_encoder,
        teacher_forced_presence=settings.teacher_forced_presence,
        teacher_forced_memory=settings.teacher_forced_memory,
        pixel_grouping=settings.pixel_grouping_loss,
        checkpointing=settings.checkpointing,
        **prompts,
    )
    if settings.checkpoint is not None:
        path = find(settings.checkpoint, settings.size)
        fill(network, read_weights(path), path)
    return cast(SapTrain, network)


def validation_clips(
    settings: TrainSettings, watch: Watch, rows: ShardRows | None
) -> list[ClipBatch]:
    """Fixed clips of validation panoramas, prompted as at inference; says so if there are none."""
    if not watch.clips:
        return []
    if rows is None:
        print("no validation split: nothing is validated, and no best.pt written", flush=True)
        return []
    source = ScanClips(
        rows,
        settings.image_size,
        settings.clip_objects,
        watch.frames,
        inference_prompt_fraction=1.0,
        min_pixels=settings.min_pixels,
        scan=scan_of(settings.method),
        views=METHODS[settings.method].views,
        prompted=settings.prompted,
        random_clicks=0.0,
    )
    return validation.fixed_clips(source, watch.clips)


def _seed(seed: int, number: int, batch: int) -> int:
    """What the prompts and the dropout of a batch are drawn from."""
    return int(np.random.SeedSequence([seed, number, batch]).generate_state(1)[0])
