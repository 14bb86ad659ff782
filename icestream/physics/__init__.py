"""The physics of events, detector, light and reconstruction: arrays in, arrays out, no I/O."""
