"""Learning in dreams: actor and critic, imagined rollouts, where they begin, and cloning as a start."""
