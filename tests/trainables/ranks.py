"""Runs a function on several gloo ranks, each a fresh process, and gives back what every rank returned."""

from __future__ import annotations

import traceback
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from trainables.groups import DistributedGroup


def on_ranks(function, size, folder: Path, *arguments):
    """``[function(group, *arguments) of each rank]``; raises RuntimeError with the trace of a rank that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    mp.spawn(_rank, args=(size, folder, function, arguments), nprocs=size)
    answers = [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]
    for error, _ in answers:
        if error:
            raise RuntimeError(error)
    return [answer for _, answer in answers]


def _rank(rank, size, folder, function, arguments):
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=size)
    error, answer = None, None
    try:
        # A group of its own: code that used the default one by mistake would still pass otherwise.
        group = DistributedGroup(dist.new_group(list(range(size))))
        answer = function(group, *arguments)
    except Exception:
        error = traceback.format_exc()
    torch.save((error, answer), folder / f"{rank}.pt")
    dist.destroy_process_group()
