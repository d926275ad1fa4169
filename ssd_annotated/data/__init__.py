"""Data sets: images with boxes, ready for training.

The graffiti digits are drawn by `graffiti` (with `layout` and `spray`). Folders of photographs are
opened by `opening`: `find` and `kinds` say what a folder is, `pairs` and `lists` which images it
has, `voc` (with `xml`) and `coco` (with `entries`) read it, as subclasses of `folder`'s class, and
`annotation` holds one image's objects. `survey` counts what is there. `augment` draws by lot what
happens to a training image, and `warp` does it.
"""
