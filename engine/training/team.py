"""The processes that train one model together. Alone, every call is free of torch.distributed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.errors import DynoError
from engine.leaving import stays
from engine.models.devices import DeviceFacts, pick_device


@dataclass(frozen=True)
class Team:
    """This process's place in it. rank 0 writes files and tells what happens."""

    rank: int = 0
    world: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    def total(self, values: Tensor) -> Tensor:
        """The sum of a tensor over all processes."""
        if self.world > 1:
            torch.distributed.all_reduce(values)
        return values

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether any process says yes."""
        return flag if self.world == 1 else bool(self.total(torch.tensor(float(flag), device=device)) > 0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            torch.distributed.barrier()


def run_in_team(device: str | None, work: Callable[[Team, DeviceFacts], int]) -> int:
    """Join the processes that torchrun started, or work alone. Raises DynoError."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return work(Team(), pick_device(device))
    local = int(os.environ["LOCAL_RANK"])
    cards = torch.cuda.device_count() if device in (None, "cuda") else 0
    if 0 < cards <= local:
        raise DynoError(f"Process {local} has no card: the machine has {cards}.",
                        "Start one process for each card: torchrun --nproc-per-node.")
    facts = pick_device(f"cuda:{local}" if cards else device or "cpu")
    torch.distributed.init_process_group("nccl" if cards else "gloo")
    # Sharded and wrapped networks hold the group from C++, so destroying it leaves its threads at work.
    stays("torch.distributed")
    try:
        return work(Team(int(os.environ["RANK"]), world), facts)
    finally:
        torch.distributed.destroy_process_group()
