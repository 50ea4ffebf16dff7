"""What stands behind tools/train.py and tools/test.py, on mmengine's Runner.

Nothing is imported here, so that the tools answer `--help` without torch.
"""
