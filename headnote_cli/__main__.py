"""`python -m headnote_cli`, the form that launchers such as `accelerate launch -m` need."""

from headnote_cli.cli.app import main

if __name__ == "__main__":
    main()
