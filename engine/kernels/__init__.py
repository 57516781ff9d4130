"""Kernels: which code multiplies by a layer's weight, chosen by device, dtype and number of rows, and why."""
