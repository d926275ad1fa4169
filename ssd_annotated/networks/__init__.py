"""Networks that no chapter builds; importing this registers them for `build` and `load_model`."""

from ssd_annotated.networks import ssdlite as ssdlite
