"""Train the fusion head: ``python train.py fit --config configs/train/bl_stage1.yaml``."""

from regionspot.cli.main import train as main

if __name__ == "__main__":
    main()
