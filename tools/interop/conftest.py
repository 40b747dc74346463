"""Fixtures for `make interop`: they start bin/server on a free loopback port, and stop it."""

import os
import pathlib
import re
import subprocess
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
START_TIMEOUT = 60  # seconds
STOP_TIMEOUT = 30


def pytest_addoption(parser):
    parser.addoption("--model", default="runs/demo/run/model.onnx", help="model file to serve")


class Server:
    """A running server. url is its base URL without a trailing slash."""

    def __init__(self, arguments, folder):
        # The caller's environment must not configure the server or export its traces.
        env = {k: v for k, v in os.environ.items() if not k.startswith(("FAKEART_", "OTEL_"))}
        command = [ROOT / "bin/server", "--addr=127.0.0.1:0", f"--log-path={folder / 'predictions.db'}", "--log-format=text", *arguments]
        self.lines = []
        self.url = None
        self._listening = threading.Event()
        self._process = subprocess.Popen(command, cwd=folder, env=env, stderr=subprocess.PIPE, text=True, errors="replace")
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self._listening.wait(START_TIMEOUT)
        if not self.url:
            self.stop()
            pytest.fail(f"the server exited, or wasn't listening within {START_TIMEOUT} s:\n{self.log}", pytrace=False)

    def _read(self):
        for line in self._process.stderr:
            self.lines.append(line)
            match = re.search(r"listening on (http://[0-9.]+:[0-9]+)", line)
            if match and not self.url:
                self.url = match[1]
                self._listening.set()
        self._listening.set()  # the server has exited

    @property
    def log(self):
        """The messages so far."""
        return "".join(self.lines)

    @property
    def running(self):
        return self._process.poll() is None

    def stop(self):
        """Shut the server down and return its exit status, which is negative if it had to be killed."""
        self._process.terminate()
        try:
            status = self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        self._reader.join()
        self._process.stderr.close()
        return status


@pytest.fixture(scope="session")
def model(request):
    """The path of the model file."""
    return ROOT / request.config.getoption("--model")


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """A function that starts a server. All servers stop at the end of the session."""
    servers = []

    def start(*arguments):
        server = Server(arguments, tmp_path_factory.mktemp("server"))
        servers.append(server)
        return server

    yield start
    failures = [f"exit status {status}:\n{s.log}" for s in servers if (status := s.stop()) != 0]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)


@pytest.fixture(scope="session")
def start_server(model, start):
    """A function that starts a server of the model with further arguments."""
    return lambda *arguments: start(f"--model={model}", *arguments)


@pytest.fixture(scope="session")
def server(start_server):
    """A server without an admin token, shared by the tests."""
    return start_server()
