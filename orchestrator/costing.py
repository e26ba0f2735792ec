"""A plan with what it will cost: every wish that cannot be granted is one of its problems, beside all the others."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

from cluster.capacity import Capacity, Node, Shape
from orchestrator.assumed_speed import tflops_problem
from orchestrator.budget import limit_problem
from orchestrator.estimate import estimate, parse_nodes
from orchestrator.known_trials import known_trials
from orchestrator.places import Places
from orchestrator.plan import Plan
from orchestrator.run_terms import RunOptions
from search_spaces.exceptions import UserError
from search_spaces.study import GangSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class CostOptions:
    """For what a plan is to be priced.

    Attributes:
        slots: Trials at a time, at least 1; as many as fit the nodes if None.
        nodes: The cluster, such as ``2x(32,8)``; the CPUs of this machine if None.
        price: Of a GPU-hour in any currency, 0 or more.
        tflops: What one GPU sustains in training, in 1e12 operations per second; by its type if None.
        calibrate: Time a few steps of scales of which no trial has ended, on the CPU.
        run: How the run will differ from what the study says.
    """

    slots: int | None = None
    nodes: str | None = None
    price: float | None = None
    tflops: float | None = None
    calibrate: bool = False
    run: RunOptions = field(default_factory=RunOptions)


def costed(plan: Plan, places: Places, options: CostOptions, note: Callable[[str], None] = lambda _: None) -> Plan:
    """The plan with its estimate and the ids of what searches have chosen, or, if it or what was asked for has
    problems, with all of them.

    Args:
        plan: A plan, sound or not.
        places: Where its record is.
        options: What it is priced for.
        note: Told what is being timed.
    """
    nodes: list[Node] = []
    problems = []
    try:
        nodes = parse_nodes(options.nodes) if options.nodes is not None else []
    except UserError as error:
        problems.append(str(error))
    problems += _problems(plan.gangs, options, nodes, unreadable=bool(problems))
    if plan.problems or problems:
        return replace(plan, problems=(*plan.problems, *problems))
    try:
        known = known_trials(plan, places)
        made = estimate(
            known,
            places,
            slots=options.slots,
            nodes=nodes,
            price=options.price,
            tflops=options.tflops,
            calibrate=options.calibrate,
            note=note,
            options=options.run,
        )
    except UserError as error:  # what only the record says, such as that it is of another version
        return replace(plan, problems=(str(error),))
    return replace(known.plan, estimate=made)


def _problems(gangs: Iterable[GangSpec], options: CostOptions, nodes: Sequence[Node], unreadable: bool) -> list[str]:
    """Everything asked for that cannot be; without a cluster that can be read, nothing is said of what fits it."""
    gangs = list(gangs)
    found = []
    if options.slots is not None and options.slots < 1:
        found.append(f"--slots is the number of trials at a time, at least 1, got {options.slots}")
    if options.price is not None and not 0 <= options.price < math.inf:
        found.append(f"--price is that of a GPU-hour, 0 or more, got {options.price:g}")
    if problem := tflops_problem(options.tflops):
        found.append(problem)
    most, hours = options.run.max_concurrent, options.run.max_gpu_hours
    if most is not None and most < 1:
        found.append(f"--max-concurrent is the number of trials at a time, at least 1, got {most}")
    if hours is not None:
        priced = [Shape.of(gang, [{"Resources": {"GPU": 1.0}}]) for gang in gangs]
        # Of a plan with other problems no trial is known, and so not whether one uses a GPU.
        if problem := limit_problem(hours, [shape.size[0] for shape in priced] or [1.0]):
            found.append(problem)
    if options.slots is None and not unreadable:
        found += _misfits(gangs, nodes)
    return found


def _misfits(gangs: Sequence[GangSpec], nodes: Sequence[Node]) -> list[str]:
    """Gangs that do not fit. Of one shape alone this machine's CPUs say how many trials it may run at a time."""
    if not nodes and len(gangs) < 2:
        return []
    capacity = Capacity.of(nodes or [{"Resources": {"CPU": float(os.cpu_count() or 1)}}])
    hint = (
        ""
        if nodes
        else ". This machine was taken for the cluster; name yours, such as --nodes '2x(32,8)' for two nodes of 32 "
        "CPUs and 8 GPUs, or the trials at a time with --slots"
    )
    found = []
    for gang in gangs:
        try:
            capacity.require(Shape.of(gang, nodes))
        except UserError as error:
            found.append(f"{error}{hint}")
    return found
