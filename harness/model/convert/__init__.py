"""Released research weights as folders that `--model` and `--checkpoint` read.

`frame` does the work, `registry` lists the layouts, one file each.
"""
