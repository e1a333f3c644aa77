"""DICOM: volumes as series, masks as Segmentations, and masks read from these."""
