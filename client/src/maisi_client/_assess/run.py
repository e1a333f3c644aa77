"""Run an assessment: read, describe and measure the volumes, and write the verdicts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from .._errors import InvalidRequest
from .._limits import is_whole
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

_MEASURED, _TRAINED = 0.7, 0.85  # progress after volumes are described, networks are trained


@dataclass(frozen=True)
class Results:
    """The measurements of a synthetic set; None for those that were not possible."""

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
    """The verdicts on a dataset, every number (`report`, as in `report.json`), and the page's path.

    `skipped` maps each dataset to the files that could not be read, with the reasons.
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
    of volumes that it was trained on; docs/how-to/assess.md lists which measures use which folder.
    A folder has any layout of `make_dataset`, or contains NIfTI files. `features` is the file of a
    network (TorchScript, or weights of a ResNet). With `train`, a small UNet is trained on each set
    and tested on real volumes.

    The measurements of each volume are stored in `to/.volumes`. A run that was stopped, or is
    repeated with more volumes, reads them from there. More than one of `processes` start new
    interpreters that import the program's main module: guard it with `if __name__ == "__main__"`.

    Raises `InvalidRequest` for a folder with fewer than two volumes, for CT together with MR, and
    for a file that is not a network. Raises `MaisiError` without the libraries that `features` or
    `train` needs.
    """
    if not is_whole(seed, 0):
        raise InvalidRequest(f"seed is {seed}; a whole number from 0 is expected")
    if train and real is None:
        raise InvalidRequest("--train needs --real; the networks are tested on real volumes")
    if train:
        check_libraries()
    network = Path(features) if features is not None else None
    if network:
        from .network import Network

        Network.load(network)  # report a wrong file once, not for each volume
    notify = on_progress or (lambda progress: None)
    notify(Progress("reading", 0.0))
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
        raise InvalidRequest(f"--to is '{to}', which is not a folder: {error.strerror}") from error
    records = files.describe(
        datasets,
        surveyed,
        harmony,
        network,
        cache,
        skipped,
        processes,
        lambda done: notify(Progress("describing", _MEASURED * done)),
    )
    trained = _train(datasets, records, harmony, seed, notify) if train else None
    results = _measure(datasets, records, network is not None, seed, trained, notify)
    judged = _judge(results)
    settings = {"seed": seed, "features": os.fspath(network) if network else "built-in"}
    report = numbers.document(results, judged, datasets, harmony, settings, skipped)
    page = Path(to) / "report.html"
    write_page(page, results, judged, report)
    numbers.write(Path(to) / "report.json", report)
    notify(Progress("done", 1.0))
    return Assessment(judged, report, page, skipped)


def _measure(
    datasets: Sequence[Dataset],
    records: Sequence[Mapping[str, Path]],
    network: bool,
    seed: int,
    trained: Use | None,
    notify: Callable[[Progress], None],
) -> Results:
    roles = {dataset.role: number for number, dataset in enumerate(datasets)}
    reference = roles.get("--real", roles.get("--train-set", 0))
    project = sides.projection(list(records[reference].values()), network)
    gathered = {
        role: sides.gather(role, list(records[n]), list(records[n].values()), project)
        for role, n in roles.items()
    }
    synthetic, real = gathered["SYNTHETIC"], gathered.get("--real")
    train = gathered.get("--train-set")
    names = tuple(datasets[roles[role]].label_names for role in gathered if role != "--train-set")
    steps = ("realism", "diversity", "obedience", "privacy", "bias")

    def at(name: str) -> None:
        share = steps.index(name) / len(steps)
        notify(Progress(name, _TRAINED + (0.99 - _TRAINED) * share))

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
    records: Sequence[Mapping[str, Path]],
    harmony: Harmony,
    seed: int,
    notify: Callable[[Progress], None],
) -> Use | None:
    """Train on the volumes with a record, because the others cannot be read."""
    by_role = {
        dataset.role: replace(
            dataset, items=tuple(item for item in dataset.items if item.name in paths)
        )
        for dataset, paths in zip(datasets, records, strict=True)
    }
    share = _TRAINED - _MEASURED
    return use(
        by_role["SYNTHETIC"],
        by_role["--real"],
        harmony,
        seed,
        lambda done: notify(Progress("training", _MEASURED + share * done)),
    )


def held_out(real: Side | None, train: Side) -> Side | None:
    """Return the real volumes whose bytes are not in the training set; None if too few remain."""
    if real is None:
        return None
    training_digests = {facts["sha256"]["image"] for facts in train.facts}
    kept = [
        i for i, facts in enumerate(real.facts) if facts["sha256"]["image"] not in training_digests
    ]
    return real.take(kept) if len(kept) >= files.LEAST else None


def _judge(results: Results) -> tuple[Verdict, ...]:
    sizes = [len(results.synthetic)] + ([len(results.real)] if results.real else [])
    private = [len(results.synthetic), *([len(results.train)] if results.train else [])]
    if results.privacy is not None and results.privacy.held_out:
        private.append(len(results.privacy.picture.real))
    return (
        verdicts.of_realism(results.realism, sizes),
        verdicts.of_diversity(results.diversity, sizes),
        verdicts.of_obedience(results.obedience),
        verdicts.of_privacy(results.privacy, private),
        verdicts.of_bias(results.bias, results.real is not None, sizes),
        verdicts.of_use(results.use),
    )
