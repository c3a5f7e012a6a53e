"""``python -m posattn``."""

from posattn.cli import main

if __name__ == "__main__":
    main()
