"""One file per runtime, and what else can be asked of the hardware: memory, energy, clocks."""
