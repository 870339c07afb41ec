"""`python -m agents COMMAND` does what `lssvwm COMMAND` does."""

from agents.commands import main

if __name__ == "__main__":
    main()
