"""A bundle to answers, with no deep-learning framework installed."""

import os

# ONNX Runtime reports its use to its maker, and leaves a device's number in the home folder, unless told not to before
# it is first imported
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
