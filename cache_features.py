"""Run SAM and CLIP once: ``python cache_features.py --config configs/cache/objects365_bl.yaml``."""

from regionspot.cli.cache import main

if __name__ == "__main__":
    main()
