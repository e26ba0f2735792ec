"""Places where tests and the chaos benchmark make a process die or fail, once.

Without ``SCALECURVES_FAILPOINTS`` in the environment they do nothing. Its value is a list such as
``publish.before_move=kill,checkpoint.mid_write=raise``; ``SCALECURVES_FAILPOINTS_ONCE`` names a folder that all
processes of the run see: the first process that comes to a place leaves a file there and acts, the others go on.
"""

from __future__ import annotations

import os
import signal
import time
from enum import StrEnum
from pathlib import Path

from search_spaces.exceptions import UserError, unknown

POINTS = {
    "trial.start": "a rank begins a trial",
    "trial.evaluated": "a rank has evaluated and not reported",
    "checkpoint.mid_write": "half of a checkpoint is written",
    "checkpoint.written": "a checkpoint is written and nobody knows",
    "publish.before_move": "a result lies under its temporary name",
    "publish.after_move": "a result lies in its place and nobody knows",
    "store.mid_build": "some images of a store are decoded",
    "claim.taken": "the driver has claimed a trial and not handed it out",
    "driver.handed_out": "the driver has handed out a trial",
    "driver.told": "the driver has heard of a result and not queued it for the record",
    "record.run_created": "the run of an attempt exists and holds nothing",
    "record.mid_delivery": "files are delivered, metrics and tags are not",
    "record.before_done": "everything but the run's status is delivered",
    "record.after_done": "the run is done and still in the spool",
    "report.before_attach": "the report is written and not attached",
}
"""Name -> where a process is when it comes there."""


class Action(StrEnum):
    """What happens at a failpoint."""

    KILL = "kill"
    RAISE = "raise"
    HANG = "hang"


def _wanted(text: str) -> dict[str, Action]:
    wanted = {}
    for item in filter(None, text.split(",")):
        name, _, action = item.partition("=")
        if name not in POINTS:
            raise UserError(unknown("failpoint", name, POINTS, "SCALECURVES_FAILPOINTS"))
        if action not in list(Action):
            raise UserError(unknown("action", action, list(Action), f"SCALECURVES_FAILPOINTS {name}"))
        wanted[name] = Action(action)
    return wanted


def failpoint(name: str) -> None:
    """Come to a place; what the environment asks for there happens in the first process that comes.

    Raises:
        OSError: That is what was asked for.
    """
    text = os.environ.get("SCALECURVES_FAILPOINTS")
    if not text:
        return
    action = _wanted(text).get(name)
    if action is None or not _first(name):
        return
    if action is Action.KILL:
        os.kill(os.getpid(), signal.SIGKILL)
    if action is Action.HANG:
        time.sleep(3600)
    raise OSError(f"failpoint {name}")


def _first(name: str) -> bool:
    folder = os.environ.get("SCALECURVES_FAILPOINTS_ONCE")
    if not folder:
        return True
    try:
        (Path(folder) / name).touch(exist_ok=False)
    except FileExistsError:
        return False
    return True
