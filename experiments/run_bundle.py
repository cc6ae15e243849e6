"""python run.py IMAGE...: what the network of this folder says. Needs numpy, Pillow and onnxruntime, nothing else."""

import json
import os
import sys
from pathlib import Path

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import numpy as np
import onnxruntime
from PIL import Image, ImageOps

session = onnxruntime.InferenceSession(Path(__file__).with_name("model.onnx"), providers=["CPUExecutionProvider"])
told = {name: json.loads(text) for name, text in session.get_modelmeta().custom_metadata_map.items()}
how, classes = told["preprocessing"], told["classes"]
batch, _, side, _ = session.get_inputs()[0].shape
crop = how["crop"]

for path in sys.argv[1:]:
    image = Image.open(path)
    image = ImageOps.exif_transpose(image) if how["upright"] else image
    if image.mode.startswith("I"):  # 16 bits
        image = Image.fromarray(((np.asarray(image).astype(np.int64) + 128) // 257).astype(np.uint8))
    image = image.convert("RGBA" if image.mode in ("P", "PA") else image.mode)
    image = image.convert("L" if len(how["mean"]) == 1 else "RGB")
    scale = how["resize"] / min(image.size)
    size = [how["resize"] if edge == min(image.size) else int(edge * scale) for edge in image.size]
    image = image.resize(size, getattr(Image.Resampling, how["interpolation"].upper()))
    left, top = (round((edge - crop) / 2) for edge in image.size)
    pixels = np.asarray(image.crop((left, top, left + crop, top + crop)), np.float32).reshape(crop, crop, -1) / 255
    pixels = ((pixels - how["mean"]) / how["std"]).astype(np.float32).transpose(2, 0, 1)
    if crop != side:  # made smaller as floating-point numbers, as the network was scored
        bands = [Image.fromarray(band).resize((side, side), Image.Resampling.BILINEAR) for band in pixels]
        pixels = np.stack([np.asarray(band) for band in bands])
    images = np.stack([pixels] * (batch if isinstance(batch, int) else 1))
    logits = np.asarray(session.run(None, {"images": images})[0])[0]
    if told["task"] != "classification":
        print(path, json.dumps(logits.tolist()))
        continue
    shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-shares)[:3]
    print(path, *(f"{classes[i] if classes else i} {shares[i]:.1%}" for i in best.tolist()), sep="  ")
