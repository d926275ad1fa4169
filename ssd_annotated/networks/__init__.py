"""Networks that no chapter builds; importing this registers them for `build` and `load_model`."""

from ssd_annotated.networks import jetson as jetson
from ssd_annotated.networks import resnet as resnet
from ssd_annotated.networks import ssdlite as ssdlite
