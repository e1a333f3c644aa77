"""MAISI's labels by name, and their codes in SNOMED CT.

The ids and names up to 132 and 200 are those of the CT variants, the others those of `mini`; see
`configs/label_dict.json` and `label_dict_ctmr.json` of github.com/NVIDIA-Medtech/NV-Generate-CTMR.

The codes are those of DICOM PS3.16, as in pydicom's dictionary, where it has the structure. The
others are those of TotalSegmentator, whose classes most of MAISI's labels are:
`resources/totalsegmentator_snomed_mapping.csv` of github.com/wasserth/TotalSegmentator at 0e65a44.
A label without an exact code in either has no code.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

Code: TypeAlias = tuple[str, str]  # of SNOMED CT: its value and meaning

LEFT: Code = ("7771000", "Left")
RIGHT: Code = ("24028007", "Right")
STRUCTURE: Code = ("91723000", "Anatomical Structure")  # these are of CID 7150
_ALTERED: Code = ("49755003", "Morphologically Abnormal Structure")
# Words for lesions; most are types of CID 7159.
_LESION_NAME = re.compile(
    r"(?<![a-z])(abscess(es)?|adenomas?|aneurysms?|cancers?|carcinomas?|cysts?|o?edemas?|gliomas?"
    r"|ha?ematomas?|ha?emorrhages?|hyperintensit(y|ies)|infarct(ion)?s?|lesions?|mass(es)?"
    r"|meningiomas?|metastas[ei]s|necros[ei]s|nodules?|plaques?|stroke|thromb(us|i)|tumou?rs?)"
    r"(?![a-z])"
)
_SUBSTANCE: Code = ("91720002", "Body Substance")
_TISSUE: Code = ("85756007", "Tissue")


@dataclass(frozen=True)
class Anatomy:
    """A structure, or a lesion and the `region` that it is in.

    `side` is `LEFT`, `RIGHT` or None; it is that of the region if there is one.
    """

    type: Code
    category: Code = STRUCTURE
    region: Code | None = None
    side: Code | None = None


# Code of TotalSegmentator -> code here, where PS3.16 uses the first for another structure or has
# a more exact code.
SYNONYMS: Mapping[str, str] = {"29700009": "36765005", "68786006": "33626005"}


def category_of(name: str) -> Code:
    """Return the category, of CID 7150, of the label called `name`.

    A label without a code is a morphologically abnormal structure if its name has a word for a
    lesion, else an anatomical structure.
    """
    if anatomy := anatomy_of(name):
        return anatomy.category
    return _ALTERED if _LESION_NAME.search(name.lower()) else STRUCTURE


def anatomy_of(name: str) -> Anatomy | None:
    """Return the anatomy of the label called `name`, None if it has no code."""
    if name in _ANATOMIES:
        return _ANATOMIES[name]
    for word, side in (("left ", LEFT), ("right ", RIGHT)):
        anatomy = _ANATOMIES.get(name.removeprefix(word))
        if name.startswith(word) and anatomy:
            return Anatomy(anatomy.type, anatomy.category, anatomy.region, side)
    return None


_BRAIN: Code = ("12738006", "Brain")
_COLON: Code = ("71854001", "Colon")
_KIDNEY: Code = ("64033007", "Kidney")
_LIVER: Code = ("10200004", "Liver")
_LUNG: Code = ("39607008", "Lung")
_PANCREAS: Code = ("15776009", "Pancreas")
_BONE: Code = ("272673000", "Bone")
_WHITE_MATTER: Code = ("68523003", "Cerebral white matter")
_LESION: Code = ("52988006", "Lesion")
_NEOPLASM: Code = ("108369006", "Neoplasm")
_RIBS: tuple[Code, ...] = (
    *(("48535007", "First rib"), ("78247007", "Second rib"), ("25888004", "Third rib")),
    *(("25523003", "Fourth rib"), ("15339008", "Fifth rib"), ("59558009", "Sixth rib")),
    *(("24915002", "Seventh rib"), ("5953002", "Eighth rib"), ("22565002", "Ninth rib")),
    *(("77644006", "Tenth rib"), ("58830002", "Eleventh rib"), ("43993008", "Twelfth rib")),
)
_VERTEBRAE = {
    **{"C1": "14806007", "C2": "39976000", "C3": "113205007", "C4": "5329002", "C5": "36978003"},
    **{"C6": "36054005", "C7": "87391001", "T1": "64864005", "T2": "53733008", "T3": "1626008"},
    **{"T4": "73071006", "T5": "56401006", "T6": "45296009", "T7": "62487009", "T8": "11068009"},
    **{"T9": "82687006", "T10": "7610001", "T11": "12989004", "T12": "23215003"},
    **{"L1": "66794005", "L2": "14293000", "L3": "36470004", "L4": "11994002", "L5": "49668003"},
    **{"S1": "65985001"},
}
_STRUCTURES: Mapping[str, Code] = {
    "liver": _LIVER,
    "spleen": ("78961009", "Spleen"),
    "pancreas": _PANCREAS,
    "kidney": _KIDNEY,
    "aorta": ("15825003", "Aorta"),
    "inferior vena cava": ("64131007", "Inferior vena cava"),
    "superior vena cava": ("48345005", "Superior vena cava"),
    "adrenal gland": ("23451007", "Adrenal gland"),
    "gallbladder": ("28231008", "Gallbladder"),
    "esophagus": ("32849002", "Esophagus"),
    "stomach": ("69695003", "Stomach"),
    "duodenum": ("38848004", "Duodenum"),
    "bladder": ("89837001", "Urinary bladder"),
    "portal vein and splenic vein": ("110765007", "Portal vein and splenic vein"),
    "small bowel": ("30315005", "Small intestine"),
    "colon": _COLON,
    "lung upper lobe": ("45653009", "Upper lobe of lung"),
    "lung lower lobe": ("90572001", "Lower lobe of lung"),
    "right lung middle lobe": ("72481006", "Middle lobe of right lung"),
    "trachea": ("44567001", "Trachea"),
    "airway": ("89187006", "Airway"),
    "iliac artery": ("73634005", "Common iliac artery"),
    "iliac vena": ("46027005", "Common iliac vein"),
    "humerus": ("85050009", "Humerus"),
    "scapula": ("79601000", "Scapula"),
    "clavicula": ("51299004", "Clavicle"),
    "femur": ("71341001", "Femur"),
    "hip": ("29836001", "Hip"),
    "sacrum": ("54735007", "Sacrum"),
    "sternum": ("56873002", "Sternum"),
    "skull": ("89546000", "Skull"),
    "costal cartilages": ("50016007", "Costal cartilage"),
    "gluteus maximus": ("181674001", "Gluteus maximus muscle"),
    "gluteus medius": ("78333006", "Gluteus medius muscle"),
    "gluteus minimus": ("75297007", "Gluteus minimus muscle"),
    "autochthon": ("244849004", "Deep muscle of back"),
    "iliopsoas": ("68455001", "Iliopsoas muscle"),
    "heart": ("80891009", "Heart"),
    "left atrial appendage": ("33626005", "Left auricular appendage"),
    "brachiocephalic trunk": ("12691009", "Brachiocephalic artery"),
    "brachiocephalic vein": ("8887007", "Brachiocephalic vein"),
    "common carotid artery": ("32062004", "Common carotid artery"),
    "subclavian artery": ("36765005", "Subclavian artery"),
    "pulmonary vein": ("122972007", "Pulmonary vein"),
    "prostate": ("41216001", "Prostate"),
    "thyroid gland": ("69748006", "Thyroid gland"),
    "spinal cord": ("2748008", "Spinal cord"),
    "body": ("38266002", "Entire body"),
    "brain": _BRAIN,
    "brain stem": ("119238007", "Brain stem"),
    "3rd ventricle": ("49841001", "Third ventricle"),
    "4th ventricle": ("35918002", "Fourth ventricle"),
    "lateral ventricle": ("66720007", "Lateral ventricle"),
    "amygdala": ("4958002", "Amygdala"),
    "caudate": ("11000004", "Caudate nucleus"),
    "cerebellum exterior": ("25991003", "Cerebellar cortex"),
    "cerebellum white matter": ("33060004", "Cerebellar white matter"),
    "cerebral white matter": _WHITE_MATTER,
    "hippocampus": ("5366008", "Hippocampus"),
    "pallidum": ("14738005", "Globus pallidus"),
    "putamen": ("89278009", "Putamen"),
    "thalamus": ("42695009", "Thalamus"),
    **{f"rib {number}": code for number, code in enumerate(_RIBS, 1)},
    **{f"vertebrae {at}": (code, f"{at} vertebra") for at, code in _VERTEBRAE.items()},
}
_ANATOMIES: Mapping[str, Anatomy] = {
    **{name: Anatomy(code) for name, code in _STRUCTURES.items()},
    "cerebrospinal fluid": Anatomy(("65216001", "Cerebrospinal fluid"), _SUBSTANCE),
    "muscle": Anatomy(("71616004", "Muscle"), _TISSUE),
    "fat": Anatomy(("55603005", "Fat"), _TISSUE),
    "skin": Anatomy(("39937001", "Skin"), _TISSUE),
    "hepatic vessel": Anatomy(("59820001", "Blood vessel"), region=_LIVER),
    "lung tumor": Anatomy(_NEOPLASM, _ALTERED, _LUNG),
    "pancreatic tumor": Anatomy(_NEOPLASM, _ALTERED, _PANCREAS),
    "hepatic tumor": Anatomy(_NEOPLASM, _ALTERED, _LIVER),
    "brain tumor": Anatomy(_NEOPLASM, _ALTERED, _BRAIN),
    "colon cancer primaries": Anatomy(("86049000", "Neoplasm, Primary"), _ALTERED, _COLON),
    "kidney cyst": Anatomy(("367643001", "Cyst"), _ALTERED, _KIDNEY),
    "kidney mass": Anatomy(("4147007", "Mass"), _ALTERED, _KIDNEY),
    "white matter hyperintensity": Anatomy(_LESION, _ALTERED, _WHITE_MATTER),
    "bone lesion": Anatomy(_LESION, _ALTERED, _BONE),
}

# Without the unused ids, whose names for CT are dummies.
_NAMES = """
1 liver, 3 spleen, 4 pancreas, 5 right kidney, 6 aorta, 7 inferior vena cava,
8 right adrenal gland, 9 left adrenal gland, 10 gallbladder, 11 esophagus, 12 stomach, 13 duodenum,
14 left kidney, 15 bladder, 17 portal vein and splenic vein, 19 small bowel, 22 brain,
23 lung tumor, 24 pancreatic tumor, 25 hepatic vessel, 26 hepatic tumor, 27 colon cancer primaries,
28 left lung upper lobe, 29 left lung lower lobe, 30 right lung upper lobe,
31 right lung middle lobe, 32 right lung lower lobe, 33 vertebrae L5, 34 vertebrae L4,
35 vertebrae L3, 36 vertebrae L2, 37 vertebrae L1, 38 vertebrae T12, 39 vertebrae T11,
40 vertebrae T10, 41 vertebrae T9, 42 vertebrae T8, 43 vertebrae T7, 44 vertebrae T6,
45 vertebrae T5, 46 vertebrae T4, 47 vertebrae T3, 48 vertebrae T2, 49 vertebrae T1,
50 vertebrae C7, 51 vertebrae C6, 52 vertebrae C5, 53 vertebrae C4, 54 vertebrae C3,
55 vertebrae C2, 56 vertebrae C1, 57 trachea, 58 left iliac artery, 59 right iliac artery,
60 left iliac vena, 61 right iliac vena, 62 colon, 63 left rib 1, 64 left rib 2, 65 left rib 3,
66 left rib 4, 67 left rib 5, 68 left rib 6, 69 left rib 7, 70 left rib 8, 71 left rib 9,
72 left rib 10, 73 left rib 11, 74 left rib 12, 75 right rib 1, 76 right rib 2, 77 right rib 3,
78 right rib 4, 79 right rib 5, 80 right rib 6, 81 right rib 7, 82 right rib 8, 83 right rib 9,
84 right rib 10, 85 right rib 11, 86 right rib 12, 87 left humerus, 88 right humerus,
89 left scapula, 90 right scapula, 91 left clavicula, 92 right clavicula, 93 left femur,
94 right femur, 95 left hip, 96 right hip, 97 sacrum, 98 left gluteus maximus,
99 right gluteus maximus, 100 left gluteus medius, 101 right gluteus medius,
102 left gluteus minimus, 103 right gluteus minimus, 104 left autochthon, 105 right autochthon,
106 left iliopsoas, 107 right iliopsoas, 108 left atrial appendage, 109 brachiocephalic trunk,
110 left brachiocephalic vein, 111 right brachiocephalic vein, 112 left common carotid artery,
113 right common carotid artery, 114 costal cartilages, 115 heart, 116 left kidney cyst,
117 right kidney cyst, 118 prostate, 119 pulmonary vein, 120 skull, 121 spinal cord, 122 sternum,
123 left subclavian artery, 124 right subclavian artery, 125 superior vena cava, 126 thyroid gland,
127 vertebrae S1, 128 bone lesion, 129 kidney mass, 131 cerebrospinal fluid, 132 airway,
150 white matter hyperintensity, 156 muscle, 157 fat, 168 skin, 176 brain tumor, 200 body,
214 3rd ventricle, 215 4th ventricle, 218 right amygdala, 219 left amygdala, 220 brain stem,
221 right caudate, 222 left caudate, 223 right cerebellum exterior, 224 left cerebellum exterior,
225 right cerebellum white matter, 226 left cerebellum white matter,
227 right cerebral white matter, 228 left cerebral white matter, 229 right hippocampus,
230 left hippocampus, 233 right lateral ventricle, 234 left lateral ventricle, 235 right pallidum,
236 left pallidum, 237 right putamen, 238 left putamen, 239 right thalamus, 240 left thalamus
"""
NAMES: Mapping[int, str] = {
    int(id_): name for id_, _, name in (item.strip().partition(" ") for item in _NAMES.split(","))
}
