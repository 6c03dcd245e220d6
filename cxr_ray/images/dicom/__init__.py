"""Everything that knows DICOM, and, with phantom/files.py, everything that knows pydicom."""
