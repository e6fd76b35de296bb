"""`python -m bapo` is `bapo`."""

from bapo.cli import main

if __name__ == "__main__":
    main()
