"""Synthetic CT and MR volumes from label masks, by a MAISI Triton server.

```python
with maisi_client.Client("localhost:8001") as client:
    volume = client.generate("mask.nii.gz", modality="mri_t1", seed=7)
    volume.save("t1.nii.gz")
```
"""

from . import aio
from ._arguments import Arguments, MaskArguments
from ._client import Client
from ._cohort import Cohort, plan_like
from ._dataset import Outcome, make_dataset
from ._dicom import save_dicom
from ._errors import (
    InvalidRequest,
    MaisiError,
    MaskError,
    Mismatch,
    ServerError,
    ServerUnavailable,
    Timeout,
)
from ._library import Candidate, find_masks
from ._plan import Row, read_plan, write_plan
from ._planning import make_plan
from ._preview import preview
from ._reproduce import reproduce
from ._tls import Tls
from ._variant import Variant
from ._volume import Progress, Volume

__all__ = [
    "Arguments",
    "Candidate",
    "Client",
    "Cohort",
    "InvalidRequest",
    "MaisiError",
    "MaskArguments",
    "MaskError",
    "Mismatch",
    "Outcome",
    "Progress",
    "Row",
    "ServerError",
    "ServerUnavailable",
    "Timeout",
    "Tls",
    "Variant",
    "Volume",
    "aio",
    "find_masks",
    "make_dataset",
    "make_plan",
    "plan_like",
    "preview",
    "read_plan",
    "reproduce",
    "save_dicom",
    "write_plan",
]
