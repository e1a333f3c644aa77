"""The whole assessment: read, describe, measure, judge, write."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._errors import InvalidRequest
from .._volume import Progress
from . import files, numbers, sides, verdicts
from .bias import Bias, bias
from .diversity import Diversity, diversity
from .harmonising import Harmony, common
from .page import write_page
from .privacy import Privacy, privacy
from .reading import Dataset, read_dataset
from .realism import Realism, realism
from .sides import Side
from .summary import Obedience, obedience
from .use import Use, check_libraries, use
from .verdicts import Verdict

_MEASURED, _TRAINED = 0.7, 0.85  # of the progress when volumes are described, networks trained


@dataclass(frozen=True)
class Results:
    """What was measured of a synthetic set; None what could not be."""

    realism: Realism | None
    diversity: Diversity
    obedience: Obedience | None
    privacy: Privacy | None
    bias: Bias
    use: Use | None
    synthetic: Side
    real: Side | None
    train: Side | None


@dataclass(frozen=True)
class Assessment:
    """Verdicts on a dataset, every number (`report`, as in `report.json`), and the page's path.

    `skipped` maps each dataset to its files that could not be read, with the reason.
    """

    verdicts: tuple[Verdict, ...]
    report: Mapping[str, Any]
    page: Path
    skipped: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def assess(
    synthetic: str | os.PathLike[str],
    *,
    to: str | os.PathLike[str],
    real: str | os.PathLike[str] | None = None,
    train_set: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    train: bool = False,
    processes: int = 1,
    seed: int = 0,
    on_progress: Callable[[Progress], None] | None = None,
) -> Assessment:
    """Measure a folder of synthetic volumes, and write `report.html` and `report.json` into `to`.

    `real` is a folder of real volumes that the model was not trained on, and `train_set` a folder
    of volumes that it was trained on; docs/how-to/assess.md says what is measured on which. Folders
    have any layout of `make_dataset`, or contain NIfTI files. `features` is the file of a network
    (TorchScript, or weights of a ResNet). With `train`, a small UNet is trained on each set and
    tested on real volumes.

    The measurements of each volume are kept in `to/.volumes`, so that a run that was stopped, or is
    repeated with more volumes, continues. `processes` above 1 start new interpreters, which import
    the program's main module: guard it with `if __name__ == "__main__"`.

    Raises `InvalidRequest` for a folder with fewer than two volumes, for CT together with MR, and
    for a file that is no network; `MaisiError` without the libraries that `features` or `train`
    need.
    """
    if train and real is None:
        raise InvalidRequest("--train needs --real; real volumes are needed to test on")
    if train:
        check_libraries()
    network = Path(features) if features is not None else None
    if network:
        from .network import Network

        Network.load(network)  # a file that is none is one error, not one of each volume
    say = on_progress or (lambda progress: None)
    say(Progress("reading", 0.0))
    folders = {"SYNTHETIC": synthetic, "--real": real, "--train-set": train_set}
    datasets = [read_dataset(path, role) for role, path in folders.items() if path is not None]
    files.check_apart(datasets)
    skipped: dict[str, dict[str, str]] = {dataset.role: {} for dataset in datasets}
    surveyed = [files.survey(dataset, skipped[dataset.role]) for dataset in datasets]
    harmony = common(files.modality(datasets, surveyed), [list(one.values()) for one in surveyed])
    cache = Path(to) / ".volumes"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InvalidRequest(f"--to is '{to}'; it is no folder: {error.strerror}") from error
    found = files.describe(
        datasets,
        surveyed,
        harmony,
        network,
        cache,
        skipped,
        processes,
        lambda done: say(Progress("describing", _MEASURED * done)),
    )
    trained = _train(datasets, found, harmony, seed, say) if train else None
    results = _measure(datasets, found, network is not None, seed, trained, say)
    judged = _judge(results)
    settings = {"seed": seed, "features": os.fspath(network) if network else "built-in"}
    report = numbers.document(results, judged, datasets, harmony, settings, skipped)
    page = Path(to) / "report.html"
    write_page(page, results, judged, report)
    numbers.write(Path(to) / "report.json", report)
    say(Progress("done", 1.0))
    return Assessment(judged, report, page, skipped)


def _measure(
    datasets: Sequence[Dataset],
    found: Sequence[Mapping[str, Path]],
    network: bool,
    seed: int,
    trained: Use | None,
    say: Callable[[Progress], None],
) -> Results:
    roles = {dataset.role: number for number, dataset in enumerate(datasets)}
    reference = roles.get("--real", roles.get("--train-set", 0))
    project = sides.projection(list(found[reference].values()), network)
    gathered = {
        role: sides.gather(role, list(found[n]), list(found[n].values()), project)
        for role, n in roles.items()
    }
    synthetic, real = gathered["SYNTHETIC"], gathered.get("--real")
    train = gathered.get("--train-set")
    names = tuple(datasets[roles[role]].label_names for role in gathered if role != "--train-set")
    steps = ("realism", "diversity", "obedience", "privacy", "bias")

    def at(name: str) -> None:
        share = steps.index(name) / len(steps)
        say(Progress(name, _TRAINED + (0.99 - _TRAINED) * share))

    at("realism")
    real_enough = real is not None and min(len(real), len(synthetic)) >= 4
    distances = realism(real, synthetic, seed, network=network) if real and real_enough else None
    at("diversity")
    variety = diversity(synthetic, real, seed)
    at("obedience")
    follows = obedience(synthetic, real, names, datasets[0].unfaithful)
    at("privacy")
    copies = privacy(synthetic, train, held_out(real, train), seed) if train else None
    at("bias")
    shares = bias(synthetic, real, names)
    return Results(distances, variety, follows, copies, shares, trained, synthetic, real, train)


def _train(
    datasets: Sequence[Dataset],
    found: Sequence[Mapping[str, Path]],
    harmony: Harmony,
    seed: int,
    say: Callable[[Progress], None],
) -> Use | None:
    """Train on the volumes that have a record: the others cannot be read."""
    by_role = {
        dataset.role: replace(
            dataset, items=tuple(item for item in dataset.items if item.name in records)
        )
        for dataset, records in zip(datasets, found, strict=True)
    }
    share = _TRAINED - _MEASURED
    return use(
        by_role["SYNTHETIC"],
        by_role["--real"],
        harmony,
        seed,
        lambda done: say(Progress("training", _MEASURED + share * done)),
    )


def held_out(real: Side | None, train: Side) -> Side | None:
    """Return the real volumes that are not, by their bytes, in the training set; None if few."""
    if real is None:
        return None
    known = {facts["sha256"]["image"] for facts in train.facts}
    kept = [i for i, facts in enumerate(real.facts) if facts["sha256"]["image"] not in known]
    return real.take(kept) if len(kept) >= files.LEAST else None


def _judge(results: Results) -> tuple[Verdict, ...]:
    sizes = [len(results.synthetic)] + ([len(results.real)] if results.real else [])
    private = [len(results.synthetic), *([len(results.train)] if results.train else [])]
    return (
        verdicts.of_realism(results.realism, sizes),
        verdicts.of_diversity(results.diversity, sizes),
        verdicts.of_obedience(results.obedience),
        verdicts.of_privacy(results.privacy, private),
        verdicts.of_bias(results.bias, results.real is not None, sizes),
        verdicts.of_use(results.use),
    )
