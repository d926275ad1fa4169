"""Find objects in front of a camera: python camera.py detector.onnx 0 (or a video file; q ends it)

detector.onnx comes from `ssd-annotated export MODEL --nms --out detector.onnx`. This program needs
onnxruntime, OpenCV and nothing else.
"""

import json
import sys

import cv2
import onnxruntime

detector = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
about = json.loads(detector.get_modelmeta().custom_metadata_map["ssd_annotated"])
camera = cv2.VideoCapture(int(sys.argv[2]) if sys.argv[2].isdigit() else sys.argv[2])
while (frame := camera.read()[1]) is not None and cv2.waitKey(1) != ord("q"):
    height, width = frame.shape[:2]
    rgb = cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
    boxes, scores, labels = detector.run(None, {"images": rgb[None]})
    for box, label in zip(boxes[scores > 0.5], labels[scores > 0.5]):
        x0, y0, x1, y1 = map(int, box * [width, height, width, height])
        cv2.rectangle(frame, (x0, y0), (x1, y1), (0, 200, 255), 2)
        name = about["recipe"]["class_names"][label]
        cv2.putText(frame, name, (x0, y0 - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 200, 255), 2)
    cv2.imshow("found", frame)
