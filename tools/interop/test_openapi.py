"""The server against its OpenAPI document: Schemathesis runs all its phases and checks."""

import os
import pathlib
import subprocess
import sys

import pytest
import requests

FOLDER = pathlib.Path(__file__).parent
TOKEN = "token-of-the-interop-tests"
TIMEOUT = 180  # seconds; a run takes about 30


@pytest.mark.parametrize("token", [None, TOKEN], ids=["no_token", "token"])
def test_schemathesis(start_server, model, tmp_path, token):
    reference = model.parent / "reference.parquet"
    server = start_server(
        "--feedback-limit=0",
        f"--model-source={model.parent}",  # no request reaches a bucket
        *([f"--drift-reference={reference}"] if reference.exists() else []),
        *([f"--admin-token={token}"] if token else []),
    )
    digest = requests.get(f"{server.url}/models/current", timeout=10).json()["model"]
    config = tmp_path / "schemathesis.toml"
    text = (FOLDER / "schemathesis.toml").read_text().replace("schemathesis_hooks.py", str(FOLDER / "schemathesis_hooks.py"))
    if token:
        text += f'\n[auth.openapi.token]\nbearer = "{token}"\n'
    config.write_text(text)
    run = subprocess.run(
        [pathlib.Path(sys.executable).with_name("schemathesis"), f"--config-file={config}", "run", f"{server.url}/openapi.json"],
        cwd=tmp_path, env={**os.environ, "MODEL_DIGEST": digest}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=TIMEOUT,
    )
    print(run.stdout)
    assert run.returncode == 0, "Schemathesis found differences between the server and its document"
    assert server.running
    assert "panic" not in server.log
