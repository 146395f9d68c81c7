"""Links between units: what they are."""

from neardata.arch.link.link import Collective, Link
from neardata.arch.link.loader import link_names, load_link

__all__ = ["Collective", "Link", "link_names", "load_link"]
