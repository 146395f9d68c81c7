"""Vision and speech networks as operator lists, of one input; batches multiply them."""

from neardata.workloads.networks.image import mobilenet_v3_small, squeezenet_1_1, swin_t
from neardata.workloads.networks.names import network_named
from neardata.workloads.networks.network import Network, Pass, Product
from neardata.workloads.networks.speech import citrinet, conformer_ctc

__all__ = [
    "Network",
    "Pass",
    "Product",
    "citrinet",
    "conformer_ctc",
    "mobilenet_v3_small",
    "network_named",
    "squeezenet_1_1",
    "swin_t",
]
