"""Jobs run on the real server, are cancelled on it, and are sent to every browser."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from maisi_client._studio import backend
from maisi_client._studio import jobs as queue

from tests.client.relay import relay
from tests.client.server_metrics import cancelled_requests
from tests.client.studio.browser import Browser, labels, loaded, nifti, studio
from tests.conftest import PATIENCE, Server

QUICK = {"steps": 1, "seed": 7}
ENDLESS = {"size": [96, 96, 96], "steps": 1000}


@pytest.fixture(scope="module")
def mask(browser: Browser) -> dict[str, Any]:
    return browser.uploaded("mask", ("brain.nii.gz", nifti(labels())))


def picture(browser: Browser, id_: str) -> dict[str, Any]:
    (one,) = (one for one in browser.get("/api/pictures") if one["id"] == id_)
    return dict(one)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the page wait for the server's answer, also where it comes late."""
    monkeypatch.setattr(backend, "_PAGE_SECONDS", PATIENCE)


def test_the_server_is_described(browser: Browser, server: Server, patient: None) -> None:
    described = browser.get("/api/server")
    assert described["url"] == server.grpc and described["reachable"] is True
    assert described["message"] is None and described["version"]
    assert described["variants"]["mini"]["modalities"]["mri_t1"] == 9
    assert described["variants"]["mini"]["labels"]["150"] == "white matter hyperintensity"
    assert described["colours"]["0"] == "#000000" and described["colours"]["150"] == "#ff4d2e"
    assert len(set(described["colours"])) == 256


def test_a_volume_of_a_mask(browser: Browser, mask: dict[str, Any]) -> None:
    arguments = {"modality": "mri_t2", **QUICK}
    job = browser.finished("volume", mask=mask["id"], arguments=arguments)
    assert job["state"] == "done" and job["error"] is None and job["fraction"] == 1
    volume = picture(browser, job["picture"])
    assert volume["kind"] == "volume" and volume["mask"] == mask["id"]
    assert volume["name"] == "mri_t2-seed7" and volume["title"] == "mri_t2, seed 7"
    assert volume["request"] == {**arguments, "variant": "mini"}
    assert volume["report"]["request"] == {**arguments, "variant": "mini", "mask": "brain.nii.gz"}
    image = loaded(browser.get(f"/api/pictures/{volume['id']}.nii.gz"))
    assert image.get_data_dtype() == np.int16 and np.array_equal(image.affine, mask["affine"])
    report = browser.get(f"/api/pictures/{volume['id']}/report.json")
    assert report == volume["report"] and "/tmp" not in json.dumps(report)


def test_a_mask_that_the_server_changed_is_a_picture(
    browser: Browser, mask: dict[str, Any]
) -> None:
    arguments = {**QUICK, "augment": True}
    job = browser.finished("volume", mask=mask["id"], arguments=arguments)
    volume = picture(browser, job["picture"])
    changed = picture(browser, volume["mask"])
    assert changed["id"] != mask["id"] and changed["name"] == f"{volume['name']}_mask"
    assert changed["vocabulary"] == "maisi" and changed["labels"]
    alone = browser.finished("mask", mask=mask["id"], arguments={"augment": True, "seed": 7})
    same = [browser.get(f"/api/pictures/{id_}.nii.gz") for id_ in (changed["id"], alone["picture"])]
    assert np.array_equal(loaded(same[0]).dataobj, loaded(same[1]).dataobj)


def test_from_a_source(browser: Browser, mask: dict[str, Any]) -> None:
    first = browser.finished("volume", mask=mask["id"], arguments=QUICK)
    arguments = {**QUICK, "strength": 0.5}
    job = browser.finished("volume", mask=mask["id"], source=first["picture"], arguments=arguments)
    volume = picture(browser, job["picture"])
    assert volume["source"] == first["picture"]
    source = picture(browser, first["picture"])
    assert volume["report"]["request"]["source"] == f"{source['name']}.nii.gz"


def test_a_seed_is_drawn_when_the_job_is_queued(browser: Browser) -> None:
    _, job = browser.post("/api/jobs", {"kind": "volume", "arguments": ENDLESS})
    assert 0 <= job["arguments"]["seed"] < 2**32 and job["state"] == "waiting"
    browser.ask("DELETE", f"/api/jobs/{job['id']}")


def test_check_is_the_clients(browser: Browser, mask: dict[str, Any]) -> None:
    _, outlook = browser.post("/api/check", {"mask": mask["id"], "arguments": {"steps": 3}})
    assert outlook["steps"] == 3 and outlook["size"] == [32, 32, 32]
    assert {one["id"] for one in outlook["labels"]} >= {one["id"] for one in mask["labels"]}


def test_a_running_job_is_cancelled_on_the_server(
    browser: Browser, server: Server, eventually: Callable[..., None]
) -> None:
    before = cancelled_requests(server)
    _, job = browser.post("/api/jobs", {"kind": "volume", "arguments": ENDLESS})
    running = browser.wait(job["id"], lambda job: job["fraction"] > 0)
    assert running["state"] == "running" and running["stage"]
    status, ended = browser.ask("DELETE", f"/api/jobs/{job['id']}")
    assert status == 200 and ended["state"] == "cancelled" and ended["fraction"] < 0.5
    eventually(lambda: cancelled_requests(server) >= before + 1)
    assert browser.ask("DELETE", f"/api/jobs/{job['id']}")[0] == 204
    assert browser.error("DELETE", f"/api/jobs/{job['id']}")[0] == 404


def test_a_job_is_cancelled_twice_at_once(browser: Browser) -> None:
    _, job = browser.post("/api/jobs", {"kind": "volume", "arguments": ENDLESS})
    browser.wait(job["id"], lambda job: job["fraction"] > 0)
    with ThreadPoolExecutor(2) as threads:
        answers = threads.map(browser.ask, ["DELETE"] * 2, [f"/api/jobs/{job['id']}"] * 2)
        assert {status for status, _ in answers} <= {200, 204}


def test_a_picture_stays_while_a_job_needs_it(browser: Browser) -> None:
    needed = browser.uploaded("mask", ("needed.nii.gz", nifti(labels(2))))
    address = f"/api/pictures/{needed['id']}"
    body = {"kind": "volume", "mask": needed["id"], "arguments": {"steps": 1000}}
    _, job = browser.post("/api/jobs", body)
    refusal = "'needed.nii.gz' is an input of 1 unfinished request"
    assert browser.error("DELETE", address) == (409, refusal)
    assert browser.ask("DELETE", f"/api/jobs/{job['id']}")[0] == 200
    assert browser.ask("DELETE", address)[0] == 204


def test_two_run_and_the_others_wait(browser: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_WAITING", 2)
    body = {"kind": "volume", "arguments": ENDLESS}
    first = [browser.post("/api/jobs", body)[1]["id"] for _ in range(2)]
    for id_ in first:
        browser.wait(id_, lambda job: job["state"] == "running")
    later = [browser.post("/api/jobs", body)[1]["id"] for _ in range(2)]
    status, answer = browser.post("/api/jobs", body)
    assert status == 429 and answer["error"]["message"].startswith("2 jobs are waiting")
    states = {job["id"]: job["state"] for job in browser.get("/api/jobs")}
    assert [states[id_] for id_ in first + later] == ["running"] * 2 + ["waiting"] * 2
    assert browser.ask("DELETE", f"/api/jobs/{later[0]}")[1]["state"] == "cancelled"
    assert browser.ask("DELETE", f"/api/jobs/{first[0]}")[1]["state"] == "cancelled"
    browser.wait(later[1], lambda job: job["state"] == "running")
    for id_ in (first[1], later[1]):
        browser.ask("DELETE", f"/api/jobs/{id_}")


def test_two_browsers_see_the_same_events(browser: Browser, mask: dict[str, Any]) -> None:
    browser.get("/api/server")
    with browser.events() as one, Browser(browser.access).events() as other:
        job = browser.finished("volume", mask=mask["id"], arguments=QUICK)
        browser.ask("DELETE", f"/api/jobs/{job['id']}")
        browser.ask("DELETE", f"/api/pictures/{job['picture']}")
        until_gone = [list(_until_removed(events, job["picture"])) for events in (one, other)]
    assert until_gone[0] == until_gone[1]
    jobs = [data for name, data in until_gone[0] if name == "job"]
    states = [state for state, _ in itertools.groupby(data["state"] for data in jobs)]
    assert states == ["waiting", "running", "done"] and jobs[-1] == job
    fractions = [data["fraction"] for data in jobs]
    assert fractions == sorted(fractions) and len(set(fractions)) > 2
    names = [name for name, _ in until_gone[0] if name != "job"]
    assert names == ["picture", "removed", "removed"]


def _until_removed(events: Iterator[tuple[str, Any]], id_: str) -> Iterator[tuple[str, Any]]:
    for name, data in events:
        yield name, data
        if (name, data) == ("removed", {"id": id_}):
            return


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ([], 400, "the body is not a JSON object"),
        ({"kind": "x"}, 400, "kind is none of volume, mask"),
        ({"kind": "volume", "mask": 3}, 400, "mask is not the id of a picture"),
        ({"kind": "volume", "mask": "/etc/passwd"}, 404, "there is no such mask"),
        ({"kind": "volume", "source": "../x"}, 404, "there is no such volume"),
        (
            {"kind": "volume", "arguments": {"source": "/etc/passwd"}},
            400,
            "source is an id outside",
        ),
        ({"kind": "volume", "arguments": {"mask": "/etc/passwd"}}, 400, "mask is an id outside"),
        (
            {"kind": "volume", "arguments": {"stepps": 3}},
            400,
            "arguments: 'stepps' is not a column",
        ),
        ({"kind": "volume", "arguments": {"steps": "x"}}, 400, "steps is 'x'; expected: a whole"),
        ({"kind": "volume", "arguments": [1]}, 400, "arguments is not an object"),
        (
            {"kind": "mask", "arguments": {"steps": 3}},
            400,
            "steps: not allowed in a request for only a mask",
        ),
        ({"kind": "mask", "source": "x"}, 400, "source: not allowed in a request for only a mask"),
    ],
)
def test_wrong_requests_are_one_sentence(
    browser: Browser, body: Any, status: int, sentence: str
) -> None:
    answered, answer = browser.post("/api/jobs", body)
    assert answered == status and sentence in answer["error"]["message"], answer
    if isinstance(body, dict) and body.get("kind") == "volume":
        assert browser.post("/api/check", body)[0] == status


def test_json_is_bounded(browser: Browser) -> None:
    assert browser.error("POST", "/api/jobs", b"[" + b" " * (1 << 20) + b"]")[0] == 413


def test_what_the_server_refuses_is_its_sentence(browser: Browser, mask: dict[str, Any]) -> None:
    for arguments, sentence in (
        ({"modality": "mri_t9"}, "modality: 'mri_t9' is not one of"),
        ({"variant": "nope"}, "the variant is 'nope'; the server has mini"),
    ):
        job = browser.finished("volume", mask=mask["id"], arguments=arguments)
        assert job["state"] == "failed" and job["picture"] is None
        assert job["error"]["kind"] == "invalid_request"
        assert job["error"]["message"].startswith(sentence)


def test_ids_that_are_maisis_are_not_translated_again(browser: Browser) -> None:
    arguments = {"anatomy": {"head": 0.5}, "size": [32, 32, 32], "seed": 1}
    made = browser.finished("mask", arguments=arguments)
    body = {"mask": made["picture"], "arguments": {"vocabulary": "totalsegmentator-v2"}}
    status, answer = browser.post("/api/check", body)
    assert status == 400 and answer["error"]["message"].endswith("has the vocabulary 'maisi'")


def test_a_server_that_is_gone_is_one_sentence(server: Server, patient: None) -> None:
    with relay(server.grpc) as way, studio(way.address) as browser, browser.events() as events:
        assert browser.get("/api/server")["reachable"] is True
        assert next(events) == ("server", {"reachable": True, "message": None})
        _, running = browser.post("/api/jobs", {"kind": "volume", "arguments": ENDLESS})
        browser.wait(running["id"], lambda job: job["fraction"] > 0)
        way.cut()
        status, answer = browser.post("/api/check", {"arguments": ENDLESS})
        assert status == 503 and answer["error"]["kind"] == "unavailable"
        described = browser.get("/api/server")
        assert described["reachable"] is False and list(described["variants"]) == ["mini"]
        assert described["message"].startswith(f"no server answers at {way.address}: ")
        later = browser.finished("volume", arguments={"variant": "mini"})
        for job in (later, browser.wait(running["id"], lambda job: job["state"] == "failed")):
            assert job["state"] == "failed" and job["error"]["kind"] == "unavailable"
            assert job["error"]["message"].startswith("no server answers at ")
        message = {"reachable": False, "message": described["message"]}
        assert ("server", message) in itertools.takewhile(
            lambda event: event != ("job", job), events
        )
