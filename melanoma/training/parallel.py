"""One network trained by many devices and many processes: by JAX, with Keras' data parallelism.

Every process reads its part of each batch, and JAX computes what one process would compute of the whole: gradients,
batch normalisation and random draws are those of the batch, not of its parts. It knows neither rows nor pictures.
"""

import ctypes
import functools
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from melanoma.data.batches import Batches
from melanoma.errors import MelanomaError, UsageError
from melanoma.models.backend import BACKEND, keras
from melanoma.training.progress import console, note
from melanoma.training.team import LOST_TOLD, team

# How a job says who is who where JAX does not find it; the address is the first process', host:port. Open MPI 5, MPICH
# and Intel MPI tell the numbers, but no address.
ADDRESS, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
MPI_NUMBERS = (("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"), ("PMI_SIZE", "PMI_RANK"))
SILENT_SECONDS = 30  # after which a process counts as lost, where no connection breaks before
# this process among those of its machine, and which of the machine's devices are its own
LOCAL_RANKS, DEVICE_IDS = ("SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID"), "JAX_LOCAL_DEVICE_IDS"
FRAME = "random_view"  # the layer whose images are dealt out to the devices


def join(devices: int) -> None:
    """Make Keras train on so many devices of this process and, where a job started several, of all of them.

    The others are found by JAX: under SLURM, Open MPI and Kubernetes by what these say, else by
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. Raises UsageError where Keras runs on another
    backend, where there are not so many devices, or the variables do not go together, MelanomaError where the others
    do not come.
    """
    if BACKEND != "jax":
        raise UsageError(f"many devices are trained on by JAX, and Keras runs on {BACKEND}: set KERAS_BACKEND=jax")
    if devices < 1:
        raise UsageError(f"--devices is 1 or more, not {devices}")
    import jax

    with suppress(RuntimeError):  # where JAX was at work before, it has the devices that it has
        jax.config.update("jax_num_cpu_devices", devices)  # where there is a GPU, they are not used
    _find_the_others(devices)
    team.process, team.processes = jax.process_index(), jax.process_count()
    chosen = []
    for number in range(team.processes):
        its = jax.local_devices(process_index=number)
        if len(its) < devices:
            kind = its[0].platform.upper()
            have = f"process {number} has {len(its)} {kind} device{'s' * (len(its) != 1)}"
            raise UsageError(f"{have}, and --devices asks for {devices} of each")
        chosen += its[:devices]
    team.devices, team.distribution = len(chosen), _Dealt(devices=chosen, auto_shard_dataset=False)
    if not team.leads:
        console.quiet = True
    on = f"{len(chosen)} device{'s' * (len(chosen) > 1)} ({chosen[0].device_kind})"
    note(f"training on {on} of {team.processes} process{'es' * (team.processes > 1)}")


def _find_the_others(devices: int) -> None:
    """Meet the other processes of the job; without a job there are none."""
    import jax

    plain = [name for name in (ADDRESS, PROCESSES, PROCESS) if os.environ.get(name)]
    if 0 < len(plain) < 3 and plain != [ADDRESS]:  # the address alone may go with another's numbers
        missing = {ADDRESS, PROCESSES, PROCESS} - set(plain)
        raise UsageError(f"{', '.join(plain)} is set without {', '.join(sorted(missing))}: set all three")
    pairs = ((_number(size), _number(rank)) for size, rank in ((PROCESSES, PROCESS), *MPI_NUMBERS))
    processes, process = next((pair for pair in pairs if None not in pair), (None, None))
    jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM, which asks for a stop
    if process == 0 and processes is not None and processes > 1:
        _check_port(os.environ.get(ADDRESS, ""))
        note(f"waiting for {processes - 1} more of {processes} processes")
    _when_aborted(_tell)
    try:
        jax.distributed.initialize(
            num_processes=processes,
            process_id=process,
            local_device_ids=_devices_here(devices),
            heartbeat_timeout_seconds=SILENT_SECONDS,
        )
    except ValueError as error:
        _when_aborted(None)
        if "coordinator_address should be defined" not in str(error):
            raise UsageError(f"the job's processes cannot be told apart: {error}") from error
        if (processes or 1) > 1 or "JOB_COMPLETION_INDEX" in os.environ:  # MPI, an indexed job of Kubernetes
            raise UsageError(
                f"this job has several processes, and JAX does not find the first one: set {ADDRESS}, {PROCESSES} and "
                f"{PROCESS} in each; on Kubernetes pip install 'jax[k8s]' may do"
            ) from error
        return
    except RuntimeError as error:
        _when_aborted(None)
        if "must be called before" in str(error) and not plain:  # JAX was at work before, alone
            return
        raise MelanomaError(
            f"the other processes of this job cannot be reached: {str(error).splitlines()[0]}"
        ) from error


def _check_port(address: str) -> None:
    """Raise UsageError where the port at which the first process is to be met is taken: JAX would crash."""
    port = address.rpartition(":")[2]
    if not port.isdecimal():
        return
    try:
        with socket.create_server(("", int(port))):
            pass
    except OSError as error:
        raise UsageError(
            f"{ADDRESS} is {address}, and its port cannot be had ({error.strerror}): take another"
        ) from error


def _number(name: str) -> int | None:
    """Read a number that a job has set; raises UsageError for anything else."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise UsageError(f"{name} is a number, not {text!r:.40}")
    return int(text) if text else None


def _devices_here(devices: int) -> list[int] | None:
    """Number the GPUs that are this process' among those of its machine; None where JAX is to choose."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if DEVICE_IDS in os.environ:
        return None
    if visible and len(visible.split(",")) == devices:  # the job has dealt them out
        return list(range(devices))
    rank = next((one for one in map(_number, LOCAL_RANKS) if one is not None), None)
    return None if rank is None else list(range(rank * devices, (rank + 1) * devices))


_handlers: list[Any] = []  # C calls them: they must not be collected


def _when_aborted(handler: Callable[[int], None] | None) -> None:
    """Set what is done on SIGABRT, None for the system's own: where another is lost, JAX aborts in its own thread."""
    if sys.platform == "win32":
        return
    library = ctypes.CDLL(None)
    library.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    made = ctypes.CFUNCTYPE(None, ctypes.c_int)(handler) if handler else None
    _handlers.append(made)
    library.signal(signal.SIGABRT, ctypes.cast(made, ctypes.c_void_p) if made else None)


def _tell(number: int) -> None:
    """Say in our words why this process ends."""
    os.write(2, f"melanoma: this process was aborted; mostly, {LOST_TOLD}\n".encode())
    os._exit(MelanomaError.exit_code)


def leave() -> None:
    """Part from the others after the last common step; the first process goes on by itself."""
    if team.distribution is None:
        return
    import jax

    team.distribution = None
    if team.processes > 1:
        jax.distributed.shutdown()
        _when_aborted(None)
    team.processes = team.devices = 1


class _Dealt(keras.distribution.DataParallel):  # type: ignore[misc]
    """Keras' data parallelism, for batches of any size.

    A batch that the devices cannot share alike is given to each as a whole, and its images are dealt out unevenly
    inside of the step, where JAX can do that: still each image is computed once, and the answer is the whole batch's.
    """

    whole = False

    def get_data_layout(self, data_shape: tuple[int, ...]) -> Any:
        """Say where an input of this process goes."""
        if not self.whole:
            return super().get_data_layout(data_shape)
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    def get_tensor_layout(self, path: str) -> Any:
        """Say where what a layer gives goes."""
        if not path.endswith(f"{FRAME}/output"):
            return None
        return keras.distribution.TensorLayout([self.batch_dim_name, None, None, None], self.device_mesh)


class TogetherModel(keras.Model):  # type: ignore[misc]
    """A model whose metrics are set to 0 without asking every other process whether it does the same."""

    def reset_metrics(self) -> None:
        """Set every metric to 0."""
        import jax

        for variable in self.metrics_variables:
            nothing = np.zeros(variable.shape, variable.dtype)
            sharding = variable.value.sharding
            variable.assign(jax.make_array_from_callback(nothing.shape, sharding, nothing.__getitem__))


def scored_together(classifier: Any, batch_size: int) -> Callable[[Batches], NDArray[np.float32]]:
    """Return a function that scores rows, each process its part of them, and gives every process all probabilities.

    batch_size: of all processes together. The function takes rows and returns float32 (rows, 1). Keras' own `predict`
    would want every process to have every row.
    """
    import jax
    from jax.experimental.multihost_utils import process_allgather
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mine = [one for one in team.distribution.device_mesh.devices.flat if one.process_index == team.process]
    mesh = Mesh(np.array(mine), ("batch",))
    everywhere, dealt = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec("batch"))
    size = batch_size // team.processes

    @functools.partial(jax.jit, in_shardings=(everywhere, everywhere, dealt))
    def answer(weights: Any, others: Any, inputs: Any) -> Any:
        return classifier.stateless_call(weights, others, inputs, training=False)[0]

    def here(variable: Any) -> Any:
        parts = [part.data for part in variable.value.addressable_shards]
        return jax.make_array_from_single_device_arrays(variable.shape, everywhere, parts)

    def score(batches: Batches) -> NDArray[np.float32]:
        parts = np.array_split(np.arange(len(batches.rows)), team.processes)
        found = np.zeros((max(map(len, parts)), 1), keras.config.floatx())
        weights = [here(one) for one in classifier.trainable_variables]
        others = [here(one) for one in classifier.non_trainable_variables]
        at = 0
        for inputs, targets in replace(batches, batch_size=size).ahead(parts[team.process]):
            padded = [np.resize(values, (size, *values.shape[1:])) for values in inputs]
            given = jax.device_put(padded if len(padded) > 1 else padded[0], dealt)
            found[at : at + len(targets)] = np.asarray(answer(weights, others, given))[: len(targets)]
            at += len(targets)
        every = process_allgather(found) if team.processes > 1 else found[None]
        return np.concatenate([one[: len(part)] for one, part in zip(every, parts, strict=True)])

    return score
