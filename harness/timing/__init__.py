"""Measured time: phases, interleaved with dense in one process, as ratios with intervals.

The protocol in short: fixed prompts and answer lengths; vision, prefill and decode apart; device
events on a GPU, the host's clock on a CPU; a warm-up for every shape; dense and every method in
turn, forwards and backwards, on the same weights; medians, and intervals of the ratio.
"""
