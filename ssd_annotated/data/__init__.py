"""Data sets: images with boxes, ready for training.

The graffiti digits are drawn by `graffiti` (with `layout` and `spray`). Folders of photographs are
opened by `opening`: `find` says what an argument means, `kinds` what a folder is, `items` which
image has which annotation. `voc` (with `xml`) and `coco` (with `entries`) read them, as subclasses
of `folder`'s class; `annotation` holds one image's objects, `pixels` decodes it. `survey` counts
what is there, and `fit` says which priors suit it. `augment` draws by lot what happens to a
training image, and `warp` does it.
"""
