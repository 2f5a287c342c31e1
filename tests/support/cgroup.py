"""A limit of memory around a process, as a container has it: a memory cgroup, where one may be made."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


class Cgroup:
    """Processes that have no more memory together than a container would."""

    def __init__(self, folder: Path, *, old: bool) -> None:
        self._folder = folder
        self._most = "memory.max_usage_in_bytes" if old else "memory.peak"

    @property
    def prefix(self) -> tuple[str, ...]:
        """What a command begins with to be run in it, from its first moment on."""
        return ("sh", "-c", f'echo $$ > {self._folder}/cgroup.procs && exec "$@"', "sh")

    @property
    def most(self) -> int:
        """The most bytes that were used at a time."""
        return int((self._folder / self._most).read_text())


@contextmanager
def memory_limit(limit: int) -> Iterator[Cgroup | None]:
    """None where this machine has no such cgroups, or they may not be made."""
    old = (_ROOT / "memory").is_dir()
    folder = (_ROOT / "memory" if old else _ROOT) / f"partymq-test-{os.getpid()}"
    file = folder / ("memory.limit_in_bytes" if old else "memory.max")
    try:
        folder.mkdir()
        file.write_text(str(limit))
    except OSError:  # not root, or the controller is not there for us
        with suppress(OSError):
            folder.rmdir()
        yield None
        return
    with suppress(OSError):  # no swap either, where it is counted
        (folder / ("memory.memsw.limit_in_bytes" if old else "memory.swap.max")).write_text(str(limit if old else 0))
    try:
        yield Cgroup(folder, old=old)
    finally:
        folder.rmdir()
