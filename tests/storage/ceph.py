"""Ceph with its S3 gateway on loopback, everything in memory: an S3 server that shares no line with moto.

Needs the Debian packages ceph-mon, ceph-osd, radosgw and ceph-common. Its daemons are children of this process and end
with the context.
"""

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("ceph", "ceph-mon", "ceph-osd", "radosgw", "radosgw-admin", "monmaptool")
ACCESS_KEY, SECRET_KEY = "CEPHACCESSKEY", "cephsecretkey"

_SETTINGS = """
[global]
fsid = {cluster}
mon host = [v2:127.0.0.1:{monitor}/0]
auth cluster required = none
auth service required = none
auth client required = none
run dir = {folder}
log file = {folder}/$name.log
admin socket = {folder}/$name.asok
mon data = {folder}/mon
osd data = {folder}/osd
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 4
osd crush chooseleaf type = 0
osd class load list = *
osd class default list = *
mon allow pool size one = true
mon max pg per osd = 1000
ms bind ipv6 = false
[osd.0]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
[client.gateway]
ms mon client mode = crc secure
rgw frontends = beast endpoint=127.0.0.1:{gateway}
rgw enable ops log = false
rgw enable usage log = false
"""


def is_installed() -> bool:
    """Whether all programs are there."""
    return all(shutil.which(program) for program in PROGRAMS)


@contextmanager
def gateway(folder: Path) -> Iterator[str]:
    """The endpoint of a gateway with one user, ACCESS_KEY; `folder` must be short, for sockets lie in it."""
    monitor, port = _free_port(), _free_port()
    settings = folder / "ceph.conf"
    settings.write_text(_SETTINGS.format(cluster=uuid.uuid4(), monitor=monitor, gateway=port, folder=folder))
    (folder / "mon").mkdir()
    (folder / "osd").mkdir()
    told = ("-c", str(settings))
    cluster = settings.read_text().partition("fsid = ")[2].partition("\n")[0]
    monmap = str(folder / "monmap")
    _run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", f"[v2:127.0.0.1:{monitor}]", monmap)
    _run("ceph-mon", *told, "-i", "a", "--mkfs", "--monmap", monmap)
    with ExitStack() as daemons:
        daemons.enter_context(_daemon(folder, "ceph-mon", *told, "-i", "a"))
        identity = str(uuid.uuid4())
        _run("ceph", *told, "--connect-timeout", "60", "osd", "new", identity)
        _run("ceph-osd", *told, "-i", "0", "--mkfs", "--osd-uuid", identity)
        daemons.enter_context(_daemon(folder, "ceph-osd", *told, "-i", "0"))
        daemons.enter_context(_daemon(folder, "radosgw", *told, "-n", "client.gateway"))
        user = ("--uid=tests", "--display-name=tests", f"--access-key={ACCESS_KEY}", f"--secret-key={SECRET_KEY}")
        _run("radosgw-admin", *told, "user", "create", *user)
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"


@contextmanager
def _daemon(folder: Path, *command: str) -> Iterator[None]:
    """A daemon in the foreground, killed in the end: nothing of it is kept."""
    with (folder / f"{command[0]}.out").open("wb") as output:
        process = subprocess.Popen((*command, "-f"), stdout=output, stderr=output)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _run(*command: str) -> None:
    """One command; raises with what it printed when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, "CEPH_ARGS": ""})
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stdout}{done.stderr}")


def _wait_for(port: int) -> None:
    """Until something listens there."""
    until = time.monotonic() + 60
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _free_port() -> int:
    """A port of loopback that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
