"""`python -m lssvwm.agents COMMAND` does what `lssvwm COMMAND` does."""

from lssvwm.agents.commands import main

if __name__ == "__main__":
    main()
