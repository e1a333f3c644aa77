"""DICOM: write volumes as series and masks as Segmentations, and read both."""
