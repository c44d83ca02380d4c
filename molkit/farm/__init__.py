"""Many independent calculations: on processes, Dask or a cluster, each with a file of its own, resumable.

A farm is a function, a table of tasks and a folder. `run_farm` does what is missing in the folder, through any
`concurrent.futures` executor of `molkit.farm.engines`, and survives workers and drivers that die.
"""
