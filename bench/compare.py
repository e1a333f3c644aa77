"""The service against its rivals, all in one run: `scripts/bench compare --upstream PATH`.

Every contender makes the same volume of the same weights, mask, spacing, noise and steps, without
guidance. In every repeat each lives once, in an order that turns: its process starts, makes a first
volume and a second one, and ends, so that one alone is in memory. The last line printed is JSON.
"""

from __future__ import annotations

import argparse
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from backends.maisi.errors import InvalidRequest
from backends.maisi.request import complete
from bench import ROOT, page, verdict
from bench import task as tasks
from bench.life import ContenderFailed, Life, live
from bench.rivals import CONTENDERS
from bench.task import Task
from bench.verdict import Result
from export import random_weights, variant

SECTION = "Against upstream"


def measure(task: Task, names: Sequence[str], repeat: int, folder: Path) -> list[Result]:
    """Let all contenders live `repeat` times; the first one that can is what others differ from."""
    lives: dict[str, list[Life]] = {name: [] for name in names}
    errors: dict[str, str] = {}
    for turn in range(repeat):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            if name in errors:
                continue
            try:
                life = live(name, task, folder)
            except ContenderFailed as error:
                errors[name] = str(error)
                say(f"{turn + 1}/{repeat} {error}")
                continue
            lives[name].append(life)
            say(f"{turn + 1}/{repeat} {name}: start {life.start:.1f} s, {_brief(life)}")
    base, results = None, []
    for name in names:
        if name in errors:
            results.append(Result(name, {}, error=errors[name]))
            continue
        image = np.load(lives[name][-1].image)
        base = image if base is None else base
        found = verdict.result(name, lives[name], task.steps)
        results.append(replace(found, difference=verdict.difference(image, base)))
    return results


def _brief(life: Life) -> str:
    return f"first {life.first['total']:.2f} s, warm {life.warm['total']:.2f} s"


def prepare(given: argparse.Namespace) -> Task:
    """Return the task, its weights and its model repository made where they are missing.

    Raises ValueError or InvalidRequest with one sentence for what cannot be compared.
    """
    unknown = [name for name in given.contenders if name not in CONTENDERS]
    if unknown:
        raise ValueError(f"contenders: {unknown[0]!r} is not one of {', '.join(CONTENDERS)}")
    if "upstream" in given.contenders and given.upstream is None:
        raise ValueError(
            "upstream: --upstream needs the folder of a checkout of NV-Generate-CTMR, or leave it "
            "out of --contenders"
        )
    if given.repeat < 1:
        raise ValueError(f"repeat: {given.repeat} is not a whole number from 1")
    device = _device(given.device)
    chosen = variant.load(given.variant)
    if "controlnet" not in chosen.networks or chosen.serving["schedule"]["kind"] != "rflow":
        raise ValueError(
            f"variant: {chosen.name} is not compared; it needs a ControlNet and rectified flow, as "
            "rflow-ct has"
        )
    if given.size < 1 or given.size % chosen.serving["size"]["multiple"]:
        raise ValueError(
            f"size: {given.size} is not a multiple of {chosen.serving['size']['multiple']}, the "
            f"sizes that {chosen.name} takes unpadded"
        )
    shipped = chosen.name == "mini" and device == "cpu"
    work = given.work / chosen.name
    target = "onnx" if device == "cpu" else given.target
    models = ROOT / "model_repository" if shipped else work / f"models-{target}"
    weights = ROOT / "export" / "checkpoints" if chosen.name == "mini" else work / "checkpoints"
    own = Path(given.variant).suffix == ".toml"
    task = Task(
        str(Path(given.variant).resolve()) if own else chosen.name,
        given.size,
        given.steps,
        device,
        str((given.checkpoints or weights).resolve()),
        str((given.repository or models).resolve()),
        target,
        str(given.upstream.resolve()) if given.upstream else "",
        given.config,
    )
    asked = {"size": np.array([given.size] * 3), "spacing": np.array(tasks.SPACING)}
    complete(chosen.parameter({}), {**asked, "steps": np.array([given.steps])})
    if given.checkpoints is None and chosen.name != "mini":
        _write_weights(chosen, weights)
    if given.repository is None and not shipped:
        _build(task, given)
    return task


def _device(asked: str) -> str:
    """Return cpu or cuda; raises ValueError for a GPU that PyTorch does not see."""
    if asked == "cpu":
        return asked
    import torch

    if torch.cuda.is_available() and shutil.which("nvidia-smi"):
        return "cuda"
    if asked == "cuda":
        raise ValueError("device: cuda needs a GPU, nvidia-smi and a PyTorch for it, none is here")
    return "cpu"


def _write_weights(chosen: variant.Variant, folder: Path) -> None:
    if all((folder / file).is_file() for file in chosen.checkpoints.values()):
        return
    say(f"writing random weights to {folder}")
    random_weights.write(chosen, folder)


def _build(task: Task, given: argparse.Namespace) -> None:
    """Have `python -m export build` make the repository, or find all of it in its cache."""
    precision = "fp32" if task.device == "cpu" else "fp16"
    command = [sys.executable, "-m", "export", "build", task.variant]
    command += ["--checkpoints", task.checkpoints, "--repository", task.repository]
    command += ["--cache", str(given.work / "cache"), "--target", task.target]
    command += ["--precision", precision]
    say(shlex.join(command[1:]))
    done = subprocess.run(command, cwd=ROOT, stdout=2)  # its words beside ours
    if done.returncode:
        raise ValueError(f"export: {task.variant} could not be built; what it said stands above")


def say(line: str) -> None:
    """Tell what goes on, on standard error."""
    print(line, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/bench compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--upstream", type=Path, metavar="PATH", help="checkout of NV-Generate-CTMR")
    add(
        "--config",
        default="config_infer.json",
        metavar="FILE",
        help="of its folder configs, for the windows it decodes in (default: %(default)s)",
    )
    add("--variant", default="rflow-ct", help="a name or a .toml file (default: %(default)s)")
    add("--size", type=int, default=128, help="voxels a side (default: %(default)s)")
    add("--steps", type=int, default=30, help="(default: %(default)s)")
    add("--repeat", type=int, default=5, help="lives of each contender (default: %(default)s)")
    add("--device", choices=("cpu", "cuda", "auto"), default="auto", help="(default: %(default)s)")
    add(
        "--target",
        choices=("tensorrt", "tensorrt-rtx"),
        default="tensorrt-rtx",
        help="what our engines are built for with --device cuda (default: %(default)s)",
    )
    add(
        "--contenders",
        type=lambda words: words.split(","),
        default=list(CONTENDERS),
        metavar="A,B",
        help=f"default: {','.join(CONTENDERS)}",
    )
    add("--checkpoints", type=Path, help="official weights (default: random ones, in --work)")
    add("--repository", type=Path, help="a model repository built of them (default: in --work)")
    add(
        "--work",
        type=Path,
        default=ROOT / "build" / "bench",
        help="where what is missing is made and kept (default: %(default)s)",
    )
    add("--write", action="store_true", help="write the section of docs/benchmarks.md")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 1 if any but torch.compile failed."""
    words = sys.argv[1:] if arguments is None else arguments
    given = _parser().parse_args(words)
    given.work = given.work.resolve()
    try:
        task = prepare(given)
    except (ValueError, FileNotFoundError, InvalidRequest) as error:
        say(f"bench: {error}")
        return 1
    logs = given.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    results = measure(task, given.contenders, given.repeat, logs)
    text = verdict.text(task, results, given.repeat)
    if given.write:
        section = f"{SECTION}: {task.variant}, {task.size}^3"
        page.write(section, shlex.join(["scripts/bench", "compare", *words]), text)
    print(text, verdict.as_json(task, results, given.repeat), sep="\n\n")
    return int(any(found.error and found.name != "compile" for found in results))


if __name__ == "__main__":
    sys.exit(main())
