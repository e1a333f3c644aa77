"""Draw the diagrams of docs/explanation/architecture.md: `scripts/write figures`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from bench.svg import box, document, line, rectangle, text

IMAGES = Path(__file__).parent / "images"
_GRAPHS = ("mini.flow,", "mini.flow_masked,", "mini.mask_flow")
_CHAINS = ("mini.mask_encoder,", "mini.vae_encoder,", "mini.vae_decoder,", "mini.mask_decoder")


def architecture() -> str:
    """Return the diagram of a deployment of `mini`: its parts and their calls, as SVG."""
    elements = [
        _group(12, 92, 160, 272, "Clients"),
        box(24, 128, 136, 84, "maisi_client", "library, studio,", "command maisi"),
        box(24, 264, 136, 76, "Other clients", "of KServe v2"),
        _group(276, 12, 556, 368, "Server: python -m server"),
        box(292, 48, 130, 34, "supervisor"),
        _group(286, 118, 536, 252, "tritonserver"),
        box(296, 156, 150, 72, "mini.stream", "endpoint: all stages", "in one model"),
        box(296, 266, 100, 72, "mini", "endpoint:", "ensemble"),
        box(422, 254, 118, 96, "Stages", "mini.condition,", "mini.sampler,", "mini.decoder"),
        _group(642, 128, 168, 232, "Networks"),
        box(650, 154, 152, 88, "One graph each", *_GRAPHS),
        box(650, 250, 152, 100, "Chains (slabs)", *_CHAINS),
        box(24, 412, 136, 40, "Checkpoints"),
        box(296, 412, 160, 40, "python -m export"),
        box(560, 412, 160, 40, "Model repository"),
        _arrow([(160, 188), (296, 188)], "gRPC,", "shared memory", at=224),
        _arrow([(160, 302), (296, 302)], "gRPC, HTTP", at=224),
        _arrow([(396, 302), (422, 302)]),
        _arrow([(446, 188), (642, 188)], "with the server's token"),
        _arrow([(540, 302), (642, 302)], "with the token"),
        _arrow([(357, 82), (357, 118)], kind="line dashed"),
        text(368, 104, "starts, probes, restarts, drains", "small"),
        _arrow([(160, 432), (296, 432)]),
        _arrow([(456, 432), (560, 432)]),
        _arrow([(640, 412), (640, 370)]),
        text(650, 400, "loads", "small"),
    ]
    return document(844, 464, "The architecture of a server and its clients", elements)


def _group(x: float, y: float, width: float, height: float, title: str) -> str:
    return "\n".join(
        [rectangle(x, y, width, height, "group"), text(x + 12, y + 22, title, "strong")]
    )


def _arrow(
    points: list[tuple[float, float]],
    above: str = "",
    below: str = "",
    at: float | None = None,
    kind: str = "line",
) -> str:
    """Return an arrow with texts above and below it, centred at x = `at` or at its middle."""
    middle = (points[0][0] + points[-1][0]) / 2 if at is None else at
    y = points[0][1]
    parts = [line(points, kind, arrow=True)]
    parts += [text(middle, y - 7, above, "small middle")] if above else []
    parts += [text(middle, y + 17, below, "small middle")] if below else []
    return "\n".join(parts)


class Message(NamedTuple):
    """An arrow from a participant to another one, or to itself for work that it does."""

    sender: int
    receiver: int
    text: str
    reply: bool = False


class Loop(NamedTuple):
    """Messages that are repeated."""

    text: str
    messages: tuple[Message, ...]


class Note(NamedTuple):
    """A remark that is drawn across the first two participants."""

    text: str


PARTICIPANTS = (
    ("Client",),
    ("Endpoint", "mini.stream"),
    ("Network", "mini.mask_encoder"),
    ("Network", "mini.flow_masked"),
    ("Network", "mini.vae_decoder"),
)
CLIENT, STREAM, ENCODER, FLOW, DECODER = range(len(PARTICIPANTS))
REQUEST: tuple[Message | Loop | Note, ...] = (
    Message(CLIENT, STREAM, "mask, modality, seed"),
    Message(STREAM, STREAM, "check and complete the request"),
    Note("A wrong request, a full queue or too little time: an error at once"),
    Loop("every second in the queue", (Message(STREAM, CLIENT, 'progress "waiting"', True),)),
    Message(STREAM, STREAM, "prepare the mask, draw the noise"),
    Message(STREAM, ENCODER, "labels"),
    Message(ENCODER, STREAM, "embedding", True),
    Loop(
        "each call of the solver",
        (
            Message(STREAM, FLOW, "latent, embedding, timestep, coefficients"),
            Message(FLOW, STREAM, "next latent, velocity", True),
            Message(STREAM, CLIENT, 'progress "sampler"', True),
        ),
    ),
    Message(STREAM, DECODER, "latent"),
    Message(DECODER, STREAM, "decoded volume", True),
    Message(STREAM, STREAM, "grey levels, crop, background, fidelity, report"),
    Message(STREAM, CLIENT, "volume, report; the mask if it has changed", True),
)
_LANES = (78, 376, 530, 672, 812)  # x of each participant
_WIDTH, _TOP = 890, 12


def request() -> str:
    """Return the diagram of a request with a mask at `mini.stream`, as SVG; time runs down."""
    rows: list[str] = []
    y = _TOP + 76.0
    for event in REQUEST:
        if isinstance(event, Loop):
            height = 30 * len(event.messages) + 32
            rows.append(rectangle(12, y - 16, _WIDTH - 24, height, "frame"))
            rows.append(text(22, y + 1, f"loop: {event.text}", "small strong halo"))
            y += 30
            for message in event.messages:
                rows.append(_message(message, y))
                y += 30
            y += 16
        elif isinstance(event, Note):
            middle = (_LANES[CLIENT] + _LANES[STREAM]) / 2
            rows.append(rectangle(middle - 206, y - 14, 412, 28, "group"))
            rows.append(text(middle, y + 4, event.text, "small middle"))
            y += 46
        else:
            rows.append(_message(event, y))
            y += 30
    lanes = [line([(x, _TOP + 44), (x, y)], "frame") for x in _LANES]
    heads = [
        box(x - 66, _TOP, 132, 44, *name) for x, name in zip(_LANES, PARTICIPANTS, strict=True)
    ]
    return document(_WIDTH, y + 12, "The course of a request with a mask", [*lanes, *heads, *rows])


def _message(message: Message, y: float) -> str:
    start, end = _LANES[message.sender], _LANES[message.receiver]
    kind = "line dashed" if message.reply else "line"
    if start == end:
        loop = [(start, y - 6.0), (start + 24.0, y - 6), (start + 24.0, y + 6), (start, y + 6.0)]
        words = text(start + 32, y + 4, message.text, "small halo")
        return "\n".join([line(loop, kind, arrow=True), words])
    words = text((start + end) / 2, y - 6, message.text, "small middle halo")
    return "\n".join([line([(start, y), (end, y)], kind, arrow=True), words])


FIGURES: dict[str, Callable[[], str]] = {"architecture.svg": architecture, "request.svg": request}

if __name__ == "__main__":
    for name, draw in FIGURES.items():
        (IMAGES / name).write_text(draw())
