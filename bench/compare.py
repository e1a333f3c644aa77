"""Compare the service with upstream and PyTorch: `scripts/bench compare --upstream PATH`.

Every contender makes the same volume from the same weights, spacing, noise and number of steps:
from a mask without guidance or, if the variant has no ControlNet, without a mask and with guidance.
Each repeat runs one trial of each contender, in rotating order. In a trial, the process of the
contender starts, makes two volumes and ends, so that only one contender is in memory at a time. The
last line of the output is JSON.
"""

from __future__ import annotations

import argparse
import json
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
from bench import ROOT, charts, comparison, page
from bench.comparison import ContenderResult
from bench.contenders import CONTENDERS, DEFAULT
from bench.trial import ContenderFailed, Trial, run_trial
from bench.workload import SPACING, Workload
from export import random_weights, variant

SECTION = "Against upstream"


def measure(
    workload: Workload, names: Sequence[str], repeat: int, folder: Path
) -> list[ContenderResult]:
    """Return the results of `repeat` trials of each contender.

    Differences are from the volume of the first contender that succeeds.
    """
    trials: dict[str, list[Trial]] = {name: [] for name in names}
    errors: dict[str, str] = {}
    for turn in range(repeat):
        for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
            if name in errors:
                continue
            try:
                trial = run_trial(name, workload, folder)
            except ContenderFailed as error:
                errors[name] = str(error)
                say(f"{turn + 1}/{repeat} {error}")
                continue
            trials[name].append(trial)
            say(f"{turn + 1}/{repeat} {name}: start {trial.start:.1f} s, {_brief(trial)}")
    base, results = None, []
    for name in names:
        if name in errors:
            results.append(ContenderResult(name, {}, error=errors[name]))
            continue
        image = np.load(trials[name][-1].image)
        base = image if base is None else base
        result = comparison.result(name, trials[name], workload.steps)
        results.append(replace(result, difference=comparison.difference(image, base)))
    return results


def _brief(trial: Trial) -> str:
    return f"first {trial.first['total']:.2f} s, warm {trial.warm['total']:.2f} s"


def prepare(options: argparse.Namespace) -> Workload:
    """Return the workload; create its weights and its model repository if they are missing.

    Raises ValueError or InvalidRequest, with one sentence, for options that cannot be compared.
    """
    unknown = [name for name in options.contenders if name not in CONTENDERS]
    if unknown:
        raise ValueError(f"contenders: {unknown[0]!r} is not one of {', '.join(CONTENDERS)}")
    if "upstream" in options.contenders and options.upstream is None:
        raise ValueError(
            "upstream: pass the folder of a checkout of NV-Generate-CTMR to --upstream, or leave "
            "upstream out of --contenders"
        )
    if options.repeat < 1:
        raise ValueError(f"repeat: {options.repeat} is not a whole number from 1")
    device = _device(options.device)
    if "service-bfloat16" in options.contenders and device != "cpu":
        raise ValueError(f"contenders: service-bfloat16 needs --device cpu, not {device}")
    subject = variant.load(options.variant)
    if subject.serving["schedule"]["kind"] != "rflow":
        raise ValueError(
            f"variant: {subject.name} cannot be compared; a variant with rectified flow is "
            "expected, such as rflow-ct"
        )
    if options.size < 1 or options.size % subject.serving["size"]["multiple"]:
        raise ValueError(
            f"size: {options.size} is not a multiple of {subject.serving['size']['multiple']}; "
            f"{subject.name} pads other sizes"
        )
    shipped = subject.name == "mini" and device == "cpu"
    work = options.work / subject.name
    target = "onnx" if device == "cpu" else options.target
    models = ROOT / "model_repository" if shipped else work / f"models-{target}"
    weights = ROOT / "export" / "checkpoints" if subject.name == "mini" else work / "checkpoints"
    is_file = Path(options.variant).suffix == ".toml"
    workload = Workload(
        str(Path(options.variant).resolve()) if is_file else subject.name,
        options.size,
        options.steps,
        device,
        str((options.checkpoints or weights).resolve()),
        str((options.repository or models).resolve()),
        target,
        str(options.upstream.resolve()) if options.upstream else "",
        options.config,
    )
    inputs = {"size": np.array([options.size] * 3), "spacing": np.array(SPACING)}
    complete(subject.parameter({}), {**inputs, "steps": np.array([options.steps])})
    if options.checkpoints is None and subject.name != "mini":
        _write_weights(subject, weights)
    if options.repository is None and not shipped:
        _build(workload, options)
    return workload


def _device(name: str) -> str:
    """Return `cpu` or `cuda`; raise ValueError if `name` is `cuda` and there is no usable GPU."""
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available() and shutil.which("nvidia-smi"):
        return "cuda"
    if name == "cuda":
        raise ValueError("device: cuda needs a GPU, nvidia-smi and a PyTorch with CUDA")
    return "cpu"


def _write_weights(subject: variant.Variant, folder: Path) -> None:
    if all((folder / file).is_file() for file in subject.checkpoints.values()):
        return
    say(f"writing random weights to {folder}")
    random_weights.write(subject, folder)


def _build(workload: Workload, options: argparse.Namespace) -> None:
    """Build the repository with `python -m export build`, which has a cache."""
    precision = "fp32" if workload.device == "cpu" else "fp16"
    command = [sys.executable, "-m", "export", "build", workload.variant]
    command += ["--checkpoints", workload.checkpoints, "--repository", workload.repository]
    command += ["--cache", str(options.work / "cache"), "--target", workload.target]
    command += ["--precision", precision]
    say(shlex.join(command[1:]))
    build = subprocess.run(command, cwd=ROOT, stdout=2)  # its log goes to standard error
    if build.returncode:
        raise ValueError(f"export: the build of {workload.variant} failed; its log is above")


def say(line: str) -> None:
    """Print a line of progress to standard error."""
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
        help="file in upstream's configs/ with the decoding windows (default: %(default)s)",
    )
    add("--variant", default="rflow-ct", help="name or .toml file (default: %(default)s)")
    add("--size", type=int, default=128, help="voxels per side (default: %(default)s)")
    add("--steps", type=int, default=30, help="steps of the solver (default: %(default)s)")
    add("--repeat", type=int, default=5, help="trials of each contender (default: %(default)s)")
    add("--device", choices=("cpu", "cuda", "auto"), default="auto", help="(default: %(default)s)")
    add(
        "--target",
        choices=("tensorrt", "tensorrt-rtx"),
        default="tensorrt-rtx",
        help="engine that runs our networks with --device cuda (default: %(default)s)",
    )
    add(
        "--contenders",
        type=lambda words: words.split(","),
        default=list(DEFAULT),
        metavar="A,B",
        help=f"contenders to run, of {','.join(CONTENDERS)} (default: {','.join(DEFAULT)})",
    )
    add(
        "--checkpoints",
        type=Path,
        help="folder of official weights (default: random weights in --work)",
    )
    add(
        "--repository",
        type=Path,
        help="model repository built from the weights (default: in --work)",
    )
    add(
        "--work",
        type=Path,
        default=ROOT / "build" / "bench",
        help="folder for generated weights, models and logs (default: %(default)s)",
    )
    add("--write", action="store_true", help="write the section of docs/reference/benchmarks.md")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 1 if a contender except torch.compile failed."""
    words = sys.argv[1:] if arguments is None else arguments
    options = _parser().parse_args(words)
    options.work = options.work.resolve()
    try:
        workload = prepare(options)
    except (ValueError, FileNotFoundError, InvalidRequest) as error:
        say(f"bench: {error}")
        return 1
    logs = options.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    results = measure(workload, options.contenders, options.repeat, logs)
    text = comparison.text(workload, results, options.repeat)
    numbers = comparison.as_json(workload, results, options.repeat)
    if options.write:
        section = f"{SECTION}: {workload.variant}, {workload.size}^3"
        picture = charts.write(f"compare-{numbers['variant']}-{workload.size}", numbers)
        command = shlex.join(["scripts/bench", "compare", *words])
        page.write(section, command, f"{picture}\n\n{text}")
    print(text, json.dumps(numbers), sep="\n\n")
    return int(any(result.error and result.name != "compile" for result in results))


if __name__ == "__main__":
    sys.exit(main())
