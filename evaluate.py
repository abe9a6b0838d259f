"""Score heads and baselines: ``python evaluate.py --config configs/eval/lvis_gt.yaml``."""

from regionspot.cli.evaluate import main

if __name__ == "__main__":
    main()
