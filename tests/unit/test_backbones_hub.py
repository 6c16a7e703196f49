import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
import torch
import transformers

from fusseg.core.errors import ConfigError
from fusseg.features.backbones import load_backbone

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The same tiny ViT twice: with both formats of weights, and with the old one only."""
    config = transformers.ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        patch_size=8,
        image_size=16,
    )
    torch.manual_seed(0)
    model = transformers.ViTModel(config)
    root = tmp_path_factory.mktemp("models")
    for name in ("both", "old"):
        model.save_pretrained(root / name)
        torch.save(model.state_dict(), root / name / "pytorch_model.bin")
        (root / name / "README.md").write_text("not needed")
    (root / "old" / "model.safetensors").unlink()
    return root


class Hub(ThreadingHTTPServer):
    """Serves a folder of models as someone/NAME, as far as a download goes."""

    def __init__(self, models):
        super().__init__(("127.0.0.1", 0), Answers)
        self.models = models
        self.fetched = []


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] == "api":
            self.describe(parts[3], parts[4])
            return
        name, file = parts[1], parts[4]
        content = (self.server.models / name / file).read_bytes()
        if self.command == "GET":
            self.server.fetched.append(f"{name}/{file}")
        self.answer(200, content, ETag=f'"{hashlib.sha256(content).hexdigest()}"')

    do_HEAD = do_GET

    def describe(self, name, what):
        folder = self.server.models / name
        if name == "gated":
            self.answer(403, b"", **{"X-Error-Code": "GatedRepo"})
        elif not folder.is_dir():
            self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
        elif what == "tree":
            entries = [
                {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": file.name}
                for file in folder.iterdir()
            ]
            self.answer(200, json.dumps(entries).encode())
        else:
            files = [{"rfilename": file.name} for file in folder.iterdir()]
            described = {"id": f"someone/{name}", "sha": COMMIT, "siblings": files}
            self.answer(200, json.dumps(described).encode())

    def answer(self, status, content, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(models, tmp_path, monkeypatch):
    """A hub on this machine and an empty cache; gives the list of what is fetched."""
    with Hub(models) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        constants = huggingface_hub.constants
        here = f"http://127.0.0.1:{server.server_port}"
        files = f"{here}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server.fetched
        server.shutdown()
        thread.join()


def test_safe_weights_are_fetched_and_the_old_format_is_left(hub, models):
    backbone = load_backbone("someone/both")
    assert sorted(hub) == ["both/config.json", "both/model.safetensors"]
    assert backbone.fingerprint == load_backbone(str(models / "both")).fingerprint


def test_old_weights_are_fetched_where_there_is_nothing_else(hub, models):
    backbone = load_backbone("someone/old")
    assert sorted(hub) == ["old/config.json", "old/pytorch_model.bin"]
    assert backbone.fingerprint == load_backbone(str(models / "both")).fingerprint


def test_a_model_that_was_fetched_once_is_not_asked_for_again(hub):
    load_backbone("someone/both")
    hub.clear()
    load_backbone("someone/both")
    assert hub == []


def test_a_gated_model_is_refused_with_what_to_do(hub):
    message = (
        "backbone 'someone/gated' is gated; accept its license on "
        "https://huggingface.co/someone/gated and run `hf auth login`"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_backbone("someone/gated")


def test_a_model_that_the_hub_lacks_is_refused(hub):
    message = (
        "there is no folder 'someone/nothing', and no model of this name on the Hugging Face hub; "
        "correct backbone.name, or run `hf auth login` if it is private"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        load_backbone("someone/nothing")
