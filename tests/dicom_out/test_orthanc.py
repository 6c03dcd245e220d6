"""The objects in a PACS: Debian's Orthanc on loopback, filled by DCMTK's storescu and asked by its REST interface."""

import json
import shutil
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest

from tests.dicom_out.conftest import Pacs

ORTHANC = shutil.which("Orthanc") or shutil.which("Orthanc", path="/usr/sbin")
pytestmark = pytest.mark.skipif(
    ORTHANC is None or shutil.which("storescu") is None, reason="not on the PATH: apt-get install orthanc dcmtk"
)
_OPENER = build_opener(ProxyHandler({}))


@dataclass(frozen=True, slots=True)
class Orthanc:
    """A running server."""

    dicom_port: int
    http_port: int

    def get(self, path: str) -> Any:
        with _OPENER.open(f"http://127.0.0.1:{self.http_port}{path}", timeout=20) as answer:
            return json.load(answer)

    def send(self, folder: Path) -> None:
        files = sorted(folder.rglob("*.dcm"))
        command = ["storescu", "-q", "-aec", "ORTHANC", "127.0.0.1", str(self.dicom_port), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens on, at this moment."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    assert ORTHANC is not None
    folder = tmp_path_factory.mktemp("orthanc")
    dicom_port, http_port = free_ports(2)
    settings = {
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "index"),
        "DicomPort": dicom_port,
        "HttpPort": http_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "DicomCheckCalledAet": False,
        "Plugins": [],
    }
    (folder / "orthanc.json").write_text(json.dumps(settings))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([ORTHANC, str(folder / "orthanc.json")], stdout=log, stderr=log)
    server = Orthanc(dicom_port, http_port)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                server.get("/system")
                break
            except (URLError, ConnectionError):
                assert process.poll() is None, (folder / "log").read_text()
                assert time.monotonic() < deadline, (folder / "log").read_text()
                time.sleep(0.1)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=60)


def test_objects_load_beside_their_films_and_once_however_often_they_are_sent(orthanc: Orthanc, pacs: Pacs):
    number = len(pacs.archive.rows)
    orthanc.send(pacs.folder)
    first = orthanc.get("/statistics")
    assert (first["CountInstances"], first["CountStudies"]) == (4 * number, number)
    orthanc.send(pacs.folder)
    assert orthanc.get("/statistics")["CountInstances"] == 4 * number
    series = [each["MainDicomTags"] for each in orthanc.get("/series?expand")]
    assert Counter(each["Modality"] for each in series) == {"SR": number, "OT": number, "PR": number}
    assert {each["Manufacturer"] for each in series} == {"cxr-ray"}
    studies = {each["MainDicomTags"]["StudyInstanceUID"] for each in orthanc.get("/studies?expand")}
    assert studies == {row["study_instance_uid"] for row in pacs.archive.rows.values()}


def test_orthanc_renders_a_heat_map(orthanc: Orthanc, pacs: Pacs):
    orthanc.send(pacs.folder)
    wanted = pacs.read("dx", "sc").SOPInstanceUID
    shown = [each for each in orthanc.get("/instances?expand") if each["MainDicomTags"]["SOPInstanceUID"] == wanted]
    assert len(shown) == 1
    url = f"http://127.0.0.1:{orthanc.http_port}/instances/{shown[0]['ID']}/preview"
    with _OPENER.open(url, timeout=20) as answer:
        assert answer.read(4) == b"\x89PNG"
