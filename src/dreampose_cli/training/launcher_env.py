"""The environment of processes that a launcher (accelerate, torchrun, mpirun) has started. Imports nothing heavy."""

from __future__ import annotations

import os

_COUNT = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")
_RANK = ("RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK")
_LOCAL = ("LOCAL_RANK", "MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK")


def process_count() -> int:
    """The number of processes that train together; 1 where nobody launched several."""
    return max(1, _first(_COUNT, 1))


def process_rank() -> int:
    """This process's number among all."""
    return _first(_RANK, 0) if process_count() > 1 else 0


def local_rank() -> int:
    """This process's number among those of its machine."""
    return _first(_LOCAL, 0) if process_count() > 1 else 0


def _first(names: tuple[str, ...], otherwise: int) -> int:
    return next((int(os.environ[name]) for name in names if os.environ.get(name, "").isdecimal()), otherwise)
