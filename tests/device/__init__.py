"""Placement: nothing waits for the device, and nothing is on the wrong one; tried without a device."""
