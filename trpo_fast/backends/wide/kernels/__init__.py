"""The Triton kernels. Triton is imported here and nowhere else, by whoever launches.

An operand is a matrix as planes, a tuple (hi, lo, scale, stride, column, scale_stride,
scale_column): hi + lo is the matrix times a power of two that differs from tile to tile, ``scale``
undoes that, ``stride`` lies between rows, ``column`` between right-hand sides.

Numbers that only masks, counts and narrow rows need are not specialised: Triton would compile anew
for each that is one or a multiple of 16, a batch of other rows among them.
"""
