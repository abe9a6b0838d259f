"""Score heads and baselines: ``python evaluate.py --config configs/eval/lvis_gt.yaml``."""

from regionspot.cli.main import evaluate as main

if __name__ == "__main__":
    main()
