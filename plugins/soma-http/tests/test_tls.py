"""A server with a certificate of its own, which a client is told to trust."""

from __future__ import annotations

import shutil
import signal
import subprocess

import numpy as np
import pytest

import soma_core as soma
from soma_core.testing.filters import Actions, Echo

from .conftest import TOKEN, TRUSTING, serving

WITH_TLS = TRUSTING.replace("port = 0", 'port = 0\ncertificate = "cert.pem"\nkey = "key.pem"')


@pytest.fixture(scope="module")
def secure_server(tmp_path_factory):
    """The URL of a server, and the file with its certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificate, is not installed")
    directory = tmp_path_factory.mktemp("tls")
    made = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-days", "2", "-keyout", directory / "key.pem", "-out", directory / "cert.pem"]
    names = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(["openssl", *made, *files, *names], check=True, capture_output=True)
    with serving(directory, WITH_TLS) as url:
        yield url, directory / "cert.pem"


@pytest.fixture(scope="module")
def worker(secure_server):
    url, ca_file = secure_server
    filters = {"echo": Echo(), "actions": Actions()}
    with soma.connect(
        "http", url=url, token=TOKEN, ca_file=ca_file, trust_server=True, filters=filters
    ) as worker:
        yield worker


def test_a_worker_behind_tls_is_used_like_any_other(worker):
    x = np.random.default_rng(0).random(100_000)
    np.testing.assert_array_equal(worker.forward("echo", x), x)


def test_a_certificate_that_nobody_vouches_for_is_refused(secure_server):
    with pytest.raises(soma.StartFailed, match="certificate verify failed"):
        soma.connect("http", url=secure_server[0], token=TOKEN)


@pytest.mark.parametrize("kind", [TimeoutError, OSError, ValueError])
def test_what_a_signal_handler_raises_ends_the_call_alone(worker, kind):
    def ring(*_):
        raise kind("rung")

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(kind, match="rung"):
            worker.forward("actions", ["sleep", 60.0])
    finally:
        signal.signal(signal.SIGALRM, before)
    assert worker.forward("echo", 1) == 1
