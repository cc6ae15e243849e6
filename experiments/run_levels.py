"""Networks of several sizes with the weights of one, for budgets that change. Needs numpy and onnxruntime alone.

    levels = Levels("this folder")
    outputs, level = levels(images, budget=0.002)     # seconds; images (batch, channels, side, side), as in levels.json
    outputs, chosen = levels.cascade(images)          # where the folder has a cascade

python levels.py IMAGES.npy --budget 2ms: the class of every image, one by one.
"""

import argparse
import json
import os
from pathlib import Path
from time import perf_counter

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import numpy as np
import onnxruntime


class Levels:
    """The levels of a folder, the fastest first, all of them loaded; a call goes to one of them.

    Args:
        folder: of levels.json; default, that of this file.
        lean: no level keeps weights of its own, all read the pages of the one file. What is a slice is cut out in every
            call, which takes longer; how long is tried out here.
        certainty: share of the calls that should keep their budget, judged by the last 20.
    """

    def __init__(self, folder=Path(__file__).parent, lean=False, certainty=0.9):
        self.folder, self.certainty = Path(folder), certainty
        self.told = json.loads((self.folder / "levels.json").read_text(encoding="utf-8"))
        self.levels = self.told["levels"]
        self.side = self.told["input"]["side"]
        self.sessions = [self._open(level["file"], lean) for level in self.levels]
        self.seconds = [level["latency"]["seconds"] for level in self.levels]
        self.recent = [1.0]  # how many times longer than foretold the last calls took
        for number, session in enumerate(self.sessions):  # the first call of a session makes room for what it computes
            images = np.zeros(session.get_inputs()[0].shape, np.float32)
            took = min(self._timed(session, images) for _ in range(5))
            if lean:
                self.seconds[number] = took

    def __call__(self, images, budget=None, level=None):
        """Outputs of images (batch, channels, side, side), and the level that was asked.

        Args:
            budget: seconds; the best level that keeps it at the speed of the last calls, else the fastest.
            level: its number, instead of a budget; with neither, the best.
        """
        started = perf_counter()
        if level is None:
            level = self.choose(budget)
        outputs = self._run(self.sessions[level], images)
        self.recent = [*self.recent[-19:], (perf_counter() - started) / self.seconds[level]]
        return outputs, level

    def choose(self, budget=None):
        """The number of the level for a budget in seconds; the best without one."""
        slower = sorted(self.recent)[int(self.certainty * (len(self.recent) - 1))]
        fitting = [n for n, s in enumerate(self.seconds) if budget is None or s * slower <= budget]
        return fitting[-1] if fitting else 0

    def cascade(self, images, threshold=None):
        """Outputs of images one by one, and the level of each: the largest where the first is not sure enough.

        Args:
            threshold: of the largest share (softmax) of the first level; default, that of levels.json.
        """
        threshold = self.told["cascade"]["threshold"] if threshold is None else threshold
        answers = []
        for image in images:
            outputs, level = self(image[None], level=0)
            if confidence(outputs)[0] < threshold:
                outputs, level = self(image[None], level=len(self.levels) - 1)
            answers.append((outputs[0], level))
        return np.stack([outputs for outputs, _ in answers]), [level for _, level in answers]

    def _open(self, file, lean):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self.told["device"]["threads"], 1
        options.log_severity_level = 3
        if lean:  # no copies: neither of folded constants, nor of packed or reordered weights, nor kept working memory
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
            options.add_session_config_entry("session.disable_prepacking", "1")
            options.enable_cpu_mem_arena = False
        off = ["ConstantFolding"] if lean else []
        path, where = str(self.folder / file), ["CPUExecutionProvider"]
        return onnxruntime.InferenceSession(path, options, providers=where, disabled_optimizers=off)

    def _run(self, session, images):
        side = session.get_inputs()[0].shape[-1]
        if side != images.shape[-1]:  # made smaller as floating-point numbers, as the level was scored
            down, right = resizing(images.shape[-2], side), resizing(images.shape[-1], side)
            images = np.ascontiguousarray(down @ images @ right.T)
        return np.asarray(session.run(None, {"images": images})[0])

    def _timed(self, session, images):
        started = perf_counter()
        session.run(None, {"images": images})
        return perf_counter() - started


def confidence(outputs):
    """(n,) the largest softmax of logits (n, classes)."""
    return 1 / np.exp(outputs - outputs.max(axis=1, keepdims=True)).sum(axis=1)


def resizing(n, side):
    """What makes `side` pixels of `n`, (side, n): bilinear, antialiased."""
    scale = n / side
    middles = (np.arange(side) + 0.5) * scale
    shares = np.maximum(0, 1 - np.abs(np.arange(n) + 0.5 - middles[:, None]) / max(scale, 1))
    return (shares / shares.sum(axis=1, keepdims=True)).astype(np.float32)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("images", type=Path, help="an array (n, channels, side, side) of float32 in a .npy file")
    parser.add_argument("--budget", help="of a call, such as 2ms; without one, the best level")
    parser.add_argument("--lean", action="store_true", help="with the memory of the largest network alone")
    options = parser.parse_args()
    levels = Levels(lean=options.lean)
    budget = float(options.budget.removesuffix("ms")) / 1e3 if options.budget else None
    for image in np.load(options.images):
        outputs, level = levels(image[None], budget)
        print(f"class {np.argmax(outputs[0])} from level {level + 1} of {len(levels.levels)}")
