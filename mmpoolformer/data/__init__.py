"""Data sets, samplers and checks that mmdet, mmseg and timm lack."""
