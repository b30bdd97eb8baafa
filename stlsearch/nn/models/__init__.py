"""Networks to put Strassen-Tile layers into, written in plain PyTorch."""

from stlsearch.nn.models.t2t_vit import T2TViT, count_parameters, mac_breakdown, t2t_vit_7, t2t_vit_digits

__all__ = ["T2TViT", "count_parameters", "mac_breakdown", "t2t_vit_7", "t2t_vit_digits"]
