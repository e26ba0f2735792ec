"""A stand-in for ``trainables.loop.train``: a small real DDP loop, and the accidents that tests ask for.

What a trial does stands in ``scale.arguments``: ``steps``, ``evaluations``, ``sleep_s`` per step, ``fault`` (one of
FAULTS, at step ``fault_step``), ``folder`` (checkpoints and markers of the test), ``shows`` (a marker that it makes)
and ``meets`` (markers that it waits for: trials that run at the same time).
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from search_spaces.amounts import Amount, Seed
from search_spaces.exceptions import DataError, DivergenceError
from search_spaces.expand import Cell, Trial
from search_spaces.names import State
from search_spaces.resolve import Resolver
from search_spaces.results import Order, TrialResult
from search_spaces.trial import ResolvedTrial, Workspace
from tests.search_spaces.examples import cards, study
from trainables.groups import Group
from trainables.warm import Tell, private_memory_bytes

WIDTH = 64
LEAK_BYTES = 256 * 2**20


def payload(number: int, folder: Path | str = "", **arguments: Any) -> dict[str, Any]:
    """A resolved trial as plain data; another ``number`` makes another trial."""
    cell = Cell(
        model_scale="resnet20",
        pretraining_source="random",
        data_fraction=Amount(kind="fraction", value=1.0),
        task="ham10000",
    )
    trial = Trial(cell=cell, seed=Seed(subset=number, init=number))
    workspace = Workspace(home="/none", storage="/none")
    resolved = Resolver(study(), cards()).resolved(trial, f"attempt-{number}", workspace).model_dump(mode="json")
    resolved["trial_id"] = f"{number:016x}"
    resolved["scale"]["arguments"] = {"folder": str(folder), **arguments}
    return resolved


def train(trial: ResolvedTrial, group: Group, tell: Tell) -> TrialResult | None:
    """Linear layers on random data, averaged over the ranks by DDP; a checkpoint with each report."""
    started = time.time()
    arguments: dict[str, Any] = {
        "steps": 4,
        "evaluations": 2,
        "sleep_s": 0.0,
        "fault": "",
        "fault_step": 1,
    } | trial.scale.arguments
    _meet(group, arguments)
    model, optimizer = _model(group)
    first_step = _load(trial, model, optimizer)
    loss = torch.zeros(())
    for step in range(first_step, arguments["steps"]):
        time.sleep(arguments["sleep_s"])
        if step == arguments["fault_step"] and arguments["fault"]:
            FAULTS[arguments["fault"]](group, Path(arguments["folder"]) / f"{trial.trial_id}.fault")
        generator = torch.Generator(device="cpu").manual_seed(trial.seed.init * 1000 + step * 10 + group.rank)
        images = torch.randn(8, WIDTH, generator=generator).to(group.device)
        torch.manual_seed(step)  # dropout: a resumed trial draws what it would have drawn
        loss = model(images).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % max(1, arguments["steps"] // arguments["evaluations"]) == 0:
            report = {
                "step": step + 1,
                "steps": arguments["steps"],
                "loss": loss.item(),
                "val": 0.5,
                "samples_per_s": 1.0,
            }
            _save(trial, group, model, optimizer, step + 1)
            if tell(report) is Order.STOP:
                return None
    if group.rank > 0:
        return None
    weights = torch.cat([p.detach().flatten().cpu() for p in model.parameters()])
    _pollute()
    return TrialResult(
        trial=trial,
        state=State.COMPLETE,
        steps=arguments["steps"],
        resumed_from=first_step,
        started_at=started,
        finished_at=time.time(),
        extra={"weights": weights.double().numpy().tobytes().hex(), "rss": private_memory_bytes(), "pid": os.getpid()},
    )


def _model(group: Group) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    # Drawn from the global state on purpose: a trial must find it as the first one did.
    noise = random.random() + float(np.random.random())  # noqa: NPY002
    model: torch.nn.Module = torch.nn.Sequential(
        torch.nn.Linear(WIDTH, WIDTH), torch.nn.Dropout(0.1), torch.nn.Linear(WIDTH, WIDTH)
    ).to(group.device)
    with torch.no_grad():
        model[0].bias.add_(noise)  # type: ignore[index]
    if group.process_group is not None:
        model = DistributedDataParallel(model, process_group=group.process_group)
    return model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def _pollute() -> None:
    """Leave the process as badly as a user's factory might."""
    random.seed(7)
    np.random.seed(7)  # noqa: NPY002
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.set_num_threads(2)
    os.chdir("/")


def _meet(group: Group, arguments: dict[str, Any]) -> None:
    folder = Path(arguments["folder"])
    if group.rank == 0 and "shows" in arguments:
        (folder / arguments["shows"]).touch()
        while not all((folder / name).exists() for name in arguments["meets"]):
            time.sleep(0.05)


def _checkpoint(trial: ResolvedTrial) -> Path | None:
    folder = trial.scale.arguments["folder"]
    return Path(folder) / f"{trial.trial_id}.pt" if folder else None


def _save(
    trial: ResolvedTrial, group: Group, model: torch.nn.Module, optimizer: torch.optim.Optimizer, step: int
) -> None:
    path = _checkpoint(trial)
    if path is not None and group.rank == 0:
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}, f"{path}.tmp")
        Path(f"{path}.tmp").rename(path)


def _load(trial: ResolvedTrial, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    path = _checkpoint(trial)
    if path is None or not path.exists():
        return 0
    saved = torch.load(path, weights_only=True)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return int(saved["step"])


def _kill(group: Group, marker: Path) -> None:
    if group.rank == group.size - 1:
        os.kill(os.getpid(), signal.SIGKILL)


def _kill_once(group: Group, marker: Path) -> None:
    if group.rank == group.size - 1 and not marker.exists():
        marker.touch()
        _kill(group, marker)


def _hang_once(group: Group, marker: Path) -> None:
    if group.rank == group.size - 1 and not marker.exists():
        marker.touch()
        time.sleep(3600)


def _hang(group: Group, marker: Path) -> None:
    time.sleep(3600)


_LEAKED: list[Any] = []


def _leak(group: Group, marker: Path) -> None:
    if group.rank == group.size - 1:
        _LEAKED.append(np.ones(LEAK_BYTES // 8))


def _raise_on_one(group: Group, marker: Path) -> None:
    if group.rank == group.size - 1:
        raise DataError("image '/clinic/Jane Doe/1.png' cannot be read")
    dist.all_reduce(torch.ones(1), group=group.process_group)


def _raise_on_first(group: Group, marker: Path) -> None:
    if group.rank == 0:
        raise KeyError("a bug in a factory")


def _diverge(group: Group, marker: Path) -> None:
    raise DivergenceError("loss is nan at step 1")


def _out_of_memory(group: Group, marker: Path) -> None:
    torch.empty(10**15)


def _exit(group: Group, marker: Path) -> None:
    sys.exit(3)


FAULTS = {
    "kill": _kill,
    "kill_once": _kill_once,
    "hang": _hang,
    "hang_once": _hang_once,
    "leak": _leak,
    "raise_on_one": _raise_on_one,
    "raise_on_first": _raise_on_first,
    "diverge": _diverge,
    "out_of_memory": _out_of_memory,
    "exit": _exit,
}
