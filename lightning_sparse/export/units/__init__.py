"""Which units of a net are dead or constant, and the same net without them.

`trace` sees the net as a graph of operators; `flow` follows units through it, by what `mixing`, `slotwise`
and `moves` say of operators; `cutting` takes away what nobody needs; `smaller` does all, and compares.
"""
