"""Triton kernels for compact layers on GPUs.

`language` is the only module that imports Triton; where it is missing, everything here can be imported all
the same, and `runs_on` says that nothing can be run. The kernels themselves are in modules of their own, and
what launches them beside them. With ``TRITON_INTERPRET=1``, set before Triton is imported, a CPU runs them.
"""
