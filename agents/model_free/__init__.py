"""Learning without a world model, in dreams or for real: recurrent PPO and Stable-Baselines3."""
