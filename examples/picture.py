"""Find objects in a picture: python picture.py detector.onnx photo.jpg

detector.onnx comes from `ssd-annotated export MODEL --nms --out detector.onnx`. This program needs
onnxruntime, OpenCV and nothing else.
"""

import json
import sys

import cv2
import onnxruntime

detector = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(detector.get_modelmeta().custom_metadata_map["ssd_annotated"])
image = cv2.imread(sys.argv[2])
height, width = image.shape[:2]
rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
boxes, scores, labels = detector.run(None, {"images": rgb[None]})
for box, score, label in zip(boxes[0], scores[0], labels[0]):
    if score > 0.5:
        name = about["recipe"]["class_names"][label]
        print(f"{name} {score:.2f}", *(box * [width, height, width, height]).round().astype(int))
