"""Trains the toy world's SAM and CLIP, whose weights come with the package.

Not part of the package: it runs in a clone, with ``PYTHONPATH=tools``. ``pool`` renders the scenes,
``train_sam`` and ``train_clip`` train the towers on them, and ``probes`` measures the trained CLIP.
The commands, and what they took and gave, are in ``docs/toy_world.md``.
"""
