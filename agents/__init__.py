"""Agents: policies for real and learned environments, learning in dreams, evaluation."""

if __name__ == "agents":
    from lssvwm.legacy import rename

    rename(__name__)
