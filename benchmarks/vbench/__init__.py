"""VBench and VBench-2.0: make the videos through running ComfyUIs, score them with the suites' packages, and compare."""
