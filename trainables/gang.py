"""Rank side of a gang: a warm group of ranks under Ray Train that trains trial after trial.

Two process groups, so that ranks never meet in a wrong collective: the default one (gloo, on every device) between
trials only, the trial group for everything inside one, reports included. A rank that fails destroys its trial group,
which wakes its peers within milliseconds on gloo; then all meet on the default group, agree on the root cause and make
a new one.

On CUDA a peer that is stuck in an NCCL kernel cannot be woken. There the meeting after a failure is bounded, and unless
all ranks failed alike the processes are started again.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from search_spaces.names import FailureClass
from search_spaces.results import Failure, Order
from trainables.failures import node_failure
from trainables.groups import DistributedGroup, Group, SingleProcess
from trainables.notice import NOTICE, Courier
from trainables.rank_config import RankConfig
from trainables.warm import Attempt, ProcessState, Wear, attempt, load_function, release_memory

CUDA_MEETING_S = 30.0
"""How long a rank that failed on CUDA waits for its peers before it takes them for stuck."""


class RecycleRanksError(RuntimeError):
    """Raised out of the loop on purpose: Ray Train starts the ranks of this gang in fresh processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What one rank brings to the meeting after a trial."""

    failure: Failure | None
    lost_a_peer: bool
    worn: bool


def ranks(raw_config: dict[str, Any]) -> None:
    """The ``train_loop_per_worker`` of a gang: runs until the broker says bye.

    Args:
        raw_config: A RankConfig as a mapping.
    """
    import ray
    import ray.train.torch

    config = RankConfig(**raw_config)
    broker = ray.get_actor(config.broker)
    context = ray.train.get_context()
    device: torch.device = ray.train.torch.get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)

    def call(method: str, *arguments: Any) -> Any:
        return ray.get(getattr(broker, method).remote(config.gang, *arguments))

    rank = Rank(config, context.get_world_rank(), context.get_world_size(), device, call)
    here = ray.get_runtime_context()
    rank.run(here.current_actor, here.get_node_id())


class Rank:
    """One rank. Needs a default process group on gloo if there are others.

    Args:
        config: What every rank is told.
        rank: 0 .. size - 1.
        size: Number of ranks.
        device: Where this one computes.
        call: Calls a method of the broker for this gang.
    """

    def __init__(
        self, config: RankConfig, rank: int, size: int, device: torch.device, call: Callable[..., Any]
    ) -> None:
        self._rank, self._size, self._device, self._call = rank, size, device, call
        self._timeout = timedelta(seconds=config.timeout_s)
        self._train = load_function(config.train)
        self._state = ProcessState(config.threads)
        self._wear = Wear(config.memory_growth_bytes)
        self._backend = config.backend
        self._courier = Courier() if rank == 0 else None
        self._trial_group: dist.ProcessGroup | None = None
        self._control_group: dist.ProcessGroup | None = None
        self._generation = 0

    def run(self, me: Any, node: str = "") -> None:
        """Train trial after trial until the broker says bye.

        Args:
            me: Actor handle of this rank; the broker kills a stuck gang with rank 0's.
            node: Id of the node that this rank is on.

        Raises:
            RecycleRanksError: The gang should go on in fresh processes.
        """
        self._open_groups()
        nodes = self._gathered(node)
        self._generation = self._shared(self._call("hello", me, nodes) if self._rank == 0 else None)
        while True:
            task, key, trial = self._shared(
                self._call("next", self._generation) if self._rank == 0 else None
            )  # an idle answer is the tick that keeps the default group from timing out
            if task == "bye":
                return
            if task == "trial":
                self._trial(key, trial)

    def _trial(self, key: str, trial: dict[str, Any]) -> None:
        self._state.restore()

        def tell(report: dict[str, Any]) -> Order:
            answer = None
            if self._rank == 0:
                answer = NOTICE.heeded(Order(self._call("report", self._generation, key, report))).value
            return Order(self._shared(answer, self._control_group))

        with self._orders(key):
            ended = attempt(self._train, trial, self._group(), tell)
        if ended.failure is not None:
            self._close_group()
        self._agree(key, ended)

    def _orders(self, key: str) -> AbstractContextManager[None]:
        """Between reports rank 0 asks for orders; the others hear of them in the collectives of training."""
        if self._courier is None:
            return nullcontext()
        return self._courier.asking(lambda: str(self._call("urgent", self._generation, key)))

    def _agree(self, key: str, ended: Attempt) -> None:
        """Meet after a trial, tell the broker how it ended, and be ready for the next one."""
        try:
            endings = self._meet(ended)
        except RuntimeError as error:
            failure = ended.failure or node_failure(f"rank {self._rank} could not meet the others: {error}")
            self._call("done", self._generation, key, Attempt(failure=failure).message())
            raise RecycleRanksError(f"ranks are stuck after a failure: {failure.message}") from error
        root = root_cause(endings)
        if self._rank == 0:
            message = ended.message() if root is None else Attempt(failure=root).message()
            self._call("done", self._generation, key, message)
        reason = self._reason_to_part(root, endings)
        if reason:
            self._shared(None)  # rank 0 must have told the broker before Train sees an error and kills it
            raise RecycleRanksError(reason)
        if root is not None:
            self._close_group()
            self._open_groups()

    def _meet(self, ended: Attempt) -> list[Ending]:
        mine = Ending(failure=ended.failure, lost_a_peer=ended.lost_a_peer, worn=self._wear.after_trial())
        if self._device.type == "cuda" and self._size > 1:
            patience = timedelta(seconds=CUDA_MEETING_S) if ended.failure is not None else self._timeout
            dist.monitored_barrier(timeout=patience)
        return self._gathered(mine)

    def _reason_to_part(self, root: Failure | None, endings: list[Ending]) -> str:
        """Why this gang should go on in fresh processes; empty if it can go on in these."""
        if any(e.worn for e in endings):
            return "a rank has grown too large"
        if root is None:
            return ""
        if root.failure_class is FailureClass.MEMORY:
            return f"out of memory: {root.message}"
        if self._device.type == "cuda" and root.failure_class is FailureClass.USER:
            return f"a device error would outlast the trial: {root.message}"
        alike = all(e.failure is not None and not e.lost_a_peer for e in endings)
        if self._device.type == "cuda" and self._size > 1 and not alike:
            return f"some ranks failed and others may be stuck in NCCL: {root.message}"
        return ""

    def _open_groups(self) -> None:
        if self._size == 1:
            return
        self._trial_group = self._control_group = self._new_group("gloo")
        if self._device.type == "cuda" and self._backend == "nccl":
            self._trial_group = self._new_group("cpu:gloo,cuda:nccl")

    def _new_group(self, backend: str) -> dist.ProcessGroup:
        group = dist.new_group(backend=backend, timeout=self._timeout)
        if not isinstance(group, dist.ProcessGroup):
            raise RuntimeError(f"rank {self._rank} is no member of its own gang's {backend} group")
        return group

    def _close_group(self) -> None:
        """Close this rank's sockets of the trial group; peers that wait in it wake with an error."""
        release_memory()  # DDP holds the group until its reference cycles are collected
        if self._control_group is not None:
            dist.destroy_process_group(self._control_group)
        # The last reference: sockets stay open, and peers asleep, for as long as one is left.
        self._control_group = self._trial_group = None

    def _group(self) -> Group:
        if self._trial_group is None:
            return SingleProcess(self._device)
        return DistributedGroup(self._trial_group, self._device)

    def _gathered(self, value: Any) -> list[Any]:
        """Every rank's value, on every rank."""
        values: list[Any] = [value] * self._size
        if self._size > 1:
            dist.all_gather_object(values, value)
        return values

    def _shared(self, value: Any, group: dist.ProcessGroup | None = None) -> Any:
        """Rank 0's value, on every rank."""
        if self._size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=group)
        return box[0]


def root_cause(endings: list[Ending]) -> Failure | None:
    """The failure that the others follow from: one that is more than the loss of a peer, lowest rank first.

    If ranks lost each other and none says why, the network or a node is to blame: class ``node``.
    """
    failed = [e for e in endings if e.failure is not None]
    if not failed:
        return None
    own = [e.failure for e in failed if not e.lost_a_peer]
    first = own[0] if own else failed[0].failure
    if first is None or own:
        return first
    return first.model_copy(update={"failure_class": FailureClass.NODE})
