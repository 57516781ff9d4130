"""The bench: speed, memory and quality of recipes, measured so that anyone can read how and run it again.

`run` carries out a plan; `speed`, `quality`, `texts` and `machine` measure; `statistics` says what the numbers bear;
`results` prints them and `history` keeps them. What is asked and found are the dataclasses of engine/measurements.py.
`statistics`, `results`, `history` and `texts` need no torch, so the window may use them directly.
"""
