"""The corpus ``tales``: stories that this package writes.

Made text, for a first run and for looking inside a model; it is no benchmark of language. A story
is the account of a small world with state (:mod:`.world`), moved by a plot (:mod:`.plots`) and told
by a narrator (:mod:`.narrator`). Names are invented anew in each story, so continuing one takes a
look back at it.
"""
