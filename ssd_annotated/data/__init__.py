"""Data sets: images with boxes, ready for training.

Folders of photographs are opened in three steps. `find` says what an argument means: which folder,
which of its `kinds`, which set, and so which images: by `items` for those with `xml`, by `entries`
for files in COCO's format. Each is an `annotation` that waits to be read. `folder` reads them all,
and keeps what is right of each as a `record`; `voc` and `coco` are folders by other arguments.
`pixels` decodes an image when it is asked for.

The graffiti digits are drawn by `graffiti` (with `layout` and `spray`). `survey` counts what a data
set holds, and `fit` says which priors suit it. `augment` draws by lot what happens to a training
image, and `warp` does it.
"""
