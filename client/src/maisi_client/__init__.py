"""Synthetic CT and MR volumes from label masks, by a MAISI Triton server.

```python
with maisi_client.Client("localhost:8001") as client:
    volume = client.generate("mask.nii.gz", modality="mri_t1", seed=7)
    volume.save("t1.nii.gz")
```
"""

from ._client import Client
from ._dataset import Outcome, make_dataset
from ._dicom import save_dicom
from ._errors import (
    InvalidRequest,
    MaisiError,
    MaskError,
    ServerError,
    ServerUnavailable,
    Timeout,
)
from ._library import Candidate, find_masks
from ._plan import Row, read_plan
from ._preview import preview
from ._tls import Tls
from ._variant import Variant
from ._volume import Progress, Volume

__all__ = [
    "Candidate",
    "Client",
    "InvalidRequest",
    "MaisiError",
    "MaskError",
    "Outcome",
    "Progress",
    "Row",
    "ServerError",
    "ServerUnavailable",
    "Timeout",
    "Tls",
    "Variant",
    "Volume",
    "find_masks",
    "make_dataset",
    "preview",
    "read_plan",
    "save_dicom",
]
