"""How the processes of a team share a network: averaged gradients (DDP), or a share of everything each (FSDP2).

Sharded, blocks are gathered for their own forward and backward pass and let go again; embedding, last norm and head for
the whole of it. Whoever wants a whole weight (a checkpoint, the exported model) has to ask on every process.
torch.distributed's tensors are imported where they are needed: a single process does without.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from engine.training.network import Network
from engine.training.team import Team


def spread(network: Network, team: Team, sharded: bool, device: torch.device) -> nn.Module:
    """The network as a step calls it; before the optimizer is made, because sharding puts other parameters in place."""
    if team.world == 1:
        return network
    if not sharded:
        return nn.parallel.DistributedDataParallel(network)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (team.world,))
    for block in network.decoder.blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def synchronise(network: nn.Module, wanted: bool) -> None:
    """Whether the next passes average gradients over the processes. Nothing for a network that is whole."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        network.require_backward_grad_sync = wanted  # what its no_sync() does
    elif hasattr(network, "set_requires_gradient_sync"):
        network.set_requires_gradient_sync(wanted)  # type: ignore[operator]  # fully_shard mixes it in


def gathered(value: Any) -> Any:
    """The same nested data with whole tensors in place of shards. Every process has to call it."""
    if hasattr(value, "full_tensor"):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: gathered(part) for key, part in value.items()}
    if isinstance(value, list):
        return [gathered(part) for part in value]
    return value


def sharded_like(whole: Tensor, weight: Any) -> Tensor:
    """This process's shard of a whole tensor that all processes have, cut as `weight` is; as it is where that is whole
    or of another shape."""
    if not hasattr(weight, "placements") or whole.shape != weight.shape:
        return whole
    from torch.distributed.tensor import distribute_tensor

    shard: Tensor = distribute_tensor(whole.to(weight.device), weight.device_mesh, weight.placements,
                                      src_data_rank=None)
    return shard
