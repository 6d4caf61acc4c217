"""`pyrunc verify`: one pod through CRI on this node, step by step, as a kubelet would run it.

It proves that a RuntimeClass with this handler can work here before the first real pod depends on
it: containerd answers CRI, knows the handler, finds the shim's binary, and a pod runs, logs, takes
an exec, tells statistics, stops and goes away. No network is used: the image is made from files of
this node and handed over with ctr. What was made is removed, whatever happens.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path
from types import FrameType

from shim_runc_py.cri import endpoint as endpoints
from shim_runc_py.cri import runtime_v1_pb2 as pb
from shim_runc_py.cri.connection import Connection
from shim_runc_py.cri.failures import CRIError
from shim_runc_py.cri.pods import NEVER, Container, Pod, PodRuntime
from shim_runc_py.cri.services import ImageService, RuntimeService
from shim_runc_py.testing import images, leaks
from shim_runc_py.tools.report import Report, Step, VerifyError, for_handler

IMAGE = "pyrunc.local/verify:1"
NAMESPACE = "k8s.io"  # of containerd, where CRI keeps everything
GREETING = "hello from a pod"
EXEC_STATUS = 42
GRACE = 10  # seconds
BOUND = 30.0  # seconds for what the container does by itself
_SCRIPT = f"trap 'exit 0' TERM; echo {GREETING}; while :; do sleep 1000 & wait $!; done"


def run(handler: str, endpoint: str, image: str = "", output: str = "text") -> int:
    """Verify; prints to stdout, a failure in text form also to stderr. Returns the exit status."""
    quiet = output == "json"
    report = Report(endpoint, handler, lambda text: None if quiet else print(text, flush=True))
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        Verification(report, image).run()
    except (VerifyError, CRIError, OSError):
        pass  # the report knows
    except KeyboardInterrupt:
        report.reason = report.reason or "interrupted"
    finally:
        signal.signal(signal.SIGTERM, before)
    if quiet:
        print(report.as_json())
    elif report.ok:
        print(f"OK: handler {handler} runs pods on this node", flush=True)
    if not report.ok and not quiet:
        print(f"pyrunc verify: {report.reason}", file=sys.stderr)
        if report.hint:
            print(f"hint: {report.hint}", file=sys.stderr)
    return 0 if report.ok else 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


class Verification:
    """The steps, in order."""

    def __init__(self, report: Report, image: str = "") -> None:
        self._report = report
        self._image = image
        self._imported: list[str] = []
        self._work = Path(tempfile.mkdtemp(prefix="pyrunc-verify-"))
        self._socket = ""

    def run(self) -> None:
        """Raises VerifyError, CRIError or OSError of the step that failed."""
        connection = None
        pod = Pod(
            "pyrunc-verify",
            uid=str(uuid.uuid4()),
            handler=self._report.handler,
            restart=NEVER,
            log_root=self._work / "pods",
        )
        try:
            connection = self._connect()
            runtime, image_service = RuntimeService(connection), ImageService(connection)
            self._check_handler(runtime, pod)
            self._provide_image(image_service)
            self._run_pod(PodRuntime(runtime, image_service), pod)
        finally:
            self._clean_up(connection, pod)

    # -- before the pod

    def _connect(self) -> Connection:
        with self._report.step("connect") as step:
            try:
                self._socket = endpoints.parse(self._report.endpoint)
            except ValueError as error:
                raise VerifyError(
                    str(error), "name containerd's socket with --endpoint unix:///path"
                ) from None
            _check_socket(self._socket)
            connection = Connection(self._report.endpoint)
            version = RuntimeService(connection).version()
            step.detail = (
                f"{version.runtime_name} {version.runtime_version}, CRI {connection.version}"
            )
            return connection

    def _check_handler(self, runtime: RuntimeService, pod: Pod) -> None:
        handler = self._report.handler
        with self._report.step("handler") as step:
            status = runtime.status(verbose=True)
            conditions = {one.type: one for one in status.status.conditions}
            if not conditions["RuntimeReady"].status:
                message = conditions["RuntimeReady"].message
                raise VerifyError(f"containerd's runtime is not ready: {message}")
            if not conditions["NetworkReady"].status:
                pod.host_network = True
                step.detail = "no pod network on this node yet, so the host's is used; "
            known = handlers_of(status)
            if known is not None and handler not in known:
                raise VerifyError(
                    f'containerd has no handler "{handler}"; it has {", ".join(sorted(known))}',
                    for_handler(handler),
                )
            step.detail += f"{handler}: {known[handler]}" if known is not None else handler

    def _provide_image(self, service: ImageService) -> None:
        with self._report.step("image") as step:
            if self._image:
                if not service.present(self._image):
                    raise VerifyError(
                        f'the image "{self._image}" is not on this node',
                        f"pull it (crictl pull {self._image}), or leave --image away to use "
                        "one that is made here",
                    )
                step.detail = self._image
                return
            rootfs = images.tools_rootfs(self._work / "rootfs")
            self._import(IMAGE, rootfs, ["/bin/sh"])
            deadline = time.monotonic() + BOUND
            while not service.present(IMAGE):  # CRI hears of it by an event
                if time.monotonic() > deadline:
                    raise VerifyError("containerd's CRI plugin does not see the imported image")
                time.sleep(0.02)
            self._image = IMAGE
            step.detail = f"{IMAGE}, made from files of this node"

    def _import(self, name: str, rootfs: images.Rootfs, entrypoint: list[str]) -> None:
        ctr = shutil.which("ctr")
        if ctr is None:
            raise VerifyError(
                "ctr, which comes with containerd, is not in PATH",
                "name an image of this node that has a shell with --image",
            )
        archive = self._work / "image.tar"
        images.archive(archive, name, rootfs, entrypoint=entrypoint)
        words = [ctr, "--address", self._socket, "--namespace", NAMESPACE]
        done = subprocess.run(
            [*words, "images", "import", str(archive)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise VerifyError(f"ctr images import: {done.stderr.strip() or done.stdout.strip()}")
        self._imported.append(name)

    # -- the pod

    def _run_pod(self, pods: PodRuntime, pod: Pod) -> None:
        runtime, step_of = pods.runtime, self._report.step
        config = pod.sandbox_config()
        pod.log_directory.mkdir(parents=True)
        with step_of("sandbox") as step:
            sandbox = self._run_sandbox(runtime, config, step)
            address = runtime.pod_sandbox_status(sandbox).status.network.ip
            step.detail += f"{sandbox[:13]} {address}".rstrip()
        with step_of("create") as step:
            spec = Container("main", self._image, ["sh", "-c", _SCRIPT])
            (pod.log_directory / spec.name).mkdir()
            id = runtime.create_container(sandbox, pod.container_config(spec), config)
            step.detail = id[:13]
        with step_of("start") as step:
            runtime.start_container(id)
            step.detail = shim_of(sandbox)
        with step_of("logs") as step:
            step.detail = self._read_log(pods, id)
        with step_of("exec") as step:
            reply = runtime.exec_sync(id, ["sh", "-c", f"echo ran; exit {EXEC_STATUS}"], 10)
            if (reply.stdout, reply.exit_code) != (b"ran\n", EXEC_STATUS):
                raise VerifyError(
                    f"the command told {reply.stdout!r} and {reply.exit_code} "
                    f"instead of {b'ran' + os.linesep.encode()!r} and {EXEC_STATUS}"
                )
            step.detail = f"exit code {reply.exit_code}, as it should be"
        with step_of("stats") as step:
            stats = runtime.container_stats(id)
            used = stats.memory.working_set_bytes.value
            if not stats.cpu.timestamp or not used:
                raise VerifyError("no CPU or memory figures for a running container")
            step.detail = f"{used // 1024} KiB working set"
        with step_of("stop") as step:
            runtime.stop_container(id, GRACE)
            status = runtime.container_status(id).status
            if (status.state, status.exit_code) != (pb.ContainerState.CONTAINER_EXITED, 0):
                raise VerifyError(
                    f"after SIGTERM the container is "
                    f"{pb.ContainerState.Name(status.state)} with code {status.exit_code}"
                )
            step.detail = "ended on SIGTERM"
        with step_of("remove") as step:
            runtime.remove_container(id)
            runtime.stop_pod_sandbox(sandbox)
            runtime.remove_pod_sandbox(sandbox)
            self._await_end_of_shim(sandbox)
            step.detail = "container, sandbox and shim are gone"

    def _run_sandbox(self, runtime: RuntimeService, config: pb.PodSandboxConfig, step: Step) -> str:
        try:
            return runtime.run_pod_sandbox(config, self._report.handler)
        except CRIError as error:
            missing = re.search(r'failed to get sandbox image "([^"]+)"', error.text)
            if missing is None:
                raise
        # A node that has never run a pod lacks the pause image: lend it ours.
        rootfs = images.tools_rootfs(self._work / "pause")
        rootfs.add_pause()
        self._import(missing[1], rootfs, ["/pause"])
        step.detail = f"{missing[1]} is missing, lent one; "
        deadline = time.monotonic() + BOUND
        while True:
            try:
                return runtime.run_pod_sandbox(config, self._report.handler)
            except CRIError as error:
                if "sandbox image" not in error.text or time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def _read_log(self, pods: PodRuntime, id: str) -> str:
        deadline = time.monotonic() + BOUND
        while True:
            try:
                found = [entry.text.decode() for entry in pods.container_logs(id)]
            except FileNotFoundError:
                found = []
            if f"{GREETING}\n" in found:
                return repr(GREETING)
            status = pods.runtime.container_status(id).status
            if status.state == pb.ContainerState.CONTAINER_EXITED or time.monotonic() > deadline:
                raise VerifyError(
                    f"the log has {found!r}, not {GREETING!r}; the container is "
                    f"{pb.ContainerState.Name(status.state)} with code {status.exit_code} "
                    f"{status.reason} {status.message}".rstrip()
                )
            time.sleep(0.02)

    def _await_end_of_shim(self, sandbox: str) -> None:
        deadline = time.monotonic() + BOUND
        while left := leaks.shims(sandbox):
            if time.monotonic() > deadline:
                raise VerifyError(f"the shim is still there: {left[0]}")
            time.sleep(0.02)

    # -- after it

    def _clean_up(self, connection: Connection | None, pod: Pod) -> None:
        try:
            if connection is not None:
                with self._report.step("cleanup") as step:
                    runtime, service = RuntimeService(connection), ImageService(connection)
                    pods = PodRuntime(runtime, service)
                    if pods.pod_status(pod.uid).sandboxes:
                        pods.remove(pod)
                    for name in self._imported:
                        service.remove(name)
                    step.detail = "nothing of it is left"
        finally:
            if connection is not None:
                connection.close()
            shutil.rmtree(self._work, ignore_errors=True)


def _check_socket(path: str) -> None:
    """The common mistakes, before gRPC waits for them. Raises VerifyError."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise VerifyError(
            f"there is no socket at {path}",
            "is containerd running? --endpoint says where it listens",
        ) from None
    except PermissionError:
        raise VerifyError(f"{path} may not be opened by this user", "try sudo") from None
    if not stat.S_ISSOCK(mode):
        raise VerifyError(f"{path} is not a socket", "--endpoint says where containerd listens")
    if not os.access(path, os.R_OK | os.W_OK):
        raise VerifyError(f"{path} may not be opened by this user", "try sudo")


def handlers_of(status: pb.StatusResponse) -> dict[str, str] | None:
    """Handler to runtime type, from a verbose status; None when containerd does not tell."""
    try:
        table = json.loads(status.info["config"])["containerd"]["runtimes"]
        return {name: str(entry.get("runtimeType", "")) for name, entry in table.items()}
    except (KeyError, ValueError, TypeError, AttributeError):
        names = {one.name for one in status.runtime_handlers if one.name}
        return dict.fromkeys(names, "") if names else None


def shim_of(sandbox: str) -> str:
    """The shim process of a sandbox, its pid and its private memory."""
    for line in leaks.shims(sandbox):
        pid, _, command = line.partition(": ")
        name = next((w for w in command.split() if "containerd-shim-" in w), command.split()[0])
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            return f"{Path(name).name}, pid {pid}"
        private = sum(int(kb) for kb in re.findall(r"^Private_\w+:\s+(\d+)", text, re.MULTILINE))
        return f"{Path(name).name}, pid {pid}, {private} KiB private"
    return "its shim is not visible from here"
