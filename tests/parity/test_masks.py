"""Masks generated from an anatomy, with and without image, and masks that the server completes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from maisi_client import Client, InvalidRequest

from export import variant as variants
from export.arrays import Array
from tests.client.command import maisi
from tests.conftest import ROOT, Server
from tests.export.repository_of_tiny import official
from tests.export.weights import tiny
from tests.parity.conftest import Caller, stream
from tests.parity.masks import (
    HEAD_REQUEST,
    REQUEST,
    SEED,
    SIZE,
    SPACING,
    head_of_monai,
    labels_of_head,
    mask_of_monai,
)


@pytest.fixture
def ddpm(official_callers: dict[str, Caller]) -> Caller:
    return official_callers["tiny-ddpm"]


def test_it_is_what_monai_and_upstream_make(ddpm: Caller, official_repository: Path) -> None:
    truth = mask_of_monai(official("tiny-ddpm"), official_repository)
    answer = ddpm.ask(**REQUEST)
    used_mask, report = answer["used_mask"], json.loads(answer["report"].tobytes())
    assert used_mask.shape == answer["image"].shape == SIZE
    assert (used_mask == truth).mean() > 0.999  # a class may win by a rounding
    assert len(np.unique(used_mask)) > 5
    assert (answer["image"][used_mask == 0] == -1000).all()
    assert report["anatomy"]["liver"] == pytest.approx(0.8)
    assert report["anatomy"]["hepatic tumor"] == -1


def test_a_head_by_rectified_flow_is_what_monai_makes(
    tiny_caller: Caller, tiny_server: Server, tiny_repository: Path
) -> None:
    truth = head_of_monai(tiny(), tiny_repository, [0.5, 0.8, -1, 0.4])
    answer = tiny_caller.ask(**HEAD_REQUEST)
    used_mask, report = answer["used_mask"], json.loads(answer["report"].tobytes())
    assert used_mask.shape == answer["image"].shape == SIZE
    assert (used_mask == truth).mean() > 0.999  # a class may win by a rounding
    assert len(np.unique(used_mask)) > 5
    assert report["anatomy"] == {
        "head size": 0.5,
        "ventricles": 0.8,
        "white matter hyperintensity": -1,
        "brain tumor": 0.4,
    }
    with Client(tiny_server.grpc) as client:
        arguments: dict[str, Any] = {"size": SIZE, "spacing": SPACING, "seed": SEED}
        alone = client.mask(anatomy={"ventricles": 0.8, "brain tumor": 0.4}, **arguments)
        assert (np.asarray(alone.dataobj) == used_mask).all()
        other = client.mask(anatomy="ventricles=0.1, brain tumor=0.4", **arguments)
        assert (np.asarray(other.dataobj) != used_mask).mean() > 0.01
        sentence = "anatomy: 'liver' is not one of head size, ventricles, white matter hyperint"
        with pytest.raises(InvalidRequest, match=sentence):
            client.mask(anatomy={"liver": 0.8}, **arguments)
        assert client.info()["tiny"].anatomy["ventricles"]["meaning"] == "0 is 5 ml, 1 is 80 ml"
    output = maisi("info", "--url", tiny_server.grpc).stdout
    assert "anatomy       head size 0.5 (0 is 1.1 l, 1 is 1.9 l), ventricles 0.3 (0 is" in output
    assert "brain tumor absent" in output


def test_a_head_of_the_shipped_networks_is_what_monai_makes(caller: Caller) -> None:
    defaults = [
        size["default"] for size in variants.load("mini").serving["mask_generation"]["sizes"]
    ]
    checkpoints = ROOT / "export" / "checkpoints"
    truth = labels_of_head(variants.load("mini"), checkpoints, [*defaults[:2], 0.6, defaults[3]])
    grid = {"size": np.array(truth.shape, np.int32), "spacing": np.full(3, 2, np.float32)}
    anatomy = {"anatomy": np.array([b"tumor=0.6"], object)}
    answer = caller.ask(**HEAD_REQUEST | grid | anatomy)
    assert (answer["used_mask"] == truth).mean() > 0.999  # a class may win by a rounding


def test_both_endpoints_give_the_same_pair_and_the_mask_alone(
    ddpm: Caller, official_server: Server
) -> None:
    answer = ddpm.ask(**REQUEST)
    messages = stream(official_server, "tiny-ddpm", **REQUEST)
    for name in ("image", "used_mask"):
        assert messages[-1].as_numpy(name).tobytes() == answer[name].tobytes()
    stages = [message.as_numpy("stage").tobytes().decode() for message in messages]
    assert list(dict.fromkeys(stages))[:2] == ["condition", "mask"]
    progress = [float(message.as_numpy("progress")[0]) for message in messages]
    assert progress == sorted(progress)

    mask_only = stream(official_server, "tiny-ddpm", **REQUEST, mask_only=np.array([True]))
    assert mask_only[-1].as_numpy("used_mask").tobytes() == answer["used_mask"].tobytes()
    assert mask_only[-1].as_numpy("image") is None
    ids = {
        label["id"] for label in json.loads(mask_only[-1].as_numpy("report").tobytes())["labels"]
    }
    assert ids == set(np.unique(answer["used_mask"])) - {0}


def test_only_the_organs_asked_for_are_given_back(ddpm: Caller) -> None:
    full = ddpm.ask(**REQUEST)
    partial = ddpm.ask(**REQUEST, organs=np.array([b"body, 57"], object))
    expected = np.where(np.isin(full["used_mask"], (200, 57)), full["used_mask"], 0)
    assert (partial["used_mask"] == expected).all()
    assert partial["image"].tobytes() == full["image"].tobytes()


def test_a_mask_of_another_vocabulary_and_without_a_body(
    ddpm: Caller, official_server: Server
) -> None:
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[10:20, 10:30, 10:30], labels[20:28, 10:30, 10:30] = 5, 11  # liver, a lobe of the lung
    inputs: dict[str, Any] = {
        "mask": labels,
        "vocabulary": np.array([b"totalsegmentator-v2"], object),
        "spacing": np.array([3, 3, 3], np.float32),
        "seed": np.array([1]),
        "steps": np.array([2], np.int32),
    }
    answer = ddpm.ask(**inputs)
    used_mask, report = answer["used_mask"], json.loads(answer["report"].tobytes())
    assert (used_mask[labels == 5] == 1).all()
    assert (used_mask[labels == 11] == 29).all()
    assert (used_mask == 200).sum() > 1000
    assert (report["vocabulary"], report["body_added"]) == ("totalsegmentator-v2", True)
    assert report["top_region"] == "chest"
    checked = stream(official_server, "tiny-ddpm", **inputs, check=np.array([True]))
    (check_report,) = [json.loads(message.as_numpy("report").tobytes()) for message in checked]
    names = {label["name"]: label["voxels"] for label in check_report["labels"]}
    assert names["liver"] == (labels == 5).sum()
    assert set(names) == {"liver", "left lung lower lobe", "body"}
    assert checked[0].as_numpy("image") is None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "mask and anatomy": ({"mask": np.ones((32, 32, 32), np.uint8)}, "anatomy: cannot be combined"),
    "two tumours": (
        {"anatomy": np.array([b"lung tumor=0.1, bone lesion=0.2"], object)},
        "anatomy: lung tumor, bone lesion are 2 tumours, and at most one is allowed",
    ),
    "size": (
        {"anatomy": np.array([b"liver=1.2"], object)},
        "anatomy: liver has the size '1.2'",
    ),
    "not controllable": (
        {"anatomy": np.array([b"heart=0.2"], object)},
        "anatomy: 'heart' is not one of gallbladder, liver",
    ),
    "organ": (
        {"organs": np.array([b"livr"], object)},
        "organs: 'livr' is neither the name nor the id",
    ),
    "vocabulary": (
        {"anatomy": None, "vocabulary": np.array([b"snomed"], object), "size": None}
        | {"mask": np.ones((32, 32, 32), np.uint8)},
        "vocabulary: 'snomed' is not one of maisi, totalsegmentator-v2, maisi-124",
    ),
}


@pytest.mark.parametrize(("changes", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_what_contradicts_itself_is_refused_at_both_endpoints(
    ddpm: Caller, official_server: Server, changes: dict[str, Any], sentence: str
) -> None:
    inputs = {name: value for name, value in (REQUEST | changes).items() if value is not None}
    if "mask" in changes:
        inputs.pop("size", None)
    streamed = stream(official_server, "tiny-ddpm", **inputs)[-1]
    assert isinstance(streamed, triton.InferenceServerException)
    for message in (ddpm.refusal(**inputs), str(streamed.message())):
        assert sentence in message
        assert "Traceback" not in message


def test_variants_without_mask_networks_have_no_such_inputs(
    caller: Caller, official_callers: dict[str, Caller], mask: Callable[..., Array]
) -> None:
    assert "'anatomy'" in official_callers["tiny-brain"].refusal(anatomy=REQUEST["anatomy"])
    assert "'vocabulary'" in caller.refusal(
        mask=mask(32, 32, 32), vocabulary=np.array([b"maisi"], object)
    )
    assert "'organs'" in official_callers["tiny-brain"].refusal(organs=REQUEST["anatomy"])
