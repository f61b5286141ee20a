"""Small stand-ins for a hospital's DICOM series and a publisher's web server."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

PATIENT = {
    "PatientName": "Doe^Jane",
    "PatientID": "MRN-4711",
    "PatientBirthDate": "19500102",
    "PatientSex": "F",
    "StudyDescription": "Jane's abdomen",
    "PatientComments": "lives in Springfield",
}


def write_series(
    folder,
    hu,
    affine,
    *,
    slope=1.0,
    intercept=-1024.0,
    number=1,
    order=None,
    names="{:06d}.dcm",
    leave_out=(),
    change=None,
    **tags,
):
    """Write HU (columns, rows, slices) with a RAS+ affine as one file a slice, with a patient in the header.

    ``order`` is the order of the slices in the file names; ``change(dataset, index)`` modifies a slice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    uid = generate_uid()
    order = list(range(hu.shape[2]) if order is None else order)
    for position, index in enumerate(order):
        if index in leave_out:
            continue
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesInstanceUID, data.SeriesNumber = "CT", uid, number
        data.InstanceNumber = position + 1
        data.ImageOrientationPatient = [float(f"{v:.9f}") for v in (lps[:3, :2] / spacing[:2]).T.ravel()]
        data.ImagePositionPatient = [float(f"{v:.6f}") for v in lps[:3, 3] + index * lps[:3, 2]]
        data.PixelSpacing = [float(f"{v:.6f}") for v in (spacing[1], spacing[0])]
        data.SliceThickness = float(f"{spacing[2]:.6f}")
        data.Columns, data.Rows = hu.shape[:2]
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 16, 15, 1
        data.RescaleSlope, data.RescaleIntercept = slope, intercept
        stored = np.rint((hu[..., index].T - intercept) / slope).astype("<i2")
        data.PixelData = stored.tobytes()
        for name, value in {**PATIENT, **tags}.items():
            setattr(data, name, value)
        if change:
            change(data, index)
        pydicom.dcmwrite(folder / names.format(position), data, enforce_file_format=True)
    return folder


write_series.patient = PATIENT


@pytest.fixture(name="write_series", scope="session")
def _write_series():
    return write_series


class Server:
    """Serves ``files`` (path -> bytes) on this machine, with the faults of real servers.

    Attributes:
        ranges: whether parts of a file can be requested.
        cuts: number of bytes after which each of the next answers is interrupted.
        codes: status codes of the next answers, sent instead of the file.
        html: paths answered with a web page and status 200.
        asked: path and ``Range`` of each request.
    """

    def __init__(self):
        self.files, self.ranges, self.cuts, self.codes, self.html, self.asked = {}, True, [], [], set(), []
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                owner.answer(self)

            def log_message(self, *_):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def answer(self, request):
        path, requested = request.path, request.headers.get("Range")
        self.asked.append((path, requested))
        if self.codes and (code := self.codes.pop(0)):
            request.send_error(code)
            return
        if path in self.html:
            page = b"\n<!DOCTYPE html><html><body>please log in</body></html>"
            request.send_response(200)
            request.send_header("Content-Type", "text/html; charset=utf-8")
            request.send_header("Content-Length", str(len(page)))
            request.end_headers()
            request.wfile.write(page)
            return
        if path not in self.files:
            request.send_error(404)
            return
        content, start = self.files[path], 0
        if requested and self.ranges:
            start = int(requested.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                request.send_response(416)
                request.send_header("Content-Range", f"bytes */{len(content)}")
                request.end_headers()
                return
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            request.send_response(200)
        request.send_header("Content-Type", "application/octet-stream")
        request.send_header("Content-Length", str(len(content) - start))
        request.end_headers()
        sent = content[start:]
        if self.cuts:
            sent = sent[: self.cuts.pop(0)]
        request.wfile.write(sent)


@pytest.fixture
def server():
    """A web server on this machine, see ``Server``."""
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


@pytest.fixture(scope="session")
def new_server():
    """The class of the servers, for a test that needs several."""
    return Server
