"""Send DICOM files by C-STORE, DICOM's own protocol (PS3.4 annex B)."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._errors import InvalidRequest, MaisiError, ServerError, ServerUnavailable, printable
from .._transport.address import HOST
from .segmentation_writer import require_dicom
from .sending import SECONDS, Destination, stored

if TYPE_CHECKING:
    from pydicom.uid import UID
    from pynetdicom.association import Association

TITLE = "MAISI"  # AE title of the sender
_CONNECT_SECONDS = 30.0
# A title has no backslash and no control character (PS3.5 6.2, AE).
_NODE = re.compile(rf"({HOST}):([0-9]{{1,5}})/([^\\/\x00-\x1f\x7f]{{1,16}})")
_PERMANENT = 1  # PS3.8 9.3.4: the result of a permanent refusal; a retry does not help
_SYNTAX_REFUSED = 4  # PS3.8 9.3.3.2: the class is known, but not in the proposed syntax
# PS3.4 B.2.3: stored, or stored with a warning about an element. 0xA7xx means out of resources.
_STORED, _OUT_OF_RESOURCES = (0x0000, 0xB000, 0xB006, 0xB007), 0xA7


def node(address: str) -> Destination:
    """Return the DICOM node at `HOST:PORT/AET`; raises `InvalidRequest` for another form."""
    parts = _NODE.fullmatch(address)
    if parts is None or not parts[3].strip() or not 0 < int(parts[2]) < 2**16:
        raise InvalidRequest(
            f"the DICOM node is '{printable(address, 200)}'; HOST:PORT/AET is expected, with an AE"
            " title of at most 16 characters, such as pacs.example:104/ARCHIVE"
        )
    host, port, title = parts[1].strip("[]"), int(parts[2]), parts[3].strip()
    name = f"{title} at {parts[1]}:{port}"

    def send(files: Sequence[Path]) -> None:
        require_dicom("pynetdicom")
        association = _associate(name, host, port, title, files)
        try:
            _store_all(name, association, files)
        finally:
            if association.is_established:
                association.release()

    return Destination(name, send)


def send_dicom(files: Sequence[str | os.PathLike[str]], address: str) -> None:
    """Send DICOM files to the node at `HOST:PORT/AET` by C-STORE.

    Raises `InvalidRequest` if the node refuses the sender or the files, `ServerUnavailable` if it
    does not answer or the connection is lost, `ServerError` if it fails, and `MaisiError` without
    the extra `dicom`.
    """
    node(address).send([Path(file) for file in files])


def _associate(name: str, host: str, port: int, title: str, files: Sequence[Path]) -> Association:
    """Return an association for the SOP classes of the files; raises `MaisiError` on failure."""
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import ImplicitVRLittleEndian
    from pynetdicom import AE, evt

    sender = AE(TITLE)
    sender.connection_timeout = _CONNECT_SECONDS
    sender.acse_timeout = sender.dimse_timeout = sender.network_timeout = SECONDS
    heads = [read_file_meta_info(path) for path in files]
    kinds = {(head.MediaStorageSOPClassUID, head.TransferSyntaxUID) for head in heads}
    # PS3.5 10.1: the default syntax is proposed for every class, in a context of its own, so that
    # a file is converted only where its own syntax is not accepted.
    default = {(sop_class, ImplicitVRLittleEndian) for sop_class, _ in kinds}
    for sop_class, syntax in sorted(kinds | default):
        sender.add_requested_context(sop_class, syntax)
    opened: list[Any] = []
    nothing = stored(0, files)
    try:
        association = sender.associate(
            host, port, ae_title=title, evt_handlers=[(evt.EVT_CONN_OPEN, opened.append)]
        )
    except (OSError, UnicodeError) as error:  # the host name cannot be resolved
        why = printable(getattr(error, "strerror", None) or str(error), 200)
        raise ServerUnavailable(f"{name} cannot be reached: {why}; {nothing}") from error
    if association.is_rejected and (answer := association.acceptor.primitive):
        raise _refusal(answer)(
            f"{name} refuses the association with {TITLE}: {_words(answer.reason_str)}; {nothing}"
        )
    refused = _refused(association, kinds)
    if refused:
        association.abort()
        raise InvalidRequest(f"{name} does not accept {', '.join(refused)}; {nothing}")
    if not association.is_established:
        why = "closed the connection" if opened else "does not answer"
        raise ServerUnavailable(f"{name} {why}; {nothing}")
    return association


def _refused(association: Association, kinds: Iterable[tuple[UID, UID]]) -> list[str]:
    """Return names of the SOP classes that cannot be sent, with the syntax if this is the cause.

    `kinds` has the class and the transfer syntax of each file. Nothing is refused where the
    contexts were not negotiated.
    """
    from pydicom.uid import (
        DeflatedExplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
    )

    # pynetdicom converts between these. Compressed or encapsulated pixel data stays as it is.
    native = {ImplicitVRLittleEndian, ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian}
    accepted = {(c.abstract_syntax, c.transfer_syntax[0]) for c in association.accepted_contexts}
    rejected = {c.abstract_syntax: c.result for c in association.rejected_contexts}
    names = set()
    for sop_class, syntax in kinds:
        usable = native if syntax in native else {syntax}
        if sop_class not in rejected or any((sop_class, one) in accepted for one in usable):
            continue
        name = _class_name(sop_class)
        if rejected[sop_class] == _SYNTAX_REFUSED:
            syntaxes = {syntax, ImplicitVRLittleEndian} if syntax in native else {syntax}
            name += f" in {' or '.join(sorted(one.name for one in syntaxes))}"
        names.add(name)
    return sorted(names)


def _store_all(name: str, association: Association, files: Sequence[Path]) -> None:
    for number, path in enumerate(files):
        try:
            status = association.send_c_store(path).get("Status")
        except RuntimeError:  # the association has ended
            status = None
        if status is None:
            raise ServerUnavailable(f"{name} no longer answers; {stored(number, files)}")
        if status not in _STORED:
            failure = ServerUnavailable if status >> 8 == _OUT_OF_RESOURCES else ServerError
            raise failure(
                f"{name} does not store '{path.name}', with status {status:04X};"
                f" {stored(number, files)}"
            )


def _refusal(answer: Any) -> type[MaisiError]:
    return InvalidRequest if answer.result == _PERMANENT else ServerUnavailable


def _words(reason: str) -> str:
    """Return a reason of pynetdicom, such as 'Called AE title not recognised', for a sentence."""
    return printable(reason, 100).rstrip(".").lower().replace("ae title", "AE title")


def _class_name(sop_class: Any) -> str:
    # An old version of pydicom does not have this class in its dictionary.
    from .segmentation_reader import LABELMAP

    return "Label Map Segmentation Storage" if sop_class == LABELMAP else str(sop_class.name)
