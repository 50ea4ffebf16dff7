# Semantic FPN on ADE20K as the MetaFormer papers train it, without a backbone.
_base_ = ['fpn.py', 'ade20k.py', 'schedule_40k.py', 'runtime.py']
