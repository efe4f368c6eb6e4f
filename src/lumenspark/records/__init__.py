"""The records: what is fastest and lowest so far, each with the folder that shows it.

``tracks`` says what is measured and when a figure holds, ``store`` reads and writes the folders,
``page`` makes docs/records.md of them, and ``rerun`` measures on this machine.
"""
