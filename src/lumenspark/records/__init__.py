"""Records: the best results of each track, each with a folder of the files that document it.

``tracks`` defines what is measured and how it is compared, ``store`` reads and writes the folders,
``page`` generates docs/records.md, and ``rerun`` measures on this machine.
"""
