"""Where a sweep's tasks run: this machine's cores, or a Dask cluster, both through joblib."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import msgspec

from pipeline.sweep_plan import Frame
from pipeline.sweep_tasks import Ended, Job, run_task
from records.errors import EdgeveilError, InputError, UnsupportedHereError
from records.progress import Progress

#: A cluster without any worker for so long is given up; the sweep can be resumed.
WORKERLESS_SECONDS = 60.0
CONNECT_SECONDS = 20.0
_POLL_SECONDS = 0.5
#: No task under way for so long, and results outstanding: the scheduler has given them up.
QUIET_SECONDS = 15.0


class SweepError(EdgeveilError):
    """Cells are missing after their second try; named, with the reasons that are known."""


@dataclass(frozen=True)
class Workers:
    """Runs tasks; whether a task's work is done is for the caller to read from its files.

    Attributes:
        jobs: processes on this machine; None takes every core that may be used.
        client: of a Dask cluster, None for this machine.
    """

    jobs: int | None = None
    client: Any = None

    def run(self, kind: str, frame: Frame, jobs: Sequence[Job]) -> Iterator[Ended]:
        """Yield an `Ended` as each task ends, in any order; lost tasks are left out.

        A worker process that dies takes the local pool with it: what is left is not yielded.

        Raises:
            SweepError: the cluster has had no worker for a minute.
        """
        text = msgspec.json.encode(frame).decode()
        calls = [(kind, text, msgspec.json.encode(job).decode()) for job in jobs]
        if self.client is not None:
            yield from _on_cluster(self.client, calls)
        else:
            yield from _on_cores(self.jobs, calls)


@contextlib.contextmanager
def workers(jobs: int | None, cluster: str | None) -> Iterator[Workers]:
    """Yield the workers of this machine, or those behind a Dask scheduler's address.

    Args:
        jobs: local processes, None for all cores; means nothing with a cluster.
        cluster: ``tcp://HOST:PORT`` (or ``tls://``) of a scheduler, None for this machine.

    Raises:
        UnsupportedHereError: joblib, or the extra ``cluster``, is not installed.
        InputError: no address, no scheduler there, or it has no worker.
    """
    _require("joblib", "export")
    if cluster is None:
        yield Workers(jobs=jobs)
        return
    for package in ("dask", "distributed"):
        _require(package, "cluster")
    if not cluster.startswith(("tcp://", "tls://")):
        raise InputError(f"--cluster {cluster} is no address such as tcp://127.0.0.1:8786")
    with _client(cluster) as client:
        yield Workers(client=client)


def _require(package: str, extra: str) -> None:
    if find_spec(package) is None:
        raise UnsupportedHereError(
            f"this sweep needs {package}, not installed here; run: pip install "
            f"'edgeveil[{extra}]' from the checkout (pip install '.[{extra}]')"
        )


@contextlib.contextmanager
def _client(address: str) -> Iterator[Any]:
    import distributed

    # Its methods have no annotations.
    connect: Any = distributed.Client

    try:
        client: Any = connect(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"no Dask scheduler answers at {address}: {error}") from error
    try:
        try:
            client.wait_for_workers(1, timeout=CONNECT_SECONDS)
        except TimeoutError as error:
            raise InputError(
                f"the Dask scheduler at {address} has no worker; start some: "
                f"dask worker {address} --nthreads 1 --nworkers 2"
            ) from error
        yield client
    finally:
        client.close()


def _on_cores(jobs: int | None, calls: Sequence[tuple[str, str, str]]) -> Iterator[Ended]:
    from joblib import Parallel, delayed, parallel_config
    from joblib.externals.loky.process_executor import TerminatedWorkerError

    with parallel_config(backend="loky", n_jobs=jobs or -1, inner_max_num_threads=1):
        # One task at a time a worker: tasks are long, and a killed one must not take others along.
        parallel = Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered")
        try:
            for ended in parallel(delayed(run_task)(*call) for call in calls):
                yield _decoded(ended)
        except TerminatedWorkerError:
            # Out of memory, or killed: what it left undone is found by its files.
            return


def _on_cluster(client: Any, calls: Sequence[tuple[str, str, str]]) -> Iterator[Ended]:
    """Yield what ends; do not wait for what the scheduler has given up.

    A task whose workers died ``allowed-failures`` times ends as KilledWorker. joblib's backend
    (1.6, ``DaskDistributedBackend._collect``) then never calls back, and ``Parallel`` waits for
    ever: so its results are taken in a thread, and the futures' states are watched here.
    """
    ended: queue.Queue[str | BaseException | None] = queue.Queue()
    threading.Thread(target=_take, args=(client, calls, ended.put), daemon=True).start()
    watch = _Watch(client)
    while not watch.gave_up():
        try:
            one = ended.get(timeout=_POLL_SECONDS)
        except queue.Empty:
            continue
        if one is None:
            return
        if isinstance(one, BaseException):
            raise one
        yield _decoded(one)


def _cluster_backend(client: Any) -> Any:
    """Return joblib's Dask backend, which never works in this process instead.

    Where the cluster has one core, ``Parallel`` takes a shortcut: it runs all tasks itself, on the
    coordinator. So this backend never says "one"; the scheduler queues what has no worker yet.
    """
    from joblib._dask import DaskDistributedBackend

    class OnWorkersOnly(DaskDistributedBackend):  # type: ignore[misc]
        def effective_n_jobs(self, n_jobs: int) -> int:
            return max(2, int(super().effective_n_jobs(n_jobs)))

    return OnWorkersOnly(client=client)


class _Watch:
    """How long nothing has been under way, and how long there has been no worker."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._busy = self._manned = time.monotonic()

    def gave_up(self) -> bool:
        """Say whether every task has ended one way or the other; raise without workers."""
        now = time.monotonic()
        # A copy: dask's thread changes the mapping meanwhile.
        if any(state.status == "pending" for state in list(self._client.futures.values())):
            self._busy = now
        if self._client.scheduler_info(n_workers=-1)["workers"]:
            self._manned = now
        elif now - self._manned > WORKERLESS_SECONDS:
            raise SweepError(
                f"the cluster has had no worker for {WORKERLESS_SECONDS:.0f} s; start workers and "
                "run the same command again: what is done is kept"
            )
        return now - self._busy > QUIET_SECONDS


def _take(
    client: Any,
    calls: Sequence[tuple[str, str, str]],
    put: Callable[[str | BaseException | None], None],
) -> None:
    from joblib import Parallel, delayed, parallel_config

    try:
        with parallel_config(backend=_cluster_backend(client), n_jobs=-1):
            # One task a batch: what a dying worker takes along is one task, not several.
            parallel = Parallel(batch_size=1, pre_dispatch="all", return_as="generator_unordered")
            for one in parallel(delayed(run_task)(*call) for call in calls):
                put(one)
        put(None)
    # Whatever it is, the thread that waits must hear of it.
    except BaseException as error:
        put(error)


def _decoded(text: str) -> Ended:
    return msgspec.json.decode(text, type=Ended)


def run_until_done(
    crew: Workers,
    kind: str,
    frame: Frame,
    jobs: Sequence[Job],
    is_done: Callable[[Job], bool],
    progress: Progress,
    task: str,
) -> None:
    """Run what is not done, verify by the files, and run what is missing once more.

    Args:
        crew: who works.
        kind: of the tasks, as in `run_task`.
        frame: the sweep.
        jobs: all of one kind.
        is_done: reads a job's files.
        progress: told the number of jobs done.
        task: the progress' name.

    Raises:
        SweepError: jobs are still missing; each is named with what it said.
    """
    missing = [job for job in jobs if not is_done(job)]
    said: dict[str, str] = {}
    for _ in range(2):
        if not missing:
            break
        done = len(jobs) - len(missing)
        progress(task, done, len(jobs))
        for ended in crew.run(kind, frame, missing):
            if ended.failure is not None:
                said[ended.name] = ended.failure
                continue
            done += 1
            progress(task, done, len(jobs))
        missing = [job for job in missing if not is_done(job)]
        # What was refused by name would be refused again.
        if all(job.name in said for job in missing):
            break
    if missing:
        reasons = "; ".join(
            f"{job.name}: {said.get(job.name, 'its worker died, twice')}" for job in missing
        )
        raise SweepError(f"{len(missing)} of {len(jobs)} {task} are missing: {reasons}")
