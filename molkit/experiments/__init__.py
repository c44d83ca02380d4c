"""Experiments: a list of tasks and a function from one task to rows; what is stored is taken, what is missing is made.

`run` gives the rows as a pandas DataFrame that knows where they come from, `show` a table of them with that knowledge
folded below it. A room of `molkit.studies` that has `tasks`, `measure` and perhaps `AUDIT` is an experiment.
"""
