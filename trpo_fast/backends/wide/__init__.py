"""Products of nets that are too wide or too deep for the resident kernels: one Triton kernel a map,
in split precision on tensor cores, or cuBLAS with small kernels around it.
"""
