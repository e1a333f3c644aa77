"""Synthetic CT and MR volumes from label masks, by a MAISI Triton server.

```python
with maisi_client.Client("localhost:8001") as client:
    volume = client.generate("mask.nii.gz", modality="mri_t1", seed=7)
    volume.save("t1.nii.gz")
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from . import aio as aio
    from ._arguments import Arguments as Arguments
    from ._arguments import MaskArguments as MaskArguments
    from ._assess.run import Assessment as Assessment
    from ._assess.run import assess as assess
    from ._client import Client as Client
    from ._datasets.cohort import Cohort as Cohort
    from ._datasets.cohort import plan_like as plan_like
    from ._datasets.dataset import Outcome as Outcome
    from ._datasets.dataset import make_dataset as make_dataset
    from ._datasets.mask_library import Candidate as Candidate
    from ._datasets.mask_library import find_masks as find_masks
    from ._datasets.plan import read_plan as read_plan
    from ._datasets.plan import write_plan as write_plan
    from ._datasets.planning import make_plan as make_plan
    from ._datasets.row import Row as Row
    from ._dicom.dataset import Study as Study
    from ._dicom.dataset import dataset_dicom as dataset_dicom
    from ._dicom.series import save_dicom as save_dicom
    from ._dicom.store import send_dicom as send_dicom
    from ._dicom.stow import stow_dicom as stow_dicom
    from ._errors import InvalidRequest as InvalidRequest
    from ._errors import MaisiError as MaisiError
    from ._errors import MaskError as MaskError
    from ._errors import Mismatch as Mismatch
    from ._errors import ServerError as ServerError
    from ._errors import ServerUnavailable as ServerUnavailable
    from ._errors import Timeout as Timeout
    from ._mask import label_image as label_image
    from ._preview import preview as preview
    from ._reproduce import reproduce as reproduce
    from ._transport.tls import Tls as Tls
    from ._variant import Variant as Variant
    from ._volume import Progress as Progress
    from ._volume import Volume as Volume

    __version__: str

# Each module is imported when a name of it is used: `maisi --help` needs no numpy.
_MODULES = {
    "aio": "aio",
    "Arguments": "_arguments",
    "Assessment": "_assess.run",
    "Candidate": "_datasets.mask_library",
    "Client": "_client",
    "Cohort": "_datasets.cohort",
    "InvalidRequest": "_errors",
    "MaisiError": "_errors",
    "MaskArguments": "_arguments",
    "MaskError": "_errors",
    "Mismatch": "_errors",
    "Outcome": "_datasets.dataset",
    "Progress": "_volume",
    "Row": "_datasets.row",
    "ServerError": "_errors",
    "ServerUnavailable": "_errors",
    "Study": "_dicom.dataset",
    "Timeout": "_errors",
    "Tls": "_transport.tls",
    "Variant": "_variant",
    "Volume": "_volume",
    "assess": "_assess.run",
    "dataset_dicom": "_dicom.dataset",
    "find_masks": "_datasets.mask_library",
    "label_image": "_mask",
    "make_dataset": "_datasets.dataset",
    "make_plan": "_datasets.planning",
    "plan_like": "_datasets.cohort",
    "preview": "_preview",
    "read_plan": "_datasets.plan",
    "reproduce": "_reproduce",
    "save_dicom": "_dicom.series",
    "send_dicom": "_dicom.store",
    "stow_dicom": "_dicom.stow",
    "write_plan": "_datasets.plan",
}
__all__ = list(_MODULES)


if not TYPE_CHECKING:  # a type checker is to refuse other names

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            value = version("maisi-client")
        elif name in _MODULES:
            module = import_module(f".{_MODULES[name]}", __name__)
            value = module if name == "aio" else getattr(module, name)
        else:
            raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
