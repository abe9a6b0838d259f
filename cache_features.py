"""Run SAM and CLIP once: ``python cache_features.py --config configs/cache/objects365_bl.yaml``."""

from regionspot.cli.main import cache_features as main

if __name__ == "__main__":
    main()
