"""The key, the token, TLS, and certificates that are right, wrong and expired."""

from __future__ import annotations

import datetime
import shutil
import urllib.error
import urllib.request
from pathlib import Path

import maisi_client
import numpy as np
import pytest
import tritonclient.grpc as grpc
import trustme
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as pb

from tests.conftest import PATIENCE, ROOT, TOKEN
from tests.server.metrics import numbers
from tests.server.papers import Papers
from tests.server.tiny import write_repository

Error = grpc.InferenceServerException
HOST = "127.0.0.2"
KEY = "a-key-of-sixteen-or-more"
# A decoder that computes for anybody, as Triton's own backends do.
OPEN_DECODER = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        latent = pb_utils.get_input_tensor_by_name(request, "latent").as_numpy()
        image = np.zeros((1, 1, *(4 * side for side in latent.shape[2:])), np.int16)
        return pb_utils.InferenceResponse([pb_utils.Tensor("image", image)])
"""
RESTRICTED = {
    "load": lambda client, **options: client.load_model("mini.flow", **options),
    "unload": lambda client, **options: client.unload_model("mini.flow", **options),
    "index": lambda client, **options: client.get_model_repository_index(**options),
    "log": lambda client, **options: client.update_log_settings({"log_info": True}, **options),
    "trace": lambda client, **options: client.update_trace_settings(
        settings={"trace_level": ["OFF"]}, **options
    ),
    "memory": lambda client, **options: client.register_system_shared_memory(
        "x", "/x", 4, **options
    ),
}


@pytest.mark.parametrize("name", RESTRICTED)
def test_what_needs_the_key_is_refused_without(server, name):
    with grpc.InferenceServerClient(server.grpc) as client:
        with pytest.raises(Error, match="restricted"):
            RESTRICTED[name](client)
        with pytest.raises(Error, match="restricted"):
            RESTRICTED[name](client, headers={"triton-grpc-protocol-maisi-control": "guessed"})


def test_the_key_of_shared_memory_is_readable_by_our_user_and_opens_nothing_else(server):
    (key_file,) = Path("/dev/shm").glob(f"maisi-serve-*-key-{server.grpc.rpartition(':')[2]}")
    assert key_file.stat().st_mode & 0o777 == 0o600
    headers = {"triton-grpc-protocol-maisi-control": key_file.read_text()}
    with grpc.InferenceServerClient(server.grpc) as client:
        for name in RESTRICTED.keys() - {"memory"}:
            with pytest.raises(Error, match="restricted"):
                RESTRICTED[name](client, headers=headers)
        with pytest.raises(Error, match="Unable to open shared memory region"):  # no such file
            RESTRICTED["memory"](client, headers=headers)


@pytest.fixture(scope="module")
def guarded(module_server, tmp_path_factory):
    """Serve with a key, TLS and another host; return the server and its certificate."""
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "key").write_text(f"{KEY}\n")
    papers = Papers(trustme.CA(), folder / "server", HOST)
    words = [f"--host={HOST}", f"--key-file={folder / 'key'}"]
    return module_server(None, *words, *papers.server_options), papers


def test_the_key_opens(start_server, tmp_path):
    """Use a server of its own, as the supervisor loads a network again that was unloaded."""
    (tmp_path / "key").write_text(f"{KEY}\n")
    server = start_server(None, f"--key-file={tmp_path / 'key'}")
    with grpc.InferenceServerClient(server.grpc) as client:
        headers = {"triton-grpc-protocol-maisi-control": KEY}
        for name in ("index", "log", "trace", "unload", "load"):
            RESTRICTED[name](client, headers=headers)
    assert KEY not in server.log


def test_keys_and_certificates_that_cannot_be_used_end_with_a_sentence(start_server, tmp_path):
    (tmp_path / "short").write_text("secret")
    (tmp_path / "binary").write_bytes(bytes(range(128, 160)))
    for args, sentence in (
        (["--key-file=/nowhere/key"], "--key-file: /nowhere/key cannot be read: No such file"),
        ([f"--key-file={tmp_path / 'short'}"], "must have 16 or more of"),
        ([f"--key-file={tmp_path / 'binary'}"], f"--key-file: {tmp_path / 'binary'} must have 16"),
        (
            ["--tls-certificate=/nowhere/tls.crt"],
            "--tls-certificate and --tls-key must be given together",
        ),
        (
            ["--tls-certificate=/nowhere/tls.crt", "--tls-key=/nowhere/tls.key"],
            "TLS: /nowhere/tls.crt cannot be read",
        ),
    ):
        server = start_server(None, *args, ready=False)
        assert server.process.wait(PATIENCE) == 1
        assert sentence in server.log
        assert "Traceback" not in server.log


def ask(server, tls):
    with maisi_client.Client(server.grpc, tls=tls, retries=0, timeout=PATIENCE) as client:
        return client.generate(size=(32, 32, 32), steps=1, seed=1)


def test_tls_and_mutual_tls(start_server, tmp_path):
    ca, stranger = trustme.CA(), trustme.CA()
    own = Papers(ca, tmp_path / "server", "127.0.0.1")
    pipeline = Papers(ca, tmp_path / "client", "pipeline@example.org")
    other = Papers(stranger, tmp_path / "stranger", "other@example.org")
    server = start_server(None, *own.server_options, f"--tls-clients={pipeline.ca}")
    tls = maisi_client.Tls(pipeline.ca, pipeline.certificate, pipeline.key)
    volume = ask(server, tls)
    assert volume.image.shape == (32, 32, 32)
    for wrong in (
        None,  # no TLS at all
        maisi_client.Tls(pipeline.ca),  # no certificate
        maisi_client.Tls(pipeline.ca, other.certificate, other.key),  # of somebody else's
        maisi_client.Tls(other.ca, pipeline.certificate, pipeline.key),  # distrusts the server
    ):
        with pytest.raises(maisi_client.ServerUnavailable) as refused:
            ask(server, wrong)
        assert "Traceback" not in str(refused.value)
    expiry = numbers(server.status)["maisi_certificate_expiry_timestamp_seconds"]
    assert expiry > datetime.datetime.now().timestamp()
    # Triton's HTTP knows no TLS: nothing but health without the key.
    with urllib.request.urlopen(f"http://{server.http}/v2/health/live", timeout=PATIENCE) as answer:
        assert answer.status == 200
    for path in ("v2", "v2/models/mini/config", "v2/models/stats"):
        with pytest.raises(urllib.error.HTTPError) as closed:
            urllib.request.urlopen(f"http://{server.http}/{path}", timeout=PATIENCE)
        assert closed.value.code in (403, 400)


def test_an_expired_certificate_is_refused_and_counted(start_server, tmp_path):
    ca, past = trustme.CA(), datetime.datetime(2020, 1, 1)
    expired = Papers(ca, tmp_path / "server", "127.0.0.1", not_before=past, not_after=past)
    server = start_server(write_repository(tmp_path / "models"), *expired.server_options)
    with pytest.raises(maisi_client.ServerUnavailable):
        ask(server, maisi_client.Tls(expired.ca))
    assert numbers(server.status)["maisi_certificate_expiry_timestamp_seconds"] == 0


def test_the_environment_names_the_files(guarded, monkeypatch):
    server, papers = guarded
    monkeypatch.setenv("MAISI_CA", str(papers.ca))
    assert np.asarray(ask(server, None).image.dataobj).shape == (32, 32, 32)
    monkeypatch.setenv("MAISI_CA", "/nowhere")
    with pytest.raises(maisi_client.InvalidRequest, match="tls: /nowhere cannot be read"):
        ask(server, None)
    with pytest.raises(maisi_client.InvalidRequest, match="must be given together"):
        ask(server, maisi_client.Tls(papers.ca, certificate=papers.certificate))


def test_networks_of_an_earlier_version_are_not_served(start_server, tmp_path):
    for source in (ROOT / "model_repository").glob("mini*"):
        shutil.copytree(source, tmp_path / source.name)
    for network, parameter in (("flow", "network"), ("vae_decoder", "grey_levels")):
        path = tmp_path / f"mini.{network}" / "config.pbtxt"
        config = text_format.Parse(path.read_text(), pb.ModelConfig())
        del config.parameters[parameter]
        path.write_text(text_format.MessageToString(config))
    server = start_server(tmp_path, ready=False)
    assert server.process.wait(PATIENCE) == 1
    line = [line for line in server.log.splitlines() if line.startswith("serve: ")][-1]
    assert "mini.flow, mini.vae_decoder: built for an earlier version of this server" in line
    assert line.endswith("build mini again (python -m export build).")


def test_networks_that_only_say_that_they_ask_for_the_token_are_not_served(start_server, tmp_path):
    for source in (ROOT / "model_repository").glob("mini*"):
        shutil.copytree(source, tmp_path / source.name)
    folder = tmp_path / "mini.vae_decoder"
    config = text_format.Parse((folder / "config.pbtxt").read_text(), pb.ModelConfig())
    assert "network" in config.parameters
    config.backend, config.default_model_filename = "python", ""
    config.ClearField("optimization")
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config))
    (folder / "1" / "model.py").write_text(OPEN_DECODER)
    server = start_server(tmp_path, ready=False)
    assert server.process.wait(PATIENCE) == 1
    line = [line for line in server.log.splitlines() if line.startswith("serve: ")][-1]
    assert line.startswith("serve: mini.vae_decoder: answers any client, or did not")


def test_a_token_that_can_be_guessed_ends_with_a_sentence(start_server, tmp_path, monkeypatch):
    for short in ("secret", "0" * 31):
        monkeypatch.setenv("MAISI_TOKEN", short)
        server = start_server(ready=False)
        assert server.process.wait(PATIENCE) == 1
        (line,) = server.log.splitlines()
        assert line.startswith(f"serve: MAISI_TOKEN: {len(short)} characters, but 32 or more")
        assert short not in line
    monkeypatch.setenv("MAISI_TOKEN", "")  # none: the server draws one
    assert len(start_server(write_repository(tmp_path)).triton.environ()["MAISI_TOKEN"]) == 32


def test_networks_show_nobody_the_token(server):
    assert server.triton.environ()["MAISI_TOKEN"] == TOKEN
    stubs = [server.stub(model) for model in ("mini.flow", "mini.condition", "mini.stream")]
    assert {stub.environ()["MAISI_TOKEN"] for stub in stubs} == {TOKEN}
    with grpc.InferenceServerClient(server.grpc) as client:
        texts = [
            str(client.get_model_config(model.name)) + str(client.get_model_metadata(model.name))
            for model in client.get_inference_statistics().model_stats
        ]
        texts.append(str(client.get_inference_statistics()))
    texts += [server.log, *(" ".join(stub.cmdline()) for stub in [server.triton, *stubs])]
    assert not any(TOKEN in text for text in texts)


def test_http_listens_at_loopback_whatever_the_host(guarded):
    server, papers = guarded
    assert server.grpc.startswith(f"{HOST}:") and server.http.startswith("127.0.0.1:")
    assert numbers(server.status)["maisi_server_ready"] == 1
    tls = {"ssl": True, "root_certificates": str(papers.ca)}
    with grpc.InferenceServerClient(server.grpc, **tls) as client:
        assert client.is_server_ready()
    with urllib.request.urlopen(
        f"http://{server.http}/v2/health/ready", timeout=PATIENCE
    ) as answer:
        assert answer.status == 200
    elsewhere = server.http.replace("127.0.0.1", HOST)
    with pytest.raises(urllib.error.URLError, match="refused"):
        urllib.request.urlopen(f"http://{elsewhere}/v2/health/ready", timeout=PATIENCE)
