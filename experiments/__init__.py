"""Recipes, the pipeline, the command line and reports: the only place where the parts meet."""

import hardware as hardware  # sets up ONNX Runtime before anything imports it
