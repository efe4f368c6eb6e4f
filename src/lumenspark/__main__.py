"""python -m lumenspark: the command line."""

from lumenspark.cli import main

main()
