"""Is a stream of events one that a containerd may be told? (SEMANTICS 5.3, 5.5; FAILURES 11)

Four promises, checked over everything that a sink has got, however many containers took part:

* What belongs to a container comes after its create and before its delete.
* A process is started before it exits, and exits once.
* Every exec that was started exits before its container's init does.
* The pid in an exit is that of the start.

Pure: it looks at topics and messages only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol


class Told(Protocol):
    """What is looked at: `testing.sink.Event` is one."""

    topic: str
    message: Any


class _Life:
    """One container between its create and its delete."""

    def __init__(self, pid: int) -> None:
        self.pids = {"": pid}
        self.started: set[str] = set()
        self.exited: set[str] = set()


def complaints(events: Iterable[Told]) -> list[str]:
    """What is wrong with the order, one line each; [] when nothing is."""
    lives: dict[str, _Life] = {}
    found: list[str] = []
    for event in events:
        message = event.message
        id = str(message.container_id)
        life = lives.get(id)
        if event.topic == "/tasks/create":
            if life is not None:
                found.append(f"{id}: created twice")
            lives[id] = _Life(int(message.pid))
        elif life is None:
            found.append(f"{id}: {event.topic} outside its life")
        elif event.topic == "/tasks/delete":
            del lives[id]
        else:
            found += [f"{id}: {text}" for text in _look(life, event.topic, message, id)]
    return found


def _look(life: _Life, topic: str, message: Any, id: str) -> list[str]:
    if topic == "/tasks/start":
        return _started(life, "", message.pid)
    if topic == "/tasks/exec-added":
        name = str(message.exec_id)
        running = name in life.started and name not in life.exited
        life.started.discard(name)
        life.exited.discard(name)
        return [f"exec {name} added while it runs"] if running else []
    if topic == "/tasks/exec-started":
        return _started(life, str(message.exec_id), message.pid)
    if topic == "/tasks/exit":
        return _exited(life, "" if message.id == id else str(message.id), message.pid)
    return []


def _started(life: _Life, name: str, pid: int) -> list[str]:
    found = []
    what = f"exec {name}" if name else "init"
    if name in life.started:
        found.append(f"{what} started twice")
    if name in life.exited or "" in life.exited:
        found.append(f"{what} started after the exit")
    life.started.add(name)
    if not name and life.pids[""] != pid:
        found.append(f"init started as {pid}, created as {life.pids['']}")
    life.pids[name] = pid
    return found


def _exited(life: _Life, name: str, pid: int) -> list[str]:
    found = []
    what = f"exec {name}" if name else "init"
    if name in life.exited:
        found.append(f"{what} exited twice")
    if name and name not in life.started:
        found.append(f"{what} exited before its start")
    if life.pids.get(name, pid) != pid:
        found.append(f"{what} exited as {pid}, started as {life.pids[name]}")
    if not name:
        late = sorted(life.started - life.exited - {""})
        found += [f"init exited before exec {other}" for other in late]
    life.exited.add(name)
    return found
