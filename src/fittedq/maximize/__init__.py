"""argmax_a q(s, a) over an action set, batched over states: local search, sampling, grids and a reference."""
