"""Supernets put together from views of a timm model's weights, what they cost, and any timm model as one."""
